package dataset_test

import (
	"fmt"

	"idunno/models/dataset"
)

// A batch travels as one safetensors object.
func Example() {
	set, err := dataset.MNISTTest()
	if err != nil {
		fmt.Println(err)
		return
	}
	batch, err := set.Batch(210, 100)
	if err != nil {
		fmt.Println(err)
		return
	}
	object := batch.Marshal()
	read, err := dataset.UnmarshalBatch(object)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(set.Len(), "images,", set.Batches(100), "batches")
	fmt.Println(len(object), "bytes:", read.DType, read.Shape, len(read.Y), "labels")
	// Output:
	// 21000 images, 210 batches
	// 78936 bytes: U8 [100 1 28 28] 100 labels
}

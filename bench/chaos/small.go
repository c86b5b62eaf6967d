package chaos

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"idunno/broker/wire"
	"idunno/coordinator/cluster"
	"idunno/models/onnx/encode"
)

const (
	// smallModels is what the names of models begin with that compute next to nothing.
	// Each is another file, of which the coordinator has no experience: the tasks of its
	// only job have a batch each, and their many results share durable writes.
	smallModels = "small-"
	// smallShare is one in how many jobs is of such a model, smallLeast and smallMost
	// the number of its batches.
	smallShare            = 4
	smallLeast, smallMost = 100, 200
	// smallWait bounds the storing of a model.
	smallWait = 2 * time.Second
)

// smallModel tells in which tenth of an image of 28 x 28 the brightest point is. Files
// differ by their mark.
func smallModel(mark string) []byte {
	window := []int{14, 5}
	return encode.Model{Producer: mark, In: []encode.Value{{Name: "x", Dims: []any{"n", 1, 28, 28}}}, Out: []encode.Value{{Name: "y", Dims: []any{"n", 10}}},
		Nodes: []encode.Node{{Op: "MaxPool", In: []string{"x"}, Out: []string{"p"}, Attrs: encode.Attrs{"kernel_shape": window, "strides": window}},
			{Op: "Flatten", In: []string{"p"}, Out: []string{"y"}, Attrs: encode.Attrs{"axis": 1}}}}.Bytes()
}

// sums are those of a model's batches.
func (t Truth) sums(model string) map[int]string {
	if strings.HasPrefix(model, smallModels) {
		model = smallModels
	}
	return t.Sums[model]
}

// smallDoc stores a model and makes the document of a job of many small tasks; false
// when it can't be stored at the moment.
func (l *load) smallDoc(ctx context.Context, rng *rand.Rand) (wire.JobDoc, bool) {
	name := smallModels + strconv.FormatInt(l.smalls.Add(1), 10)
	within, cancel := context.WithTimeout(ctx, smallWait)
	defer cancel()
	if _, err := cluster.StoreModel(within, l.files, name, smallModel(name)); err != nil {
		return wire.JobDoc{}, false
	}
	n := min(smallLeast+rng.IntN(smallMost-smallLeast+1), l.batches)
	from := 1 + rng.IntN(l.batches-n+1)
	return wire.JobDoc{Model: name, Data: wire.DefaultData, From: from, To: from + n - 1}, true
}

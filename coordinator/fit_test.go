package coordinator

import (
	"reflect"
	"testing"
)

func TestShapeInADescription(t *testing.T) {
	rgb := setShape{Images: 10, BatchSize: 2, Shape: []int{3, 32, 32}, DType: "U8"}
	for text, want := range map[string]setShape{
		`{"schema_version":1,"batch_size":2,"images":10,"shape":[3,32,32],"dtype":"U8","classes":["a`:         rgb,
		`{"dtype":"U8","classes":[],"objects":[{"digest":"d"}],"shape":[3,32,32],"images":10,"batch_size":2}`: rgb,
		`{"shape":[3,32,32],"dty`:    {},
		`{"shape":"x","dtype":"U8"}`: {},
		`[1]`:                        {},
		``:                           {},
		`{"schema_version":1}`:       {},
		`{"shape":[1e99],"dtype":"U8","images":1}`: {},
		"\x08\x0a\x72\x03 no description at all":   {},
	} {
		got, whole := shapeIn([]byte(text))
		if whole != (want.DType != "") || whole && !reflect.DeepEqual(got, want) {
			t.Errorf("%.40q: %+v %v, want %+v", text, got, whole, want)
		}
	}
}

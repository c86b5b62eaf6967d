package encode_test

import (
	"bytes"
	"reflect"
	"testing"

	"idunno/models/onnx"
	"idunno/models/onnx/encode"
)

func sample() encode.Model {
	return encode.Model{
		Opset: 17, IR: 8, Producer: "test", Name: "g", Metadata: [][2]string{{"a", "b"}},
		In:   []encode.Value{{Name: "x", Dims: []any{"N", 3}}, {Name: "k", DType: encode.Int64, Dims: []any{nil}}},
		Out:  []encode.Value{{Name: "y", Dims: []any{"N", 2}}},
		Init: []encode.Tensor{{Name: "w", Dims: []int64{3, 2}, Floats: []float32{1, 2, 3, 4, 5, 6}}, {Name: "i", Dims: []int64{0}, Ints: []int64{}}},
		Nodes: []encode.Node{{Name: "n", Op: "Op", Domain: "d", In: []string{"x", "", "w", "i", "k"}, Out: []string{"y"}, Attrs: encode.Attrs{
			"int": -1, "float": float32(0.5), "string": "s", "ints": []int{1, -2}, "floats": []float32{1.5}, "tensor": encode.Tensor{Ints: []int64{7}},
		}}},
	}
}

// What is written is read back.
func TestRoundTrip(t *testing.T) {
	m := sample()
	g, err := onnx.Decode(m.Bytes(), onnx.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if g.Name != "g" || g.Opsets[""] != 17 || g.Inputs[0].String() != "x float[N,3]" || g.Inputs[1].String() != "k int64[?]" || g.Outputs[0].String() != "y float[N,2]" {
		t.Errorf("graph %q, opsets %v, inputs %v, outputs %v", g.Name, g.Opsets, g.Inputs, g.Outputs)
	}
	if w := g.Initializers["w"]; !reflect.DeepEqual(w.Floats, m.Init[0].Floats) || !reflect.DeepEqual(w.Dims, []int{3, 2}) {
		t.Errorf("weights %+v", w)
	}
	n := g.Nodes[0]
	if n.Title() != `d.Op node "n"` || !reflect.DeepEqual(n.Inputs, m.Nodes[0].In) {
		t.Errorf("node %+v", n)
	}
	a := n.Attrs
	if a["int"].I != -1 || a["float"].F != 0.5 || a["string"].S != "s" || !reflect.DeepEqual(a["ints"].Ints, []int64{1, -2}) ||
		a["floats"].Floats[0] != 1.5 || a["tensor"].T.Ints[0] != 7 || len(a) != 6 {
		t.Errorf("attributes %+v", a)
	}
}

// The bytes are a function of the description, and the room for them is reckoned exactly.
func TestSameBytes(t *testing.T) {
	first := sample().Bytes()
	if len(first) != cap(first) {
		t.Errorf("%d bytes in room for %d", len(first), cap(first))
	}
	for range 20 {
		if !bytes.Equal(first, sample().Bytes()) {
			t.Fatal("the same model gave other bytes")
		}
	}
}

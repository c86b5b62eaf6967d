package encode_test

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

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

// everything uses what sample leaves out.
func everything() encode.Model {
	m := sample()
	m.Domains = map[string]int64{"d": 1, "e": 2, "a": 3}
	m.Functions = []encode.Function{{
		Name: "f", Domain: "d", In: []string{"x"}, Out: []string{"y"}, Attrs: []string{"alpha"}, Defaults: encode.Attrs{"beta": float32(1), "gamma": 2},
		Nodes: []encode.Node{{Op: "Elu", In: []string{"x"}, Out: []string{"y"}, Attrs: encode.Attrs{"alpha": encode.Ref("alpha")}}},
	}}
	m.Init = append(m.Init, encode.Tensor{Name: "u8", Dims: []int64{2}, DType: 2, Raw: []byte{1, 2}},
		encode.Tensor{Name: "far", Dims: []int64{1}, External: [][2]string{{"location", "w.bin"}}, Extra: []byte{0xa0, 0x06, 1}})
	m.Nodes = append(m.Nodes, encode.Node{Op: "If", In: []string{"c"}, Out: []string{"z"}, Attrs: encode.Attrs{
		"strings": []string{"a", "b"},
		"then_branch": encode.Graph{Out: []encode.Value{{Name: "q"}}, Init: []encode.Tensor{{Name: "q", Floats: []float32{1}}},
			Nodes: []encode.Node{{Op: "Identity", In: []string{"q"}, Out: []string{"r"}}}},
	}})
	return m
}

// The bytes are a function of the description, the room for them is reckoned exactly, and they are well-formed.
func TestSameBytes(t *testing.T) {
	first := everything().Bytes()
	if len(first) != cap(first) {
		t.Errorf("%d bytes in room for %d", len(first), cap(first))
	}
	for range 20 {
		if !bytes.Equal(first, everything().Bytes()) {
			t.Fatal("the same model gave other bytes")
		}
	}
	if got, want := fields(t, first), []protowire.Number{1, 2, 7, 8, 8, 8, 8, 14, 25}; !slices.Equal(got, want) {
		t.Errorf("fields %v, want %v", got, want)
	}
	for b := first; ; {
		num, typ, n := protowire.ConsumeTag(b)
		b = b[n:]
		if num == 7 {
			graph, _ := protowire.ConsumeBytes(b)
			if got, want := fields(t, graph), []protowire.Number{1, 1, 2, 5, 5, 5, 5, 11, 11, 12}; !slices.Equal(got, want) {
				t.Errorf("fields of the graph %v, want %v", got, want)
			}
			return
		}
		b = b[protowire.ConsumeFieldValue(num, typ, b):]
	}
}

// fields are the numbers of a message's fields.
func fields(t *testing.T, b []byte) (list []protowire.Number) {
	t.Helper()
	for len(b) > 0 {
		num, _, n := protowire.ConsumeField(b)
		if n < 0 {
			t.Fatalf("after %v: %v", list, protowire.ParseError(n))
		}
		list, b = append(list, num), b[n:]
	}
	return list
}

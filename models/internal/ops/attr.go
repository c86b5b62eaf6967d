package ops

import (
	"fmt"

	"idunno/models/onnx"
)

// attrs reads the attributes of a node and remembers which were asked for, so that one that nobody knows is an error instead of a
// wrong result.
type attrs struct {
	node *Node
	used map[string]bool
	err  error
}

func newAttrs(n *Node) *attrs { return &attrs{node: n, used: map[string]bool{}} }

func (a *attrs) get(name string, kind onnx.AttrKind) (onnx.Attr, bool) {
	a.used[name] = true
	v, ok := a.node.Attrs[name]
	if ok && v.Kind != kind {
		a.fail("attribute %q has the wrong type", name)
		return v, false
	}
	return v, ok
}

func (a *attrs) fail(format string, args ...any) {
	if a.err == nil {
		a.err = fmt.Errorf(format, args...)
	}
}

func (a *attrs) int(name string, def int64) int64 {
	if v, ok := a.get(name, onnx.AttrInt); ok {
		return v.I
	}
	return def
}

func (a *attrs) float(name string, def float32) float32 {
	if v, ok := a.get(name, onnx.AttrFloat); ok {
		return v.F
	}
	return def
}

func (a *attrs) string(name, def string) string {
	if v, ok := a.get(name, onnx.AttrString); ok {
		return v.S
	}
	return def
}

// ints returns nil when the attribute is absent.
func (a *attrs) ints(name string) []int64 {
	v, ok := a.get(name, onnx.AttrInts)
	if ok && v.Ints == nil {
		return []int64{}
	}
	return v.Ints
}

// small is ints with each value in a range, as ints.
func (a *attrs) small(name string, lo, hi int64) []int {
	var out []int
	for _, v := range a.ints(name) {
		if v < lo || v > hi {
			a.fail("attribute %q has %d, allowed are %d to %d", name, v, lo, hi)
			return nil
		}
		out = append(out, int(v))
	}
	return out
}

// ignore marks attributes that change nothing here.
func (a *attrs) ignore(names ...string) {
	for _, n := range names {
		a.used[n] = true
	}
}

func (a *attrs) done() error {
	if a.err != nil {
		return a.err
	}
	for name := range a.node.Attrs {
		if !a.used[name] {
			return fmt.Errorf("%w: attribute %q of %s", ErrUnsupported, name, a.node.Op)
		}
	}
	return nil
}

// axes reads a list of axes that is an attribute in older operator sets and input i since version since. known is false when they are an
// input whose value is not constant.
func (a *attrs) axes(since int64, i int) axesSource {
	if a.node.Opset < since {
		return axesSource{list: a.ints("axes"), input: -1}
	}
	if !a.node.present(i) {
		return axesSource{input: -1}
	}
	return axesSource{input: i}
}

// axesSource is a list of integers that stands in the model or comes with the inputs.
type axesSource struct {
	list  []int64
	input int // -1: list counts
}

func (x axesSource) of(in []*Tensor) ([]int64, error) {
	if x.input < 0 {
		return x.list, nil
	}
	t := in[x.input]
	if t == nil {
		return nil, nil
	}
	if !t.DType.IsInt() || len(t.Shape) > 1 {
		return nil, fmt.Errorf("input %d must be a list of integers", x.input)
	}
	if !t.Known() {
		return nil, ErrNeedsValues
	}
	return t.I, nil
}

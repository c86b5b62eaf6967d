package ops

import (
	"fmt"
	"math"

	"idunno/models/onnx"
)

// shapeOf gives the dimensions from start to end.
type shapeOf struct{ start, end int64 }

func buildShape(_ *Node, a *attrs) (Op, error) {
	return &shapeOf{a.int("start", 0), a.int("end", math.MaxInt64)}, nil
}

func (s *shapeOf) part(in []*Tensor) []int {
	c := cutAxis(s.start, s.end, 1, int64(len(in[0].Shape)))
	return in[0].Shape[c.first:][:c.n]
}

func (s *shapeOf) Shape(in []*Tensor, out []Spec) error {
	c := cutAxis(s.start, s.end, 1, int64(len(in[0].Shape)))
	out[0].set(onnx.Int64, c.n)
	return nil
}

// ReadsShapesOnly marks that the elements of the input are not needed.
func (s *shapeOf) ReadsShapesOnly() {}

func (s *shapeOf) Run(_ *Scratch, in, out []*Tensor) {
	for i, d := range s.part(in) {
		out[0].I[i] = int64(d)
	}
}

// constant gives a tensor of the model.
type constant struct{ t Tensor }

func buildConstant(_ *Node, a *attrs) (Op, error) {
	for _, name := range []string{"value", "value_float", "value_floats", "value_int", "value_ints"} {
		v, ok := a.node.Attrs[name]
		if !ok {
			continue
		}
		a.ignore(name)
		switch v.Kind {
		case onnx.AttrTensor:
			return &constant{FromONNX(v.T)}, nil
		case onnx.AttrFloat:
			return &constant{Tensor{DType: onnx.Float, F: []float32{v.F}}}, nil
		case onnx.AttrInt:
			return &constant{Tensor{DType: onnx.Int64, I: []int64{v.I}}}, nil
		case onnx.AttrFloats:
			return &constant{Tensor{DType: onnx.Float, Shape: []int{len(v.Floats)}, F: v.Floats}}, nil
		case onnx.AttrInts:
			return &constant{Tensor{DType: onnx.Int64, Shape: []int{len(v.Ints)}, I: v.Ints}}, nil
		}
	}
	return nil, fmt.Errorf("%w: Constant without a numeric value", ErrUnsupported)
}

// FromONNX views a constant of a model as a tensor; both share the elements.
func FromONNX(t *onnx.Tensor) Tensor {
	return Tensor{DType: t.DType, Shape: t.Dims, F: t.Floats, I: t.Ints}
}

func (c *constant) Shape(_ []*Tensor, out []Spec) error {
	out[0].set(c.t.DType, c.t.Shape...)
	return nil
}

func (c *constant) Run(_ *Scratch, _, out []*Tensor) {
	copy(out[0].F, c.t.F)
	copy(out[0].I, c.t.I)
}

// filled gives a tensor of a computed shape with one value everywhere.
type filled struct{ value Tensor }

func buildConstantOfShape(_ *Node, a *attrs) (Op, error) {
	v, ok := a.get("value", onnx.AttrTensor)
	if !ok {
		return &filled{Tensor{DType: onnx.Float, F: []float32{0}}}, nil
	}
	t := FromONNX(v.T)
	if t.Len() != 1 {
		return nil, fmt.Errorf("value has shape %v", t.Shape)
	}
	return &filled{t}, nil
}

func (f *filled) Shape(in []*Tensor, out []Spec) error {
	want, err := axesSource{input: 0}.of(in)
	if err != nil {
		return err
	}
	s, err := dims(want)
	out[0].set(f.value.DType, s...)
	return err
}

func (f *filled) Run(_ *Scratch, _, out []*Tensor) {
	for i := range out[0].F {
		out[0].F[i] = f.value.F[0]
	}
	for i := range out[0].I {
		out[0].I[i] = f.value.I[0]
	}
}

// size gives the number of elements.
type size struct{}

func (size) Shape(_ []*Tensor, out []Spec) error {
	out[0].set(onnx.Int64)
	return nil
}

// ReadsShapesOnly marks that the elements of the input are not needed.
func (size) ReadsShapesOnly() {}

func (size) Run(_ *Scratch, in, out []*Tensor) { out[0].I[0] = int64(in[0].Len()) }

// tile repeats a tensor along its dimensions.
type tile struct{}

func (tile) Shape(in []*Tensor, out []Spec) error {
	want, err := axesSource{input: 1}.of(in)
	if err != nil {
		return err
	}
	times, err := dims(want)
	if err != nil || len(times) != len(in[0].Shape) {
		return fmt.Errorf("repeats %v for shape %v", want, in[0].Shape)
	}
	out[0].set(in[0].DType)
	for i, d := range in[0].Shape {
		if d > 0 && times[i] > math.MaxInt32/d {
			return fmt.Errorf("repeats %v for shape %v", want, in[0].Shape)
		}
		out[0].Shape = append(out[0].Shape, d*times[i])
	}
	return nil
}

func (tile) Run(s *Scratch, in, out []*Tensor) {
	y, shape := out[0], in[0].Shape
	index := s.ints(len(shape))
	for at := range y.Len() {
		from := 0
		for d, i := range index {
			from = from*shape[d] + i%shape[d]
		}
		if y.F != nil {
			y.F[at] = in[0].F[from]
		} else {
			y.I[at] = in[0].I[from]
		}
		advance(index, y.Shape)
	}
}

package ops

import (
	"fmt"
	"math"
	"slices"

	"idunno/models/onnx"
)

// columns applies a function to every number of a table; it knows the column.
type columns struct {
	f     func(x float32, column int) float32
	wide  []int // lengths of per-column parameters; 1 stands for every column
	whole func(x int64, column int) int64
	same  bool // the result has the type of the input, else float
}

func (c *columns) Shape(in []*Tensor, out []Spec) error {
	t := in[0]
	if !t.DType.IsFloat() && !t.DType.IsInt() || len(t.Shape) == 0 {
		return fmt.Errorf("input %s%v, expected are rows of numbers", t.DType, t.Shape)
	}
	n := t.Shape[len(t.Shape)-1]
	for _, w := range c.wide {
		if w != 1 && w != n {
			return fmt.Errorf("rows of %d numbers and %d parameters", n, w)
		}
	}
	d := onnx.Float
	if c.same {
		d = t.DType
	}
	if c.same && t.DType.IsInt() && c.whole == nil || c.same && t.DType.IsFloat() && c.f == nil {
		return fmt.Errorf("type %s is not supported here", t.DType)
	}
	out[0].set(d, t.Shape...)
	return nil
}

func (c *columns) Cost(in []*Tensor, _ []Spec) (int64, int64) { return 2 * int64(in[0].Len()), 0 }

func (c *columns) Run(_ *Scratch, in, out []*Tensor) {
	t := in[0]
	n := t.Shape[len(t.Shape)-1]
	for i := range out[0].F {
		out[0].F[i] = c.f(number(t, i), i%n)
	}
	for i := range out[0].I {
		out[0].I[i] = c.whole(t.I[i], i%n)
	}
}

// parameter is number i of a list that may have one for all.
func parameter[T any](list []T, i int) T {
	if len(list) == 1 {
		return list[0]
	}
	return list[i]
}

// buildScaler: (x - offset) * scale.
func buildScaler(_ *Node, a *attrs) (Op, error) {
	offset, scale := a.floats("offset"), a.floats("scale")
	if len(offset) == 0 || len(scale) == 0 {
		return nil, fmt.Errorf("Scaler with %d offsets and %d scales", len(offset), len(scale))
	}
	return &columns{wide: []int{len(offset), len(scale)}, f: func(x float32, j int) float32 { return (x - parameter(offset, j)) * parameter(scale, j) }}, nil
}

func buildBinarizer(_ *Node, a *attrs) (Op, error) {
	threshold := a.float("threshold", 0)
	return &columns{f: func(x float32, _ int) float32 {
		if x > threshold {
			return 1
		}
		return 0
	}, same: true}, nil
}

// buildImputer replaces one value, which may be NaN, by that of the column.
func buildImputer(_ *Node, a *attrs) (Op, error) {
	by, old := a.floats("imputed_value_floats"), a.float("replaced_value_float", 0)
	wholeBy, wholeOld := a.ints("imputed_value_int64s"), a.int("replaced_value_int64", 0)
	if len(by) > 0 == (len(wholeBy) > 0) {
		return nil, fmt.Errorf("Imputer with %d numbers and %d integers", len(by), len(wholeBy))
	}
	if len(by) > 0 {
		return &columns{wide: []int{len(by)}, same: true, f: func(x float32, j int) float32 {
			if x == old || x != x && old != old {
				return parameter(by, j)
			}
			return x
		}}, nil
	}
	return &columns{wide: []int{len(wholeBy)}, same: true, whole: func(x int64, j int) int64 {
		if x == wholeOld {
			return parameter(wholeBy, j)
		}
		return x
	}}, nil
}

// normalizer divides each row by its norm. A row of zeros stays.
type normalizer struct{ norm string }

func buildNormalizer(_ *Node, a *attrs) (Op, error) {
	n := &normalizer{a.string("norm", "MAX")}
	if !slices.Contains([]string{"MAX", "L1", "L2"}, n.norm) {
		return nil, fmt.Errorf("norm is %q", n.norm)
	}
	return n, nil
}

func (n *normalizer) Shape(in []*Tensor, out []Spec) error {
	out[0].set(onnx.Float, in[0].Shape...)
	_, _, err := table(in[0])
	return err
}

func (n *normalizer) Cost(in []*Tensor, _ []Spec) (int64, int64) { return 3 * int64(in[0].Len()), 0 }

func (n *normalizer) Run(_ *Scratch, in, out []*Tensor) {
	rows, features, _ := table(in[0])
	for i := range rows {
		y := out[0].F[i*features:][:features]
		norm := 0.0
		for j := range y {
			y[j] = number(in[0], i*features+j)
			switch v := math.Abs(float64(y[j])); n.norm {
			case "MAX":
				norm = max(norm, v)
			case "L1":
				norm += v
			default:
				norm += v * v
			}
		}
		if n.norm == "L2" {
			norm = math.Sqrt(norm)
		}
		for j := range y {
			if norm > 0 {
				y[j] = float32(float64(y[j]) / norm)
			}
		}
	}
}

// extractor picks columns: skl2onnx turns positions into classes with it.
type extractor struct{}

func (extractor) Shape(in []*Tensor, out []Spec) error {
	x, index := in[0], in[1]
	if len(x.Shape) == 0 || !index.DType.IsInt() || !x.DType.IsFloat() && !x.DType.IsInt() {
		return fmt.Errorf("%s%v of %s%v", index.DType, index.Shape, x.DType, x.Shape)
	}
	if len(x.Shape) == 1 {
		out[0].set(x.DType, 1, index.Len())
		return nil
	}
	out[0].set(x.DType, x.Shape[:len(x.Shape)-1]...)
	out[0].Shape = append(out[0].Shape, index.Len())
	return nil
}

func (extractor) Run(_ *Scratch, in, out []*Tensor) {
	x, index, y := in[0], in[1], out[0]
	n := x.Shape[len(x.Shape)-1]
	for i := range y.Len() {
		k := index.I[i%len(index.I)]
		if k < 0 || k >= int64(n) {
			panic(fmt.Sprintf("index %d of %d columns", k, n))
		}
		from := i/len(index.I)*n + int(k)
		if y.F != nil {
			y.F[i] = x.F[from]
		} else {
			y.I[i] = x.I[from]
		}
	}
}

// labels maps numbers to numbers.
type labels struct {
	fromInt   map[int64]int // position of a value
	fromFloat map[float32]int
	nan       int // position of NaN, -1 for none
	dtype     onnx.DType
	ints      []int64 // the values; the last one is for keys that are not in the map
	floats    []float32
}

func buildLabelEncoder(_ *Node, a *attrs) (Op, error) {
	err := a.noStrings(noStrings, "keys_strings", "values_strings", "classes_strings", "keys_tensor", "values_tensor")
	if err != nil {
		return nil, err
	}
	a.ignore("default_string", "default_tensor")
	ik, fk, iv, fv := a.ints("keys_int64s"), a.floats("keys_floats"), a.ints("values_int64s"), a.floats("values_floats")
	ik, fk = keysOf(a, "keys_tensor", ik, fk)
	iv, fv = keysOf(a, "values_tensor", iv, fv)
	n := len(ik) + len(fk)
	if n == 0 || len(ik) > 0 && len(fk) > 0 || len(iv) > 0 && len(fv) > 0 || n != len(iv)+len(fv) {
		return nil, fmt.Errorf("LabelEncoder with %d keys and %d values", n, len(iv)+len(fv))
	}
	di, df := a.int("default_int64", -1), a.float("default_float", float32(math.Copysign(0, -1)))
	if v, ok := a.node.Attrs["default_tensor"]; ok && v.Kind == onnx.AttrTensor && v.T.Len() == 1 {
		if t := v.T; t.DType.IsInt() {
			di = t.Ints[0]
		} else {
			df = t.Floats[0]
		}
	}
	l := &labels{nan: -1, dtype: onnx.Int64, fromInt: map[int64]int{}, fromFloat: map[float32]int{}}
	if len(ik) == 0 {
		l.fromInt = nil
	}
	for i, k := range ik {
		l.fromInt[k] = i
	}
	for i, k := range fk {
		if k != k {
			l.nan = i
		}
		l.fromFloat[k] = i
	}
	if len(fv) > 0 {
		l.dtype, l.floats = onnx.Float, append(slices.Clone(fv), df)
	} else {
		l.ints = append(slices.Clone(iv), di)
	}
	return l, nil
}

// keysOf takes a list from a tensor where there is one.
func keysOf(a *attrs, name string, i []int64, f []float32) ([]int64, []float32) {
	if v, ok := a.node.Attrs[name]; ok && v.Kind == onnx.AttrTensor {
		return v.T.Ints, v.T.Floats
	}
	return i, f
}

func (l *labels) Shape(in []*Tensor, out []Spec) error {
	if l.fromInt != nil && !in[0].DType.IsInt() || l.fromInt == nil && !in[0].DType.IsFloat() {
		return fmt.Errorf("input %s does not have the type of the keys", in[0].DType)
	}
	out[0].set(l.dtype, in[0].Shape...)
	return nil
}

func (l *labels) position(t *Tensor, i int) int {
	unknown := max(len(l.ints), len(l.floats)) - 1
	if l.fromInt != nil {
		if k, ok := l.fromInt[t.I[i]]; ok {
			return k
		}
		return unknown
	}
	if v := t.F[i]; v != v && l.nan >= 0 {
		return l.nan
	}
	if k, ok := l.fromFloat[t.F[i]]; ok {
		return k
	}
	return unknown
}

func (l *labels) Run(_ *Scratch, in, out []*Tensor) {
	for i := range out[0].I {
		out[0].I[i] = l.ints[l.position(in[0], i)]
	}
	for i := range out[0].F {
		out[0].F[i] = l.floats[l.position(in[0], i)]
	}
}

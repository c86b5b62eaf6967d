package ops

import (
	"fmt"
	"math"

	"idunno/models/onnx"
)

// mlTable lists the operators of domain ai.onnx.ml, which stands for models of classical machine learning as skl2onnx writes them.
func mlTable() map[string]spec {
	return map[string]spec{
		"LinearRegressor":        {since: 1, in: 1, max: 1, outs: 1, build: buildLinearML(false)},
		"LinearClassifier":       {since: 1, in: 1, max: 1, outs: 2, build: buildLinearML(true)},
		"TreeEnsembleRegressor":  {since: 1, in: 1, max: 1, outs: 1, build: buildTreeRegressor},
		"TreeEnsembleClassifier": {since: 1, in: 1, max: 1, outs: 2, build: buildTreeClassifier},
		"SVMRegressor":           {since: 1, in: 1, max: 1, outs: 1, build: buildSVMRegressor},
		"SVMClassifier":          {since: 1, in: 1, max: 1, outs: 2, build: buildSVMClassifier},
		"Normalizer":             {since: 1, in: 1, max: 1, outs: 1, build: buildNormalizer},
		"Scaler":                 {since: 1, in: 1, max: 1, outs: 1, build: buildScaler},
		"Imputer":                {since: 1, in: 1, max: 1, outs: 1, build: buildImputer},
		"Binarizer":              {since: 1, in: 1, max: 1, outs: 1, build: buildBinarizer},
		"ArrayFeatureExtractor":  {since: 1, in: 2, max: 2, outs: 1, build: plain(extractor{})},
		"LabelEncoder":           {since: 2, in: 1, max: 1, outs: 1, build: buildLabelEncoder},
	}
}

// floats returns nil when the attribute is absent.
func (a *attrs) floats(name string) []float32 {
	v, _ := a.get(name, onnx.AttrFloats)
	return v.Floats
}

// noStrings refuses attributes that only mean something for strings.
func (a *attrs) noStrings(why *Reason, names ...string) error {
	for _, name := range names {
		a.used[name] = true
		if v, ok := a.node.Attrs[name]; ok && (len(v.Strings) > 0 || v.Kind == onnx.AttrTensor && v.T.DType == onnx.String) {
			return fmt.Errorf("%w: %s with the strings %q; %w", ErrUnsupported, a.node.Op, name, why)
		}
	}
	return nil
}

// table is the number of rows and features of an input: a vector is one row.
func table(t *Tensor) (rows, features int, err error) {
	switch {
	case !t.DType.IsFloat() && !t.DType.IsInt():
		return 0, 0, fmt.Errorf("type %s is not supported here", t.DType)
	case len(t.Shape) == 1:
		return 1, t.Shape[0], nil
	case len(t.Shape) == 2:
		return t.Shape[0], t.Shape[1], nil
	}
	return 0, 0, fmt.Errorf("input of shape %v, expected are rows of features", t.Shape)
}

// rowOf returns row i of a table as numbers.
func rowOf(t *Tensor, i, features int, space []float32) []float32 {
	if t.F != nil {
		return t.F[i*features:][:features]
	}
	for j := range features {
		space[j] = number(t, i*features+j)
	}
	return space[:features]
}

// linearML multiplies rows with coefficients. A classifier gives the class with the highest score, and the scores after a transformation.
type linearML struct {
	coef, intercept []float32 // [outputs, features], [outputs]
	outputs         int
	post            transform
	classes         []int64 // nil for a regressor
}

func buildLinearML(classifier bool) func(*Node, *attrs) (Op, error) {
	return func(_ *Node, a *attrs) (Op, error) {
		l := &linearML{coef: a.floats("coefficients"), intercept: a.floats("intercepts")}
		var err error
		if l.post, err = readTransform(a); err != nil {
			return nil, err
		}
		if classifier {
			a.ignore("multi_class") // training's affair
			if err := a.noStrings(noNames, "classlabels_strings"); err != nil {
				return nil, err
			}
			l.classes = a.ints("classlabels_ints")
			if l.outputs = len(l.classes); l.outputs < 2 {
				return nil, fmt.Errorf("%w: LinearClassifier with %d integer classes", ErrUnsupported, l.outputs)
			}
			if len(l.intercept) == 1 {
				return nil, fmt.Errorf("%w: LinearClassifier with one row of coefficients for two classes; export it with a row for each", ErrUnsupported)
			}
		} else {
			l.outputs = int(min(max(a.int("targets", 1), 0), math.MaxInt32))
		}
		if l.outputs < 1 || len(l.coef) == 0 || len(l.coef)%l.outputs != 0 || l.intercept != nil && len(l.intercept) != l.outputs {
			return nil, fmt.Errorf("%d coefficients and %d intercepts for %d outputs", len(l.coef), len(l.intercept), l.outputs)
		}
		return l, nil
	}
}

// scores fills the specifications of a classifier: the class of each row, and its scores.
func scores(out []Spec, rows, classes int) {
	out[0].set(onnx.Int64, rows)
	if len(out) > 1 {
		out[1].set(onnx.Float, rows, classes)
	}
}

func (l *linearML) Shape(in []*Tensor, out []Spec) error {
	rows, features, err := table(in[0])
	if err != nil {
		return err
	}
	if features != len(l.coef)/l.outputs {
		return fmt.Errorf("rows of %d features, the coefficients are for %d", features, len(l.coef)/l.outputs)
	}
	if l.classes != nil {
		scores(out, rows, l.outputs)
	} else {
		out[0].set(onnx.Float, rows, l.outputs)
	}
	return nil
}

func (l *linearML) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	return 2 * int64(in[0].Len()) * int64(l.outputs), int64(len(l.coef)/l.outputs + l.outputs)
}

func (l *linearML) Run(s *Scratch, in, out []*Tensor) {
	rows, features, _ := table(in[0])
	space, y := s.floats(0, features), s.floats(1, l.outputs)
	for i := range rows {
		x := rowOf(in[0], i, features, space)
		for k := range y {
			sum := 0.0
			for j, c := range l.coef[k*features:][:features] {
				sum += float64(c) * float64(x[j])
			}
			if l.intercept != nil {
				sum += float64(l.intercept[k])
			}
			y[k] = float32(sum)
		}
		if l.classes == nil {
			copy(out[0].F[i*l.outputs:], l.post.apply(y))
			continue
		}
		out[0].I[i] = l.classes[best(y)]
		if len(out) > 1 {
			copy(out[1].F[i*l.outputs:], l.post.apply(y))
		}
	}
}

// best is the position of the greatest element, the first of equals.
func best(y []float32) int {
	b := 0
	for i, v := range y {
		if v > y[b] {
			b = i
		}
	}
	return b
}

// transform is what is done to the scores of a row.
type transform int

const (
	asIs transform = iota
	logistic
	softmaxed
	softmaxedZero
)

func readTransform(a *attrs) (transform, error) {
	switch v := a.string("post_transform", "NONE"); v {
	case "NONE":
		return asIs, nil
	case "LOGISTIC":
		return logistic, nil
	case "SOFTMAX":
		return softmaxed, nil
	case "SOFTMAX_ZERO":
		return softmaxedZero, nil
	default:
		return 0, fmt.Errorf("%w: post_transform %q of %s", ErrUnsupported, v, a.node.Op)
	}
}

// apply transforms y in place and returns it.
func (p transform) apply(y []float32) []float32 {
	switch p {
	case logistic:
		for i, v := range y {
			y[i] = float32(sigmoid(float64(v)))
		}
	case softmaxed, softmaxedZero:
		top, sum := y[best(y)], 0.0
		for i, v := range y {
			e := math.Exp(float64(v - top))
			if p == softmaxedZero && v == 0 {
				e = 0 // what is zero stays zero
			}
			y[i] = float32(e)
			sum += e
		}
		for i := range y {
			if sum > 0 {
				y[i] = float32(float64(y[i]) / sum)
			}
		}
	}
	return y
}

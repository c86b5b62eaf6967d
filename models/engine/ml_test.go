package engine

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"idunno/models/onnx"
)

// applyIn is apply for an operator of another domain.
func applyIn(t *testing.T, domain, op string, version int64, attrs map[string]any, outputs int, in ...*Tensor) ([]*Tensor, error) {
	t.Helper()
	node := tn{Op: op, Domain: domain, Attrs: attrs}
	m := tm{Domains: map[string]int64{domain: version}, Nodes: []tn{node}}
	if domain == "" {
		m.Opset, m.Domains = version, nil
	}
	n := &m.Nodes[0]
	var args []*Tensor
	for i, x := range in {
		if x == nil {
			n.In = append(n.In, "")
			continue
		}
		v := tv{Name: fmt.Sprint("x", i), DType: int64(x.DType)}
		for _, d := range x.Shape {
			v.Dims = append(v.Dims, d)
		}
		m.In = append(m.In, v)
		n.In = append(n.In, v.Name)
		args = append(args, x)
	}
	for i := range outputs {
		n.Out = append(n.Out, fmt.Sprint("y", i))
		m.Out = append(m.Out, tv{Name: n.Out[i]})
	}
	p, err := compile(t, m, Limits{})
	if err != nil {
		return nil, err
	}
	return p.NewSession().Run(t.Context(), args)
}

type attrs = map[string]any

// two trees: the first asks x0 <= 0.5, then x1 > 2; the second asks x1 < 1. kind is "class" or "target".
func forest(kind string, ids []int, more attrs) attrs {
	a := attrs{
		"nodes_treeids": []int{0, 0, 0, 0, 0, 1, 1, 1}, "nodes_nodeids": []int{0, 1, 2, 3, 4, 0, 1, 2},
		"nodes_modes":      []string{"BRANCH_LEQ", "LEAF", "BRANCH_GT", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF"},
		"nodes_featureids": []int{0, 0, 1, 0, 0, 1, 0, 0}, "nodes_values": []float32{0.5, 0, 2, 0, 0, 1, 0, 0},
		"nodes_truenodeids": []int{1, 0, 3, 0, 0, 1, 0, 0}, "nodes_falsenodeids": []int{2, 0, 4, 0, 0, 2, 0, 0},
		"nodes_missing_value_tracks_true": []int{0, 0, 1, 0, 0, 0, 0, 0},
		"nodes_hitrates":                  []float32{1, 1, 1, 1, 1, 1, 1, 1},
		kind + "_treeids":                 []int{0, 0, 0, 1, 1}, kind + "_nodeids": []int{1, 3, 4, 1, 2},
		kind + "_ids": ids, kind + "_weights": []float32{1, 2, 4, 8, 16},
	}
	for k, v := range more {
		a[k] = v
	}
	return a
}

func sigmoid(x float64) float32 { return float32(1 / (1 + math.Exp(-x))) }

func TestMachineLearningOperatorsByHand(t *testing.T) {
	rows := floats([]int{3, 2}, 0, 0, 1, 3, 1, 1)
	nan := float32(math.NaN())
	e := func(x float64) float32 { return float32(math.Exp(x)) }
	for _, c := range []struct {
		name, op string
		version  int64
		attrs    attrs
		in       []*Tensor
		ints     []int64   // of the first output, when it is of integers
		want     []float32 // of the last output
		shape    []int
	}{
		{"regression", "LinearRegressor", 1, attrs{"coefficients": []float32{1, 2}, "intercepts": []float32{0.5}}, []*Tensor{rows}, nil, []float32{0.5, 7.5, 3.5}, []int{3, 1}},
		{"two targets", "LinearRegressor", 1, attrs{"coefficients": []float32{1, 2, 3, 4}, "targets": 2}, []*Tensor{ints([]int{1, 2}, 1, 2)}, nil, []float32{5, 11}, []int{1, 2}},
		{"classes", "LinearClassifier", 1, attrs{"coefficients": []float32{1, 0, 0, 1, 1, 1}, "intercepts": []float32{1, 0, -1}, "classlabels_ints": []int{7, 8, 9}},
			[]*Tensor{rows}, []int64{7, 8, 7}, []float32{1, 0, -1, 2, 3, 3, 2, 1, 1}, []int{3, 3}},
		{"classes by softmax", "LinearClassifier", 1, attrs{"coefficients": []float32{1, 0, 0, 1}, "classlabels_ints": []int{0, 1}, "post_transform": "SOFTMAX", "multi_class": 1},
			[]*Tensor{floats([]int{1, 2}, 1, 3)}, []int64{1}, []float32{1 / (1 + e(2)), 1 / (1 + e(-2))}, []int{1, 2}},
		{"classes by logistic", "LinearClassifier", 1, attrs{"coefficients": []float32{-1, 0, 1, 0}, "classlabels_ints": []int{0, 1}, "post_transform": "LOGISTIC"},
			[]*Tensor{floats([]int{2}, 2, 3)}, []int64{1}, []float32{sigmoid(-2), sigmoid(2)}, []int{1, 2}},
		{"tree sum", "TreeEnsembleRegressor", 1, forest("target", []int{0, 0, 0, 0, 0}, nil), []*Tensor{rows}, nil, []float32{9, 18, 20}, []int{3, 1}},
		{"tree mean", "TreeEnsembleRegressor", 1, forest("target", []int{0, 0, 0, 0, 0}, attrs{"aggregate_function": "AVERAGE", "base_values": []float32{100}}),
			[]*Tensor{rows}, nil, []float32{104.5, 109, 110}, []int{3, 1}},
		{"tree least", "TreeEnsembleRegressor", 3, forest("target", []int{0, 0, 0, 0, 0}, attrs{"aggregate_function": "MIN"}), []*Tensor{rows}, nil, []float32{1, 2, 4}, []int{3, 1}},
		{"tree most", "TreeEnsembleRegressor", 1, forest("target", []int{0, 0, 0, 0, 0}, attrs{"aggregate_function": "MAX"}), []*Tensor{rows}, nil, []float32{8, 16, 16}, []int{3, 1}},
		{"tree without a value", "TreeEnsembleRegressor", 1, forest("target", []int{0, 0, 0, 0, 0}, nil), []*Tensor{floats([]int{1, 2}, nan, nan)}, nil, []float32{18}, []int{1, 1}},
		{"tree classes", "TreeEnsembleClassifier", 1, forest("class", []int{0, 1, 2, 0, 1}, attrs{"classlabels_int64s": []int{5, 6, 7}}),
			[]*Tensor{rows}, []int64{5, 6, 6}, []float32{9, 0, 0, 0, 18, 0, 0, 16, 4}, []int{3, 3}},
		{"tree of two classes", "TreeEnsembleClassifier", 1, forest("class", []int{0, 0, 0, 0, 0}, attrs{"classlabels_int64s": []int{5, 6}, "post_transform": "LOGISTIC", "base_values": []float32{-10}}),
			[]*Tensor{rows}, []int64{5, 6, 6}, []float32{sigmoid(1), sigmoid(-1), sigmoid(-8), sigmoid(8), sigmoid(-10), sigmoid(10)}, []int{3, 2}},
		{"share of one class", "TreeEnsembleClassifier", 1, forest("class", []int{1, 1, 1, 1, 1}, attrs{"classlabels_int64s": []int{5, 6}, "class_weights": []float32{0.25, 0.5, 0, 0, 0}}),
			[]*Tensor{rows}, []int64{5, 5, 5}, []float32{0.75, 0.25, 0.5, 0.5, 1, 0}, []int{3, 2}},
		{"linear svm", "SVMRegressor", 1, attrs{"coefficients": []float32{1, 2}, "rho": []float32{-1}}, []*Tensor{rows}, nil, []float32{-1, 6, 2}, []int{3, 1}},
		{"rbf svm", "SVMRegressor", 1, attrs{"kernel_type": "RBF", "kernel_params": []float32{0.5, 0, 0}, "n_supports": 2, "support_vectors": []float32{0, 0, 1, 1},
			"coefficients": []float32{2, -1}, "rho": []float32{3}}, []*Tensor{rows}, nil, []float32{5 - e(-1), 3 + 2*e(-5) - e(-2), 2 + 2*e(-1)}, []int{3, 1}},
		{"poly svm", "SVMRegressor", 1, attrs{"kernel_type": "POLY", "kernel_params": []float32{2, 1, 3}, "n_supports": 1, "support_vectors": []float32{1, 1},
			"coefficients": []float32{1}, "rho": []float32{0}}, []*Tensor{rows}, nil, []float32{1, 729, 125}, []int{3, 1}},
		{"one class", "SVMRegressor", 1, attrs{"coefficients": []float32{1, -1}, "rho": []float32{0}, "one_class": 1}, []*Tensor{rows}, nil, []float32{-1, -1, -1}, []int{3, 1}},
		// Between the classes the decisions are x0 - x1, x0 - 2 and x1 - 2.
		{"svm of three", "SVMClassifier", 1, attrs{"classlabels_ints": []int{1, 2, 3}, "vectors_per_class": []int{1, 1, 1}, "support_vectors": []float32{1, 0, 0, 1, 0, 0},
			"coefficients": []float32{1, -1, 0, 1, 1, 0}, "rho": []float32{0, -2, -2}}, []*Tensor{rows}, []int64{3, 2, 3},
			[]float32{0, -2, -2, -2, -1, 1, 0, -1, -1}, []int{3, 3}},
		{"svm of two", "SVMClassifier", 1, attrs{"classlabels_ints": []int{1, 2}, "vectors_per_class": []int{1, 1}, "support_vectors": []float32{1, 0, 0, 1},
			"coefficients": []float32{1, -1}, "rho": []float32{0.5}}, []*Tensor{rows}, []int64{1, 2, 1}, []float32{-0.5, 0.5, 1.5, -1.5, -0.5, 0.5}, []int{3, 2}},
		{"svm with probabilities", "SVMClassifier", 1, attrs{"classlabels_ints": []int{1, 2}, "vectors_per_class": []int{1, 1}, "support_vectors": []float32{1, 0, 0, 1},
			"coefficients": []float32{1, -1}, "rho": []float32{0}, "prob_a": []float32{-2}, "prob_b": []float32{0.5}}, []*Tensor{floats([]int{1, 2}, 3, 2)},
			[]int64{1}, []float32{sigmoid(1.5), sigmoid(-1.5)}, []int{1, 2}},
		{"L2 rows", "Normalizer", 1, attrs{"norm": "L2"}, []*Tensor{floats([]int{2, 2}, 3, -4, 0, 0)}, nil, []float32{0.6, -0.8, 0, 0}, []int{2, 2}},
		{"L1 rows", "Normalizer", 1, attrs{"norm": "L1"}, []*Tensor{ints([]int{1, 2}, 1, -3)}, nil, []float32{0.25, -0.75}, []int{1, 2}},
		{"rows by maximum", "Normalizer", 1, nil, []*Tensor{floats([]int{1, 2}, 2, -4)}, nil, []float32{0.5, -1}, []int{1, 2}},
		{"scaler", "Scaler", 1, attrs{"offset": []float32{1}, "scale": []float32{2, 3}}, []*Tensor{rows}, nil, []float32{-2, -3, 0, 6, 0, 0}, []int{3, 2}},
		{"imputer", "Imputer", 1, attrs{"imputed_value_floats": []float32{8, 9}, "replaced_value_float": nan}, []*Tensor{floats([]int{2, 2}, nan, 1, 2, nan)}, nil, []float32{8, 1, 2, 9}, []int{2, 2}},
		{"whole imputer", "Imputer", 1, attrs{"imputed_value_int64s": []int{8}, "replaced_value_int64": 3}, []*Tensor{ints([]int{1, 2}, 3, 4)}, []int64{8, 4}, nil, []int{1, 2}},
		{"binarizer", "Binarizer", 1, attrs{"threshold": float32(1)}, []*Tensor{rows}, nil, []float32{0, 0, 0, 1, 0, 0}, []int{3, 2}},
		{"columns", "ArrayFeatureExtractor", 1, nil, []*Tensor{rows, ints([]int{1}, 1)}, nil, []float32{0, 3, 1}, []int{3, 1}},
		{"classes by position", "ArrayFeatureExtractor", 1, nil, []*Tensor{ints([]int{3}, 10, 20, 30), ints([]int{2}, 2, 0)}, []int64{30, 10}, nil, []int{1, 2}},
		{"labels", "LabelEncoder", 2, attrs{"keys_int64s": []int{1, 2}, "values_floats": []float32{0.5, 1.5}, "default_float": float32(9)}, []*Tensor{ints([]int{3}, 2, 1, 7)}, nil, []float32{1.5, 0.5, 9}, []int{3}},
		{"labels of numbers", "LabelEncoder", 4, attrs{"keys_tensor": tt{Dims: []int64{2}, Floats: []float32{0.5, nan}}, "values_tensor": tt{Dims: []int64{2}, Ints: []int64{4, 5}},
			"default_tensor": tt{Dims: []int64{1}, Ints: []int64{-7}}}, []*Tensor{floats([]int{3}, nan, 0.5, 1)}, []int64{5, 4, -7}, nil, []int{3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			outputs := 1
			if c.ints != nil && c.want != nil {
				outputs = 2
			}
			out, err := applyIn(t, "ai.onnx.ml", c.op, c.version, c.attrs, outputs, c.in...)
			if err != nil {
				t.Fatal(err)
			}
			last := out[len(out)-1]
			if !slices.Equal(out[0].I, c.ints) || !near(last.F, c.want) || !slices.Equal(last.Shape, c.shape) {
				t.Errorf("%v %v%v, want %v %v%v", out[0].I, last.Shape, last.F, c.ints, c.shape, c.want)
			}
		})
	}
}

// Three classes with pairwise probabilities that agree with each other: coupling must find the probabilities they come from.
func TestPairwiseCoupling(t *testing.T) {
	want := []float64{0.5, 0.3, 0.2}
	var b []float32
	for i := range want {
		for j := i + 1; j < 3; j++ {
			b = append(b, float32(math.Log(want[j]/want[i]))) // 1/(1+exp(b)) is p_i/(p_i+p_j)
		}
	}
	out, err := applyIn(t, "ai.onnx.ml", "SVMClassifier", 1, attrs{"classlabels_ints": []int{1, 2, 3}, "vectors_per_class": []int{1, 1, 1}, "support_vectors": []float32{1, 0, 0},
		"coefficients": []float32{0, 0, 0, 0, 0, 0}, "rho": []float32{1, 1, 1}, "prob_a": []float32{0, 0, 0}, "prob_b": b}, 2, floats([]int{1, 1}, 1))
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range out[1].F {
		if math.Abs(float64(p)-want[i]) > 2e-3 {
			t.Errorf("probabilities are %v, want %v", out[1].F, want)
		}
	}
	if out[0].I[0] != 1 {
		t.Errorf("class is %d", out[0].I[0])
	}
}

func TestMachineLearningOperatorsRefuse(t *testing.T) {
	rows := floats([]int{1, 2}, 1, 2)
	with := func(a attrs, k string, v any) attrs { a[k] = v; return a }
	for name, c := range map[string]struct {
		op    string
		attrs attrs
		want  error
		text  string
	}{
		"zipmap":         {"ZipMap", attrs{"classlabels_int64s": []int{0, 1}}, ErrUnsupported, "zipmap=False"},
		"named classes":  {"LinearClassifier", attrs{"classlabels_strings": []string{"a", "b"}, "coefficients": []float32{1, 2, 3, 4}}, ErrUnsupported, "integers as classes"},
		"named in trees": {"TreeEnsembleClassifier", forest("class", []int{0, 0, 0, 0, 0}, attrs{"classlabels_strings": []string{"a", "b"}}), ErrUnsupported, "integers as classes"},
		"probit":         {"LinearRegressor", attrs{"coefficients": []float32{1, 2}, "post_transform": "PROBIT"}, ErrUnsupported, `post_transform "PROBIT"`},
		"coefficients":   {"LinearRegressor", attrs{"coefficients": []float32{1, 2, 3}, "targets": 2}, nil, "3 coefficients"},
		"features":       {"LinearRegressor", attrs{"coefficients": []float32{1, 2, 3}}, nil, "rows of 2 features"},
		"tree cycle":     {"TreeEnsembleRegressor", with(forest("target", []int{0, 0, 0, 0, 0}, nil), "nodes_truenodeids", []int{1, 0, 0, 0, 0, 1, 0, 0}), nil, "root"},
		"two parents":    {"TreeEnsembleRegressor", with(forest("target", []int{0, 0, 0, 0, 0}, nil), "nodes_truenodeids", []int{2, 0, 3, 0, 0, 1, 0, 0}), nil, "two parents"},
		"lost child":     {"TreeEnsembleRegressor", with(forest("target", []int{0, 0, 0, 0, 0}, nil), "nodes_truenodeids", []int{9, 0, 3, 0, 0, 1, 0, 0}), nil, "leads to 9"},
		"short list":     {"TreeEnsembleRegressor", with(forest("target", []int{0, 0, 0, 0, 0}, nil), "nodes_values", []float32{1}), nil, "lists of"},
		"tree feature":   {"TreeEnsembleRegressor", with(forest("target", []int{0, 0, 0, 0, 0}, nil), "nodes_featureids", []int{0, 0, 2, 0, 0, 1, 0, 0}), nil, "ask for number 2"},
		"tree output":    {"TreeEnsembleRegressor", forest("target", []int{0, 1, 0, 0, 0}, nil), nil, "output 1 of 1"},
		"tree mode":      {"TreeEnsembleRegressor", with(forest("target", []int{0, 0, 0, 0, 0}, nil), "nodes_modes", []string{"BRANCH_MEMBER", "LEAF", "BRANCH_GT", "LEAF", "LEAF", "BRANCH_LT", "LEAF", "LEAF"}), ErrUnsupported, "BRANCH_MEMBER"},
		"svm vectors":    {"SVMClassifier", attrs{"classlabels_ints": []int{1, 2}, "coefficients": []float32{1, 2}}, ErrUnsupported, "vectors"},
		"svm kernel":     {"SVMRegressor", attrs{"kernel_type": "TANH"}, ErrUnsupported, `"TANH"`},
		"negative svm":   {"SVMClassifier", attrs{"classlabels_ints": []int{1, 2}, "vectors_per_class": []int{-1, 2}}, nil, "-1"},
		"norm":           {"Normalizer", attrs{"norm": "L3"}, nil, `"L3"`},
		"string labels":  {"LabelEncoder", attrs{"keys_strings": []string{"a"}, "values_int64s": []int{1}}, ErrUnsupported, "strings"},
	} {
		outputs := 1
		if strings.HasSuffix(c.op, "Classifier") {
			outputs = 2
		}
		_, err := applyIn(t, "ai.onnx.ml", c.op, 2, c.attrs, outputs, rows)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: error is %v, want %q", name, err, c.text)
		}
	}
}

func TestContributedOperatorsByHand(t *testing.T) {
	x := floats([]int{2, 2}, 1, -1, 3, 1)
	gelu := func(x float64) float32 { return float32(x * (1 + math.Erf(x/math.Sqrt2)) / 2) }
	fast := func(x float64) float32 {
		return float32(x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))) / 2)
	}
	one := float32(1 / math.Sqrt(1+1e-12))
	for _, c := range []struct {
		domain, op string
		version    int64
		attrs      attrs
		in         []*Tensor
		want       []float32
	}{
		{"com.microsoft", "Gelu", 1, nil, []*Tensor{x}, []float32{gelu(1), gelu(-1), gelu(3), gelu(1)}},
		{"com.microsoft", "BiasGelu", 1, nil, []*Tensor{x, floats([]int{2}, 1, 0)}, []float32{gelu(2), gelu(-1), gelu(4), gelu(1)}},
		{"com.microsoft", "FastGelu", 1, nil, []*Tensor{x}, []float32{fast(1), fast(-1), fast(3), fast(1)}},
		{"com.microsoft", "FastGelu", 1, nil, []*Tensor{x, floats([]int{2}, 1, 0)}, []float32{fast(2), fast(-1), fast(4), fast(1)}},
		{"com.microsoft", "QuickGelu", 1, attrs{"alpha": float32(2)}, []*Tensor{x}, []float32{sigmoid(2), -sigmoid(-2), 3 * sigmoid(6), sigmoid(2)}},
		{"com.microsoft", "FusedMatMul", 1, attrs{"alpha": float32(0.5), "transA": 1}, []*Tensor{x, x}, []float32{5, 1, 1, 1}},
		{"com.microsoft", "FusedMatMul", 1, attrs{"transB": 1}, []*Tensor{floats([]int{2, 1, 2}, 1, 0, 0, 1), x}, []float32{1, 3, -1, 1}},
		{"com.microsoft", "SkipLayerNormalization", 1, nil, []*Tensor{x, x, floats([]int{2}, 1, 2), floats([]int{2}, 0, 5)}, []float32{one, 5 - 2*one, one, 5 - 2*one}},
		{"com.microsoft", "SkipLayerNormalization", 1, nil, []*Tensor{x, floats([]int{2, 2}, 0, 0, 0, 0), floats([]int{2}, 1, 2), nil, floats([]int{2}, 0, 4)}, []float32{-one, 2 * one, -one, 2 * one}},
		{"com.microsoft", "SkipSimplifiedLayerNormalization", 1, attrs{"epsilon": float32(0)}, []*Tensor{x, x, floats([]int{2}, 1, 2)},
			[]float32{1, -2, 6 / float32(math.Sqrt(20)), 4 / float32(math.Sqrt(20))}},
		{"", "RMSNormalization", 23, attrs{"epsilon": float32(0)}, []*Tensor{x, floats([]int{2}, 1, 2)}, []float32{1, -2, 3 / float32(math.Sqrt(5)), 2 / float32(math.Sqrt(5))}},
		{"", "SimplifiedLayerNormalization", 17, attrs{"epsilon": float32(0), "axis": 0, "stash_type": 1}, []*Tensor{x, floats([]int{2, 2}, 1, 1, 1, 1)},
			[]float32{1 / float32(math.Sqrt(3)), -1 / float32(math.Sqrt(3)), 3 / float32(math.Sqrt(3)), 1 / float32(math.Sqrt(3))}},
	} {
		out, err := applyIn(t, c.domain, c.op, c.version, c.attrs, 1, c.in...)
		if err != nil {
			t.Errorf("%s: %v", c.op, err)
			continue
		}
		if !near(out[0].F, c.want) {
			t.Errorf("%s: %v, want %v", c.op, out[0].F, c.want)
		}
	}
	if _, err := applyIn(t, "com.microsoft", "Gelu", 2, nil, 1, x); !errors.Is(err, ErrUnsupported) {
		t.Errorf("a version nobody has seen is accepted: %v", err)
	}
}

// attend is attention in plain loops over [images][heads][rows][size].
func attend(q, k, v *Tensor, group int, seen func(i, j int) float64) []float32 {
	var out []float32
	n, h, rows, d := q.Shape[0], q.Shape[1], q.Shape[2], q.Shape[3]
	keys, dv, kh := k.Shape[2], v.Shape[3], k.Shape[1]
	for b := range n {
		for head := range h {
			kv := b*kh + head/group
			for i := range rows {
				w, sum := make([]float64, keys), 0.0
				for j := range keys {
					dot := 0.0
					for c := range d {
						dot += float64(q.F[((b*h+head)*rows+i)*d+c]) * float64(k.F[(kv*keys+j)*d+c])
					}
					w[j] = math.Exp(dot/math.Sqrt(float64(d)) + seen(i, j))
					sum += w[j]
				}
				for c := range dv {
					y := 0.0
					for j := range keys {
						y += w[j] / sum * float64(v.F[(kv*keys+j)*dv+c])
					}
					out = append(out, float32(y))
				}
			}
		}
	}
	return out
}

// swapped exchanges dimensions 1 and 2 of four and joins the last two.
func swapped(t *Tensor) *Tensor {
	a, b, c, d := t.Shape[0], t.Shape[1], t.Shape[2], t.Shape[3]
	out := &Tensor{DType: onnx.Float, Shape: []int{a, c, b * d}}
	for i := range a {
		for k := range c {
			for j := range b {
				out.F = append(out.F, t.F[((i*b+j)*c+k)*d:][:d]...)
			}
		}
	}
	return out
}

func TestAttention(t *testing.T) {
	fill := func(shape ...int) *Tensor {
		x := &Tensor{DType: onnx.Float, Shape: shape}
		for i := range x.Len() {
			x.F = append(x.F, float32((i*7+shape[3])%11)/5-1)
		}
		return x
	}
	q, k, v := fill(2, 4, 3, 5), fill(2, 2, 3, 5), fill(2, 2, 3, 6)
	all := func(int, int) float64 { return 0 }
	causal := func(i, j int) float64 {
		if j > i {
			return math.Inf(-1)
		}
		return 0
	}
	for name, c := range map[string]struct {
		attrs attrs
		mask  *Tensor
		seen  func(i, j int) float64
	}{
		"plain":  {nil, nil, all},
		"causal": {attrs{"is_causal": 1}, nil, causal},
		"added":  {nil, floats([]int{1, 3}, 0, 1, -2), func(_, j int) float64 { return []float64{0, 1, -2}[j] }},
		"hidden": {nil, &Tensor{DType: onnx.Bool, Shape: []int{3, 3}, I: []int64{1, 0, 0, 1, 1, 0, 1, 1, 1}}, causal},
	} {
		in := []*Tensor{q, k, v}
		if c.mask != nil {
			in = append(in, c.mask)
		}
		want := attend(q, k, v, 2, c.seen)
		out, err := applyIn(t, "", "Attention", 23, c.attrs, 1, in...)
		if err != nil || !near(out[0].F, want) || !slices.Equal(out[0].Shape, []int{2, 4, 3, 6}) {
			t.Errorf("%s: %v", name, err)
		}
		flat := attrs{"q_num_heads": 4, "kv_num_heads": 2}
		for k, v := range c.attrs {
			flat[k] = v
		}
		in[0], in[1], in[2] = swapped(q), swapped(k), swapped(v)
		out, err = applyIn(t, "", "Attention", 23, flat, 1, in...)
		if err != nil || !near(out[0].F, swapped(&Tensor{Shape: []int{2, 4, 3, 6}, F: want}).F) || !slices.Equal(out[0].Shape, []int{2, 3, 24}) {
			t.Errorf("%s, heads side by side: %v", name, err)
		}
	}
	if _, err := applyIn(t, "", "Attention", 23, nil, 1, q, fill(2, 3, 3, 5), fill(2, 3, 3, 5)); err == nil {
		t.Error("three heads of keys serve four of queries")
	}
}

package ops

import (
	"fmt"
	"math"

	"idunno/models/onnx"
)

// trees is a set of decision trees. Every row of the input takes one way through each; the weights of the leaves it reaches are combined.
type trees struct {
	roots   []int32
	nodes   []treeNode
	weights []treeWeight // of the leaves, those of one leaf together
	depth   int          // of the deepest tree
	feature int          // the greatest feature that is asked for
	base    []float32
	outputs int
	combine string // SUM, AVERAGE, MIN, MAX
	post    transform
	classes []int64 // nil for a regressor
	binary  bool    // the weights are all of one class of two
}

// treeNode is a question, or a leaf, which has its weights from first to end.
type treeNode struct {
	mode       treeMode
	missing    bool // NaN takes the way of "true"
	feature    int
	value      float32
	yes, no    int32
	first, end int32
}

type treeMode int

const (
	leaf treeMode = iota
	leq
	less
	gte
	greater
	equal
	unequal
)

type treeWeight struct {
	output int
	weight float32
}

func buildTreeClassifier(_ *Node, a *attrs) (Op, error) {
	if err := a.noStrings(noNames, "classlabels_strings"); err != nil {
		return nil, err
	}
	t := &trees{combine: "SUM", classes: a.ints("classlabels_int64s")}
	if t.outputs = len(t.classes); t.outputs < 2 {
		return nil, fmt.Errorf("%w: TreeEnsembleClassifier with %d integer classes", ErrUnsupported, t.outputs)
	}
	if err := t.read(a, "class"); err != nil {
		return nil, err
	}
	t.binary = t.outputs == 2 && len(t.weights) > 0
	for _, w := range t.weights {
		t.binary = t.binary && w.output == t.weights[0].output
	}
	if n := len(t.base); n > 0 && n != t.outputs && !(t.binary && n == 1) {
		return nil, fmt.Errorf("%d base values for %d classes", n, t.outputs)
	}
	return t, nil
}

func buildTreeRegressor(_ *Node, a *attrs) (Op, error) {
	t := &trees{combine: a.string("aggregate_function", "SUM")}
	switch t.combine {
	case "SUM", "AVERAGE", "MIN", "MAX":
	default:
		return nil, fmt.Errorf("aggregate_function is %q", t.combine)
	}
	n := a.int("n_targets", 1)
	if n < 1 || n > math.MaxInt16 {
		return nil, fmt.Errorf("n_targets is %d", n)
	}
	t.outputs = int(n)
	if err := t.read(a, "target"); err != nil {
		return nil, err
	}
	if n := len(t.base); n > 0 && n != t.outputs {
		return nil, fmt.Errorf("%d base values for %d targets", n, t.outputs)
	}
	return t, nil
}

// numbers reads a list that newer operator sets may give as a tensor.
func (a *attrs) numbers(name string) []float32 {
	list := a.floats(name)
	if v, ok := a.get(name+"_as_tensor", onnx.AttrTensor); ok && v.T != nil {
		return v.T.Floats
	}
	return list
}

// read builds the trees from the lists of the attributes; kind is "class" or "target".
func (t *trees) read(a *attrs, kind string) error {
	var err error
	if t.post, err = readTransform(a); err != nil {
		return err
	}
	t.base = a.numbers("base_values")
	a.ignore("nodes_hitrates", "nodes_hitrates_as_tensor")
	tree, id := a.ints("nodes_treeids"), a.ints("nodes_nodeids")
	modes, _ := a.get("nodes_modes", onnx.AttrStrings)
	values, features := a.numbers("nodes_values"), a.ints("nodes_featureids")
	yes, no, missing := a.ints("nodes_truenodeids"), a.ints("nodes_falsenodeids"), a.ints("nodes_missing_value_tracks_true")
	n := len(tree)
	for _, m := range []int{len(id), len(modes.Strings), len(values), len(features), len(yes), len(no)} {
		if m != n || n == 0 {
			return fmt.Errorf("lists of %d and %d nodes", n, m)
		}
	}
	if len(missing) != 0 && len(missing) != n {
		return fmt.Errorf("nodes_missing_value_tracks_true of %d nodes, there are %d", len(missing), n)
	}
	index := make(map[[2]int64]int32, n)
	for i := range n {
		k := [2]int64{tree[i], id[i]}
		if _, ok := index[k]; ok {
			return fmt.Errorf("node %d of tree %d stands twice", id[i], tree[i])
		}
		index[k] = int32(i)
	}
	t.nodes = make([]treeNode, n)
	modeOf := map[string]treeMode{"LEAF": leaf, "BRANCH_LEQ": leq, "BRANCH_LT": less, "BRANCH_GTE": gte, "BRANCH_GT": greater, "BRANCH_EQ": equal, "BRANCH_NEQ": unequal}
	for i := range n {
		mode, ok := modeOf[modes.Strings[i]]
		if !ok {
			return fmt.Errorf("%w: node of mode %q", ErrUnsupported, modes.Strings[i])
		}
		t.nodes[i] = treeNode{mode: mode, value: values[i], missing: len(missing) > 0 && missing[i] != 0}
		if mode == leaf {
			continue
		}
		y, ok1 := index[[2]int64{tree[i], yes[i]}]
		f, ok2 := index[[2]int64{tree[i], no[i]}]
		if !ok1 || !ok2 || features[i] < 0 || features[i] > math.MaxInt32 {
			return fmt.Errorf("node %d of tree %d leads to %d and %d by feature %d", id[i], tree[i], yes[i], no[i], features[i])
		}
		t.nodes[i].yes, t.nodes[i].no, t.nodes[i].feature = y, f, int(features[i])
		t.feature = max(t.feature, int(features[i]))
	}
	if err := t.root(tree); err != nil {
		return err
	}
	return t.leaves(a, kind, index)
}

// root finds the roots and the depth, and checks that the nodes form trees: then every way ends.
func (t *trees) root(tree []int64) error {
	parent := make([]int32, len(t.nodes))
	for i := range parent {
		parent[i] = -1
	}
	for i, n := range t.nodes {
		if n.mode == leaf {
			continue
		}
		for _, child := range []int32{n.yes, n.no} {
			if parent[child] >= 0 {
				return fmt.Errorf("a node of tree %d has two parents", tree[i])
			}
			parent[child] = int32(i)
		}
	}
	rooted := map[int64]bool{}
	for i := range t.nodes {
		if parent[i] < 0 {
			if rooted[tree[i]] {
				return fmt.Errorf("tree %d has two roots", tree[i])
			}
			rooted[tree[i]] = true
			t.roots = append(t.roots, int32(i))
		}
	}
	level, seen := t.roots, 0
	for len(level) > 0 {
		t.depth++
		seen += len(level)
		var next []int32
		for _, i := range level {
			if n := t.nodes[i]; n.mode != leaf {
				next = append(next, n.yes, n.no)
			}
		}
		level = next
	}
	if seen != len(t.nodes) {
		return fmt.Errorf("%d of %d nodes can't be reached from a root", len(t.nodes)-seen, len(t.nodes))
	}
	return nil
}

// leaves gives the leaves their weights.
func (t *trees) leaves(a *attrs, kind string, index map[[2]int64]int32) error {
	tree, id, output, weight := a.ints(kind+"_treeids"), a.ints(kind+"_nodeids"), a.ints(kind+"_ids"), a.numbers(kind+"_weights")
	n := len(tree)
	if len(id) != n || len(output) != n || len(weight) != n {
		return fmt.Errorf("lists of %d, %d, %d and %d weights", n, len(id), len(output), len(weight))
	}
	at := make([]int32, n)
	for i := range n {
		k, ok := index[[2]int64{tree[i], id[i]}]
		if !ok || t.nodes[k].mode != leaf {
			return fmt.Errorf("a weight for node %d of tree %d, which is no leaf", id[i], tree[i])
		}
		if output[i] < 0 || output[i] >= int64(t.outputs) {
			return fmt.Errorf("a weight for output %d of %d", output[i], t.outputs)
		}
		at[i] = k
		t.nodes[k].end++ // for now the number
	}
	sum := int32(0)
	for i := range t.nodes {
		k := &t.nodes[i]
		k.first, sum = sum, sum+k.end
		k.end = k.first
	}
	t.weights = make([]treeWeight, n)
	for i, k := range at {
		t.weights[t.nodes[k].end] = treeWeight{int(output[i]), weight[i]}
		t.nodes[k].end++
	}
	return nil
}

func (t *trees) Shape(in []*Tensor, out []Spec) error {
	rows, features, err := table(in[0])
	if err != nil {
		return err
	}
	if t.feature >= features {
		return fmt.Errorf("rows of %d features, the trees ask for number %d", features, t.feature)
	}
	if t.classes != nil {
		scores(out, rows, t.outputs)
	} else {
		out[0].set(onnx.Float, rows, t.outputs)
	}
	return nil
}

func (t *trees) Cost(in []*Tensor, _ []Spec) (int64, int64) {
	rows, features, _ := table(in[0])
	return int64(rows) * int64(len(t.roots)) * int64(t.depth), int64(features + 2*t.outputs)
}

func (t *trees) Run(s *Scratch, in, out []*Tensor) {
	rows, features, _ := table(in[0])
	space := s.floats(0, features)
	sum, y := s.doubles(2*t.outputs), s.floats(1, t.outputs)
	for i := range rows {
		t.row(rowOf(in[0], i, features, space), sum[:t.outputs], sum[t.outputs:])
		for k := range y {
			y[k] = float32(sum[k])
		}
		if t.binary {
			t.other(y)
		}
		y = t.post.apply(y)
		if t.classes == nil {
			copy(out[0].F[i*t.outputs:], y)
			continue
		}
		out[0].I[i] = t.classes[best(y)]
		if len(out) > 1 {
			copy(out[1].F[i*t.outputs:], y)
		}
	}
}

// row combines the weights of the leaves that a row reaches. count is working space.
func (t *trees) row(x []float32, sum, count []float64) {
	clear(sum)
	clear(count)
	for _, i := range t.roots {
		n := &t.nodes[i]
		for n.mode != leaf {
			if n.ask(x[n.feature]) {
				n = &t.nodes[n.yes]
			} else {
				n = &t.nodes[n.no]
			}
		}
		for _, w := range t.weights[n.first:n.end] {
			v := float64(w.weight)
			switch {
			case t.combine == "MIN" && count[w.output] > 0:
				sum[w.output] = min(sum[w.output], v)
			case t.combine == "MAX" && count[w.output] > 0:
				sum[w.output] = max(sum[w.output], v)
			default:
				sum[w.output] += v
			}
			count[w.output]++
		}
	}
	for k := range sum {
		if t.combine == "AVERAGE" {
			sum[k] /= float64(len(t.roots))
		}
		if len(t.base) == len(sum) {
			sum[k] += float64(t.base[k])
		}
	}
	if len(t.base) == 1 && len(sum) == 2 {
		sum[t.weights[0].output] += float64(t.base[0])
	}
}

func (n *treeNode) ask(x float32) bool {
	if x != x {
		return n.missing || n.mode == unequal
	}
	switch n.mode {
	case leq:
		return x <= n.value
	case less:
		return x < n.value
	case gte:
		return x >= n.value
	case greater:
		return x > n.value
	case equal:
		return x == n.value
	}
	return x != n.value
}

// other fills in the score of the class that has no weights: what is left to 1, or, before a transformation, the opposite.
func (t *trees) other(y []float32) {
	score := y[t.weights[0].output]
	y[1], y[0] = score, -score
	if t.post == asIs {
		y[0] = 1 - score
	}
}

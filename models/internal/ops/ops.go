// Package ops holds the operators that the engine runs: those of ONNX's own domain, of its domain for classical machine learning, and some
// of ONNX Runtime's.
//
// Every operator works in two steps: Shape computes the types and shapes of the outputs from the inputs and checks everything that can be
// wrong with them; Run fills the outputs, whose space the caller has allocated in between. So limits are enforced before memory is used,
// and the loops can rely on their shapes.
//
// The package does not know graphs, sessions or files; package engine puts operators together.
package ops

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"idunno/models/internal/kernel"
	"idunno/models/onnx"
)

// ErrUnsupported is returned by New for an operator, an operator set version or an attribute that is not implemented.
var ErrUnsupported = errors.New("not supported")

// Tensor is a dense row-major tensor. Floating-point types keep their elements in F, all others in I (truth values as 0 and 1).
type Tensor struct {
	DType onnx.DType
	Shape []int
	F     []float32
	I     []int64
}

// Len is the number of elements that the shape says.
func (t *Tensor) Len() int { return volume(t.Shape) }

// Known says whether the elements are there; in a dry run only the shape is.
func (t *Tensor) Known() bool { return len(t.F)+len(t.I) == t.Len() }

// Spec is the type and shape of an output.
type Spec struct {
	DType onnx.DType
	Shape []int
}

// set overwrites the specification, reusing its space.
func (s *Spec) set(d onnx.DType, shape ...int) {
	s.DType = d
	s.Shape = append(s.Shape[:0], shape...)
}

// Scratch is the working space of one session, reused from call to call.
type Scratch struct {
	Gemm kernel.Workspace
	f    [4][]float32
	d    []float64
	i    []int
	spec [1]Spec
	tail tailSpace
	stop <-chan struct{}
}

// StopWhen makes long operators end early, with a result that must not be used, once done is closed; nil means never.
func (s *Scratch) StopWhen(done <-chan struct{}) {
	s.stop = done
	s.Gemm.StopWhen(done)
}

// stopped says whether the rest of the work is not wanted any more.
func (s *Scratch) stopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// floats returns n floats of unspecified content; slot keeps three such spaces apart.
func (s *Scratch) floats(slot, n int) []float32 {
	if cap(s.f[slot]) < n {
		s.f[slot] = make([]float32, n)
	}
	return s.f[slot][:n]
}

// doubles returns n numbers of unspecified content.
func (s *Scratch) doubles(n int) []float64 {
	if cap(s.d) < n {
		s.d = make([]float64, n)
	}
	return s.d[:n]
}

// ints returns n zeros.
func (s *Scratch) ints(n int) []int {
	if cap(s.i) < n {
		s.i = make([]int, n)
	}
	clear(s.i[:n])
	return s.i[:n]
}

// Op is one compiled application of an operator. It is immutable and may be used by many goroutines, each with its own Scratch.
type Op interface {
	// Shape fills out from the inputs; a left-out input is nil. Inputs hold elements only where they are known before the run.
	Shape(in []*Tensor, out []Spec) error
	// Run computes the outputs.
	Run(s *Scratch, in, out []*Tensor)
}

// Aliaser is an Op whose first output has the elements of its first input, so that nothing is copied. Its Run is never called.
type Aliaser interface {
	Op
	Alias()
}

// Sizer is an Op that reads only the shapes of its inputs, never their elements.
type Sizer interface {
	Op
	ReadsShapesOnly()
}

// Coster is an Op whose arithmetic counts.
type Coster interface {
	// Cost is the number of multiplications and additions (or comparisons) for these inputs, and the floats of scratch space it needs.
	Cost(in []*Tensor, out []Spec) (flops, scratch int64)
}

// Node is what an operator is built from.
type Node struct {
	*onnx.Node
	Opset  int64
	Consts []*Tensor // per input: its value when it is a constant of the model, else nil
	Made   bool      // by the engine: the operator is one of those that no file can name
}

// constant returns input i when it is constant.
func (n *Node) constant(i int) *Tensor {
	if i < len(n.Consts) {
		return n.Consts[i]
	}
	return nil
}

// present says whether input i is given.
func (n *Node) present(i int) bool { return i < len(n.Inputs) && n.Inputs[i] != "" }

// spec describes an operator in the table.
type spec struct {
	since   int64 // first version of the operator set whose meaning is implemented
	in, max int   // number of inputs, at least and at most
	outs    int   // number of outputs at most
	build   func(n *Node, a *attrs) (Op, error)
}

const many = 1 << 20

// Table holds every operator by name; those that are not of ONNX's own domain by domain, a point and name.
type Table map[string]spec

// The domains with operators besides ONNX's own.
const (
	domainML        = "ai.onnx.ml"
	domainMicrosoft = "com.microsoft"
)

// newest gives for each domain the newest operator set whose changes have been looked at.
func newest(domain string) int64 {
	switch domain {
	case domainML:
		return 5
	case domainMicrosoft:
		return 1
	}
	return 24
}

// key is the name of an operator in the table.
func key(domain, op string) string {
	if domain == "" {
		return op
	}
	return domain + "." + op
}

// Check looks at everything about a node but its attributes and constants: the operator, its version, and which inputs and outputs there are.
func (t Table) Check(n *Node) error {
	_, err := t.find(n)
	return err
}

func (t Table) find(n *Node) (*spec, error) {
	sp, ok := t[key(n.Domain, n.Op)]
	if n.Made {
		sp, ok = madeTable()[n.Op]
	}
	if !ok {
		err := fmt.Errorf("%w: there is no %q of domain %q here (opset %d)", ErrUnsupported, n.Op, domain(n.Domain), n.Opset)
		if why := reason(n.Domain, n.Op); why != nil {
			err = fmt.Errorf("%w; %w", err, why)
		}
		return nil, err
	}
	if n.Opset < sp.since || n.Opset > newest(n.Domain) {
		return nil, fmt.Errorf("%w: %s is implemented for opsets %d to %d of domain %q, the model uses %d; convert it to one of these", ErrUnsupported,
			n.Op, sp.since, newest(n.Domain), domain(n.Domain), n.Opset)
	}
	if len(n.Inputs) < sp.in || len(n.Inputs) > sp.max {
		return nil, fmt.Errorf("%s takes %d to %d inputs, not %d", n.Op, sp.in, min(sp.max, max(len(n.Inputs), sp.in)), len(n.Inputs))
	}
	for i := range sp.in {
		if n.Inputs[i] == "" {
			return nil, fmt.Errorf("input %d is left out, but %s needs it", i, n.Op)
		}
	}
	wanted := slices.IndexFunc(n.Outputs[min(sp.outs, len(n.Outputs)):], func(s string) bool { return s != "" })
	if wanted >= 0 {
		err := fmt.Errorf("%w: output %d of %s", ErrUnsupported, sp.outs+wanted, n.Op)
		if n.Op == "BatchNormalization" {
			err = fmt.Errorf("%w; %w", err, noTraining)
		}
		return nil, err
	}
	return &sp, nil
}

// New compiles a node. It returns ErrUnsupported for what is not implemented and another error for what is wrong.
func (t Table) New(n *Node) (Op, error) {
	sp, err := t.find(n)
	if err != nil {
		return nil, err
	}
	a := newAttrs(n)
	op, err := sp.build(n, a)
	if err == nil {
		err = a.done()
	}
	if err != nil {
		return nil, err
	}
	return op, nil
}

func domain(d string) string {
	if d == "" {
		return "ai.onnx"
	}
	return d
}

// NewTable returns the table of all operators.
func NewTable() Table {
	all := Table{}
	for _, part := range []map[string]spec{elementTable(), layoutTable(), linearTable(), windowTable(), reduceTable(),
		lossTable(), indexTable(), normTable(), arrangeTable(), resizeTable(), transposedTable(),
		rnnTable(), quantTable(), visionTable(), quantConvTable(), signalTable(), controlTable(), rmsTable(), attentionTable()} {
		maps.Copy(all, part)
	}
	for domain, part := range map[string]map[string]spec{domainML: mlTable(), domainMicrosoft: contribTable()} {
		for op, sp := range part {
			all[key(domain, op)] = sp
		}
	}
	return all
}

// Variadic says whether the number of outputs is part of the meaning of the operator.
func (t Table) Variadic(n *onnx.Node) bool { return t[key(n.Domain, n.Op)].outs == many }

// Support is what is implemented of an operator.
type Support struct {
	Domain string `json:"domain"`
	Op     string `json:"op"`
	Since  int64  `json:"since"` // first and last operator set
	Until  int64  `json:"until"`
}

// Support lists the operators, sorted by domain, ONNX's own first, and name.
func (t Table) Support() []Support {
	var list []Support
	for _, name := range t.Names() {
		dom, op := "", name
		if i := strings.LastIndexByte(name, '.'); i >= 0 {
			dom, op = name[:i], name[i+1:]
		}
		list = append(list, Support{domain(dom), op, t[name].since, newest(dom)})
	}
	slices.SortStableFunc(list, func(a, b Support) int { return strings.Compare(a.Domain, b.Domain) })
	return list
}

// Names lists the operators, sorted.
func (t Table) Names() []string { return slices.Sorted(maps.Keys(t)) }

// volume multiplies dimensions; the engine has checked that products fit.
func volume(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// axisOf resolves a possibly negative axis of a tensor with rank dimensions.
func axisOf(axis int64, rank int) (int, error) {
	a := axis
	if a < 0 {
		a += int64(rank)
	}
	if a < 0 || a >= int64(rank) {
		return 0, fmt.Errorf("axis %d of a tensor with %d dimensions", axis, rank)
	}
	return int(a), nil
}

func needFloat(in []*Tensor, which ...int) error {
	for _, i := range which {
		if i < len(in) && in[i] != nil && !in[i].DType.IsFloat() {
			return fmt.Errorf("input %d is %s, only floating-point tensors are supported here", i, in[i].DType)
		}
	}
	return nil
}

// ErrNeedsValues is returned by Shape when it depends on elements that are not known without running the model.
var ErrNeedsValues = errors.New("shape depends on computed values")

// NeedsValues says whether an error of Shape means that the shape can't be known before the run.
func NeedsValues(err error) bool { return errors.Is(err, ErrNeedsValues) }

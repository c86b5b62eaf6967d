package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"idunno/models/onnx"
)

// Buffers that live at once must not overlap, and the arena can't be smaller than what lives at once.
func TestBuffersDoNotOverlap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var all []buffer
		least, sum := 0, 0
		for i := range 1 + r.IntN(40) {
			all = append(all, buffer{float: true, size: r.IntN(1000), first: i, last: i + r.IntN(12)})
		}
		total := arrange(all, true)
		for i := range all {
			live := 0
			for j, b := range all {
				if b.first <= i && i <= b.last {
					live += b.size
				}
				a := all[i]
				if i == j || a.size == 0 || b.size == 0 || a.first > b.last || b.first > a.last {
					continue
				}
				if a.at < b.at+b.size && b.at < a.at+a.size {
					t.Fatalf("%+v and %+v overlap", a, b)
				}
			}
			least = max(least, live)
			sum += (all[i].size + alignment - 1) / alignment * alignment
			if all[i].at%alignment != 0 || all[i].at+all[i].size > total {
				t.Fatalf("%+v in an arena of %d", all[i], total)
			}
		}
		if total < least || total > sum {
			t.Fatalf("an arena of %d, at least %d and at most %d are needed", total, least, sum)
		}
	}
}

func peak(t *testing.T, p *Program, shape ...int) int64 {
	t.Helper()
	plan, err := p.Plan([]*Tensor{{DType: onnx.Float, Shape: shape}})
	if err != nil {
		t.Fatal(err)
	}
	return plan.Peak
}

func TestChainsStayInPlace(t *testing.T) {
	s := newSmall("N", 64).k("k", 2)
	in := "x"
	for i := range 10 {
		out := fmt.Sprint("v", i)
		switch i % 3 {
		case 0:
			s.n("Tanh", in, out)
		case 1:
			s.n("Mul", "k "+in, out)
		default:
			s.n("Reshape", in+" to", out)
		}
		in = out
	}
	s.n("Neg", in, "y")
	s.Init = append(s.Init, tt{Name: "to", Dims: []int64{2}, Ints: []int64{-1, 64}})
	if got := peak(t, mustCompile(t, s.tm), 32, 64); got != 4*32*64 {
		t.Errorf("a chain takes %d bytes, one of its values %d", got, 4*32*64)
	}
	sameUnfused(t, s.tm, "Tanh Mul Reshape Tanh Mul Reshape Tanh Mul Reshape Tanh Neg", 64)
}

// Values that share memory with what is written in place, or that are needed later, must keep their elements.
func TestInPlaceSparesWhatIsNeeded(t *testing.T) {
	for name, c := range map[string]*small{
		"needed later":     newSmall("N", 8).n("Exp", "x", "a").n("Neg", "a", "b").n("Sub", "b a", "y"),
		"view needed":      newSmall("N", 8).n("Exp", "x", "a").n("Reshape", "a to", "v").n("Neg", "a", "b").n("Reshape", "v back", "w").n("Add", "b w", "y"),
		"input":            newSmall("N", 8).n("Neg", "x", "a").n("Add", "a x", "y"),
		"twice":            newSmall("N", 8).n("Exp", "x", "a").n("Mul", "a a", "y"),
		"broadcast itself": newSmall("N", 8).n("Exp", "x", "a").n("Reshape", "a column", "v").n("Sub", "a v", "b").n("ReduceSum", "b", "y", "keepdims", 1),
		"slices":           newSmall("N", 8).n("Exp", "x", "a").n("Split", "a parts", "p q", "axis", 1).n("Mul", "p q", "b").n("Neg", "q", "c").n("Concat", "b c p", "y", "axis", 1),
		"an output":        newSmall("N", 8).n("Exp", "x", "y").n("Neg", "y", "b").n("Exp", "b", "z"),
	} {
		t.Run(name, func(t *testing.T) {
			c.Init = append(c.Init, tt{Name: "to", Dims: []int64{2}, Ints: []int64{8, -1}}, tt{Name: "back", Dims: []int64{2}, Ints: []int64{-1, 8}},
				tt{Name: "column", Dims: []int64{3}, Ints: []int64{-1, 1, 8}}, tt{Name: "parts", Dims: []int64{2}, Ints: []int64{4, 4}})
			if name == "an output" {
				c.Out = append(c.Out, tv{Name: "z"})
			}
			sameUnfused(t, c.tm, stepNames(mustCompile(t, c.tm)), 8)
		})
	}
}

// A slice of the outermost dimension is a view; others are copied.
func TestContiguousSlicesAreViews(t *testing.T) {
	s := newSmall("N", 4, 6).n("Exp", "x", "a").n("Slice", "a from to axis", "b").n("Neg", "b", "c").n("Slice", "a from to axes", "d").n("ReduceSum", "d", "e", "keepdims", 0).n("Add", "c e", "y")
	s.Init = append(s.Init, tt{Name: "from", Dims: []int64{1}, Ints: []int64{1}}, tt{Name: "to", Dims: []int64{1}, Ints: []int64{3}},
		tt{Name: "axis", Dims: []int64{1}, Ints: []int64{0}}, tt{Name: "axes", Dims: []int64{1}, Ints: []int64{2}})
	p := mustCompile(t, s.tm)
	plan, err := p.Plan([]*Tensor{{DType: onnx.Float, Shape: []int{5, 4, 6}}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, st := range plan.Steps {
		names = append(names, st.Operator)
	}
	if got := strings.Join(names, " "); got != "Exp Slice Neg ReduceSum Add" {
		t.Errorf("steps are %q", got)
	}
	sameUnfused(t, s.tm, stepNames(p), 4, 6)
}

// Batches may come in any order of sizes, more than there are plans kept; every row is bit-equal to what it is alone.
func TestBatchSizesInAnyOrder(t *testing.T) {
	s := newSmall("N", 8, 12, 12).w("w", 16, 8, 3, 3).w("v", 16, 16, 1, 1).w("g", 40, 10).w("h", 10)
	s.Init = append(s.Init, tt{Name: "flat", Dims: []int64{2}, Ints: []int64{0, -1}})
	s.n("Conv", "x w", "a", "pads", []int{1, 1, 1, 1}).norm("a", "an", 16).n("Sigmoid", "an", "as").n("Mul", "as an", "b").n("Conv", "b v", "c").n("Add", "c b", "d").n("Relu", "d", "e")
	s.n("Slice", "e zero two axis", "f").n("Reshape", "f flat", "m").n("MatMul", "m big", "n").n("Add", "n h", "o").n("Tanh", "o", "y")
	s.Init = append(s.Init, tt{Name: "zero", Dims: []int64{1}, Ints: []int64{0}}, tt{Name: "two", Dims: []int64{1}, Ints: []int64{2}}, tt{Name: "axis", Dims: []int64{1}, Ints: []int64{1}})
	s.w("big", 288, 10)
	p := mustCompile(t, s.tm)
	const n, size = 60, 8 * 144
	all := input(noise(rand.New(rand.NewPCG(4, 4)), n, 8, 12, 12))
	want := run(t, p.NewSession(), all)
	r := rand.New(rand.NewPCG(8, 8))
	session := p.NewSession()
	for range 60 {
		from := r.IntN(n)
		rows := 1 + r.IntN(min(n-from, 20))
		part := &Tensor{DType: onnx.Float, Shape: []int{rows, 8, 12, 12}, F: all.F[from*size:][:rows*size]}
		if got := run(t, session, part); !slices.Equal(got, want[from*10:][:rows*10]) {
			t.Fatalf("rows %d to %d differ in a batch of %d", from, from+rows, rows)
		}
	}
	if len(session.plans) != maxPlans {
		t.Errorf("%d plans are kept", len(session.plans))
	}
	a := []*Tensor{{DType: onnx.Float, Shape: []int{7, 8, 12, 12}, F: all.F[:7*size]}}
	b := []*Tensor{{DType: onnx.Float, Shape: []int{3, 8, 12, 12}, F: all.F[:3*size]}}
	allocs := testing.AllocsPerRun(5, func() {
		for _, in := range [][]*Tensor{a, b} {
			if _, err := session.Run(context.Background(), in); err != nil {
				t.Error(err)
			}
		}
	})
	if allocs > 0 {
		t.Errorf("%v allocations for batches of two sizes in turn", allocs)
	}
}

func TestPlanTellsItsFigure(t *testing.T) {
	s := newSmall("N", 1<<10).n("Exp", "x", "a").n("ReduceSum", "a", "b").n("Add", "a b", "y") // "y" takes the place of "a"
	p, err := compile(t, s.tm, Limits{Memory: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	session := p.NewSession()
	run(t, session, input(noise(s.r, 1<<10-1, 1<<10)))
	x := input(noise(s.r, 1<<10, 1<<10))
	for range 2 {
		if _, err := session.Run(t.Context(), []*Tensor{x}); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "4097 KiB for this run, at most 4096 KiB are allowed") {
			t.Errorf("a little more than 4 MiB of 4 MiB: %v", err)
		}
	}
}

// lateContext is done, but says so only after the first look at Err, as a context does that ends while a node runs.
type lateContext struct {
	context.Context
	looks int
}

func (c *lateContext) Err() error {
	if c.looks++; c.looks == 1 {
		return nil
	}
	return c.Context.Err()
}

// A node that takes long looks at the context too: with one that ends while it runs, it leaves most of its results alone.
func TestLongNodesStop(t *testing.T) {
	for name, c := range map[string]struct {
		m     *small
		shape []int64
	}{
		"conv":        {newSmall("N", 4, 64, 64).w("w", 32, 4, 5, 5).n("Conv", "x w", "y"), []int64{2, 4, 64, 64}},
		"winograd":    {newSmall("N", 16, 64, 64).w("w", 32, 16, 3, 3).n("Conv", "x w", "y"), []int64{2, 16, 64, 64}},
		"pointwise":   {newSmall("N", 16, 64, 64).w("w", 32, 16, 1, 1).n("Conv", "x w", "y"), []int64{2, 16, 64, 64}},
		"product":     {newSmall("N", 64).w("w", 64, 640).n("MatMul", "x w", "y"), []int64{1000, 64}},
		"batched":     {newSmall("N", 30, 30).n("MatMul", "x x", "y"), []int64{20, 30, 30}},
		"views":       {newSmall("N", 30, 30).n("Transpose", "x", "a", "perm", []int{0, 2, 1}).n("MatMul", "x a", "y"), []int64{20, 30, 30}},
		"elementwise": {newSmall("N", 1<<20).n("Tanh", "x", "y"), []int64{1, 1 << 20}},
		"behind":      {newSmall("N", 16, 64, 64).w("w", 32, 16, 1, 1).n("Conv", "x w", "a").n("Sigmoid", "a", "y"), []int64{3, 16, 64, 64}},
	} {
		t.Run(name, func(t *testing.T) {
			session := mustCompile(t, c.m.tm).NewSession()
			x := input(noise(c.m.r, c.shape...))
			ctx, cancel := context.WithCancel(t.Context())
			want := run(t, session, x)
			for i := range session.floats {
				session.floats[i] = -123456
			}
			cancel()
			if _, err := session.Run(&lateContext{Context: ctx}, []*Tensor{x}); !errors.Is(err, context.Canceled) {
				t.Errorf("error is %v", err)
			}
			touched := 0
			for _, v := range session.floats {
				if v != -123456 {
					touched++
				}
			}
			if touched > len(session.floats)/2 {
				t.Errorf("%d of %d results were computed", touched, len(session.floats))
			}
			if got := run(t, session, x); !slices.Equal(got, want) {
				t.Error("the next run gives other results")
			}
		})
	}
}

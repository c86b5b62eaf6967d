package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"idunno/models/onnx"
	"idunno/models/onnx/encode"
)

type tg = encode.Graph

func boolean(v int64) *Tensor { return &Tensor{DType: onnx.Bool, I: []int64{v}} }

func outs(names ...string) []tv {
	var v []tv
	for _, n := range names {
		v = append(v, tv{Name: n})
	}
	return v
}

// choice is y = c ? x*w+x : c2 ? -x : x, with w a constant from around the branch.
func choice() tm {
	return tm{
		In: []tv{{Name: "x", Dims: []any{2}}, {Name: "c", DType: 9, Dims: []any{}}, {Name: "c2", DType: 9, Dims: []any{}}}, Out: outs("y"),
		Init: []tt{{Name: "w", Dims: []int64{1}, Floats: []float32{10}}},
		Nodes: []tn{{Op: "If", In: []string{"c"}, Out: []string{"y"}, Attrs: map[string]any{
			"then_branch": tg{Out: outs("o"), Nodes: []tn{{Op: "Mul", In: []string{"x", "w"}, Out: []string{"m"}}, {Op: "Add", In: []string{"m", "x"}, Out: []string{"o"}}}},
			"else_branch": tg{Out: outs("o"), Nodes: []tn{{Op: "If", In: []string{"c2"}, Out: []string{"o"}, Attrs: map[string]any{
				"then_branch": tg{Out: outs("n"), Nodes: []tn{{Op: "Neg", In: []string{"x"}, Out: []string{"n"}}}},
				"else_branch": tg{Out: outs("x")}, // a value from around it
			}}}},
		}}},
	}
}

func TestIf(t *testing.T) {
	p := mustCompile(t, choice())
	s := p.NewSession()
	x := floats([]int{2}, 1, 2)
	for range 2 {
		for want, c := range map[string][2]int64{"[11 22]": {1, 0}, "[-1 -2]": {0, 1}, "[1 2]": {0, 0}} {
			if got := fmt.Sprint(run(t, s, x, boolean(c[0]), boolean(c[1]))); got != want {
				t.Errorf("%v gives %s, want %s", c, got, want)
			}
		}
	}
	if _, err := s.Run(t.Context(), []*Tensor{x, {DType: onnx.Bool, Shape: []int{0}}, boolean(0)}); err == nil {
		t.Error("a condition without a value is accepted")
	}
	if got := fmt.Sprint(p.Ops(), p.Parameters()); got != "[Add If Mul Neg] 1" {
		t.Errorf("operators and parameters are %s", got)
	}
	plan, err := p.Plan([]*Tensor{{DType: onnx.Float, Shape: []int{2}}, {DType: onnx.Bool}, {DType: onnx.Bool}})
	if err != nil || fmt.Sprint(plan.Outputs[0].Shape) != "[2]" || plan.FLOPs < 4 {
		t.Errorf("plan is %+v, %v", plan, err)
	}
}

// An If whose condition is constant must leave no trace, and what follows must be fused as if the branch had stood there.
func TestIfOfAConstant(t *testing.T) {
	for c, want := range map[int64]string{1: "[11 22]", 0: "[-1 -2]"} {
		m := choice()
		m.In = m.In[:1]
		for _, name := range []string{"c", "c2"} {
			v := c
			if name == "c2" {
				v = 1
			}
			m.Init = append(m.Init, tt{Name: name, Dims: []int64{}, DType: 9, Raw: []byte{byte(v)}})
		}
		p := mustCompile(t, m)
		for _, st := range p.steps {
			if _, ok := st.op.(*control); ok {
				t.Error("the If is still there")
			}
		}
		if got := fmt.Sprint(run(t, p.NewSession(), floats([]int{2}, 1, 2))); got != want {
			t.Errorf("%d gives %s, want %s", c, got, want)
		}
	}
}

// loop runs a body with the states a and b and one stacked output: a, b = b, a+b; the loop goes on as long as b < limit.
func loop(trips, limit any) tm {
	m := tm{
		In: []tv{{Name: "a", Dims: []any{1}}, {Name: "b", Dims: []any{1}}}, Out: outs("last", "next", "all"),
		Nodes: []tn{{Op: "Loop", In: []string{"", "", "a", "b"}, Out: []string{"last", "next", "all"}, Attrs: map[string]any{"body": tg{
			In:  []tv{{Name: "i", DType: 7, Dims: []any{}}, {Name: "c", DType: 9, Dims: []any{}}, {Name: "p", Dims: []any{1}}, {Name: "q", Dims: []any{1}}},
			Out: []tv{{Name: "go", DType: 9}, {Name: "q", Dims: []any{1}}, {Name: "sum", Dims: []any{1}}, {Name: "row", Dims: []any{1}}},
			Nodes: []tn{
				{Op: "Add", In: []string{"p", "q"}, Out: []string{"sum"}},
				{Op: "Identity", In: []string{"p"}, Out: []string{"row"}},
				{Op: "Identity", In: []string{"c"}, Out: []string{"go"}},
			},
		}}}},
	}
	body := m.Nodes[0].Attrs["body"].(tg)
	if trips != nil {
		m.Init = append(m.Init, tt{Name: "m", Ints: []int64{int64(trips.(int))}})
		m.Nodes[0].In[0] = "m"
	}
	if limit != nil {
		m.Init = append(m.Init, tt{Name: "limit", Floats: []float32{limit.(float32)}})
		body.Nodes[2] = tn{Op: "Less", In: []string{"sum", "limit"}, Out: []string{"go"}}
		m.Nodes[0].Attrs["body"] = body
	}
	return m
}

func TestLoop(t *testing.T) {
	for _, c := range []struct {
		m    tm
		want string
	}{
		{loop(7, nil), "[21] [34] [7 1] [1 1 2 3 5 8 13]"},
		{loop(3, nil), "[3] [5] [3 1] [1 1 2]"},
		{loop(0, nil), "[1] [1] [0 1] []"},
		{loop(-5, nil), "[1] [1] [0 1] []"},
		{loop(100, float32(6)), "[5] [8] [4 1] [1 1 2 3]"},
		{loop(nil, float32(6)), "[5] [8] [4 1] [1 1 2 3]"},
	} {
		p := mustCompile(t, c.m)
		s := p.NewSession()
		for range 3 {
			out, err := s.Run(t.Context(), []*Tensor{floats([]int{1}, 1), floats([]int{1}, 1)})
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(out[0].F, out[1].F, out[2].Shape, out[2].F); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		}
	}
}

func TestLoopPlan(t *testing.T) {
	in := []*Tensor{{DType: onnx.Float, Shape: []int{1}}, {DType: onnx.Float, Shape: []int{1}}}
	plan, err := mustCompile(t, loop(7, nil)).Plan(in)
	if err != nil || fmt.Sprint(plan.Outputs[2].Shape) != "[7 1]" || plan.FLOPs != 7 {
		t.Errorf("plan is %+v, %v", plan, err)
	}
	if _, err := mustCompile(t, loop(7, float32(6))).Plan(in); !errors.Is(err, ErrShapeUnknown) {
		t.Errorf("the number of runs depends on values, but the plan's error is %v", err)
	}
	if _, err := mustCompile(t, loop(1<<50, nil)).Plan(in); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a huge number of runs is refused with %v", err)
	}
}

// The state may grow from run to run, and the number of the run and values from around the loop can be read.
func TestLoopGrows(t *testing.T) {
	m := tm{
		In: []tv{{Name: "x", Dims: []any{1}}}, Out: outs("y"), Init: []tt{{Name: "m", Ints: []int64{4}}, {Name: "s", Dims: []int64{0}, Floats: []float32{}}},
		Nodes: []tn{{Op: "Loop", In: []string{"m", "", "s"}, Out: []string{"y"}, Attrs: map[string]any{"body": tg{
			In: []tv{{Name: "i", DType: 7}, {Name: "c", DType: 9}, {Name: "l"}}, Out: outs("c", "longer"),
			Nodes: []tn{
				{Op: "Cast", In: []string{"i"}, Out: []string{"f"}, Attrs: map[string]any{"to": 1}},
				{Op: "Mul", In: []string{"f", "x"}, Out: []string{"fx"}},
				{Op: "Concat", In: []string{"l", "fx"}, Out: []string{"longer"}, Attrs: map[string]any{"axis": 0}},
			},
		}}}},
	}
	p := mustCompile(t, m)
	if got := fmt.Sprint(run(t, p.NewSession(), floats([]int{1}, 3))); got != "[0 3 6 9]" {
		t.Errorf("got %s", got)
	}
	if _, err := p.Plan([]*Tensor{{DType: onnx.Float, Shape: []int{1}}}); !errors.Is(err, ErrShapeUnknown) {
		t.Errorf("plan: %v", err)
	}
}

func TestLoopIsBounded(t *testing.T) {
	for name, m := range map[string]tm{"many": loop(1<<40, nil), "endless": loop(nil, nil)} {
		p, err := compile(t, m, Limits{Memory: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.NewSession().Run(t.Context(), []*Tensor{floats([]int{1}, 0), floats([]int{1}, 0)}); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: what the loop gathers is bounded with %v", name, err)
		}
	}
	m := loop(nil, nil)
	m.Out, m.Nodes[0].Out = m.Out[:1], m.Nodes[0].Out[:1]
	body := m.Nodes[0].Attrs["body"].(tg)
	body.Out = body.Out[:3]
	m.Nodes[0].Attrs["body"] = body
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := mustCompile(t, m).NewSession().Run(ctx, []*Tensor{floats([]int{1}, 0), floats([]int{1}, 0)}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an endless loop ends with %v", err)
	}
}

// scan is a running sum over the rows of x, with the sums and the rows doubled as outputs.
func scan(attrs map[string]any) tm {
	attrs["num_scan_inputs"] = 1
	attrs["body"] = tg{In: outs("s", "row"), Out: outs("t", "u", "v"), Nodes: []tn{
		{Op: "Add", In: []string{"s", "row"}, Out: []string{"t"}},
		{Op: "Identity", In: []string{"t"}, Out: []string{"u"}},
		{Op: "Add", In: []string{"row", "row"}, Out: []string{"v"}},
	}}
	return tm{In: []tv{{Name: "z", Dims: []any{"A"}}, {Name: "x", Dims: []any{"B", "C"}}}, Out: outs("sum", "sums", "twice"),
		Nodes: []tn{{Op: "Scan", In: []string{"z", "x"}, Out: []string{"sum", "sums", "twice"}, Attrs: attrs}}}
}

func TestScan(t *testing.T) {
	x := floats([]int{3, 2}, 1, 2, 3, 4, 5, 6)
	for _, c := range []struct {
		attrs map[string]any
		want  string
	}{
		{map[string]any{}, "[2][9 12] [3 2][1 2 4 6 9 12] [3 2][2 4 6 8 10 12]"},
		{map[string]any{"scan_input_directions": []int{1}}, "[2][9 12] [3 2][5 6 8 10 9 12] [3 2][10 12 6 8 2 4]"},
		{map[string]any{"scan_output_directions": []int{1, 0}}, "[2][9 12] [3 2][9 12 4 6 1 2] [3 2][2 4 6 8 10 12]"},
		{map[string]any{"scan_output_axes": []int{1, -1}}, "[2][9 12] [2 3][1 4 9 2 6 12] [2 3][2 6 10 4 8 12]"},
		{map[string]any{"scan_input_axes": []int{-1}}, "[3][3 7 11] [2 3][1 3 5 3 7 11] [2 3][2 6 10 4 8 12]"},
	} {
		p := mustCompile(t, scan(c.attrs))
		z := floats([]int{2}, 0, 0)
		if c.attrs["scan_input_axes"] != nil {
			z = floats([]int{3}, 0, 0, 0)
		}
		s := p.NewSession()
		for range 2 {
			out, err := s.Run(t.Context(), []*Tensor{z, x})
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprintf("%v%v %v%v %v%v", out[0].Shape, out[0].F, out[1].Shape, out[1].F, out[2].Shape, out[2].F); got != c.want {
				t.Errorf("%v: got %s, want %s", c.attrs, got, c.want)
			}
		}
		plan, err := p.Plan([]*Tensor{{DType: onnx.Float, Shape: z.Shape}, {DType: onnx.Float, Shape: x.Shape}})
		if err != nil || plan.FLOPs == 0 {
			t.Fatalf("plan: %v", err)
		}
		for k, o := range plan.Outputs {
			if out, _ := s.Run(t.Context(), []*Tensor{z, x}); !slices.Equal(o.Shape, out[k].Shape) {
				t.Errorf("planned %v, got %v", o.Shape, out[k].Shape)
			}
		}
	}
}

func TestControlKeepsItsBuffers(t *testing.T) {
	s := mustCompile(t, loop(7, nil)).NewSession()
	in := []*Tensor{floats([]int{1}, 1), floats([]int{1}, 1)}
	once := func() {
		if _, err := s.Run(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	once()
	held := s.dynamic.held
	if n := testing.AllocsPerRun(20, once); n > 0 || s.dynamic.held != held {
		t.Errorf("%v allocations a run; %d bytes held became %d", n, held, s.dynamic.held)
	}
}

func TestControlRefuses(t *testing.T) {
	edit := func(m tm, f func(n *tn)) tm { f(&m.Nodes[0]); return m }
	for name, c := range map[string]struct {
		m    tm
		want error
		text string
	}{
		"inner operator": {edit(choice(), func(n *tn) {
			n.Attrs["then_branch"] = tg{Out: outs("o"), Nodes: []tn{{Name: "deep", Op: "Rulu", In: []string{"x"}, Out: []string{"o"}}}}
		}), ErrUnsupported, `then_branch: Rulu node "deep" (opset 13): not supported: there is no "Rulu"`},
		"no branch":          {edit(choice(), func(n *tn) { delete(n.Attrs, "else_branch") }), nil, `without the graph "else_branch"`},
		"branch with inputs": {edit(choice(), func(n *tn) { n.Attrs["then_branch"] = tg{In: outs("i"), Out: outs("i")} }), nil, "a branch with 1 inputs"},
		"branch with less":   {edit(choice(), func(n *tn) { n.Out = append(n.Out, "more") }), nil, "expected are none and 2"},
		"two conditions":     {edit(choice(), func(n *tn) { n.In = append(n.In, "c2") }), nil, "not 2 inputs"},
		"attribute":          {edit(choice(), func(n *tn) { n.Attrs["what"] = 1 }), ErrUnsupported, `attribute "what" of If`},
		"body inputs":        {edit(loop(1, nil), func(n *tn) { n.In = n.In[:3] }), nil, "Loop with 3 inputs"},
		"left-out state":     {edit(loop(1, nil), func(n *tn) { n.In[2] = "" }), nil, "input 2 is left out"},
		"scans nothing":      {edit(scan(map[string]any{}), func(n *tn) { n.Attrs["num_scan_inputs"] = 0 }), nil, "num_scan_inputs is 0"},
		"scan axes":          {scan(map[string]any{"scan_output_axes": []int{0}}), nil, "scan_output_axes has 1 elements for 2"},
		"scan direction":     {scan(map[string]any{"scan_input_directions": []int{2}}), nil, "scan_input_directions has 2"},
	} {
		if len(c.m.Out) < len(c.m.Nodes[0].Out) {
			c.m.Out = append(c.m.Out, outs("more")...)
		}
		_, err := compile(t, c.m, Limits{})
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: error is %v, want %q", name, err, c.text)
		}
	}
}

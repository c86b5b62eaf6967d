package onnx

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"idunno/models/onnx/encode"
)

type (
	tg = encode.Graph
	tf = encode.Function
)

// branch is a graph inside of a node: out = op(in...).
func branch(op, out string, in ...string) tg {
	return tg{Out: []tv{{Name: out}}, Nodes: []tn{{Op: op, In: in, Out: []string{out}}}}
}

func TestDecodeReadsGraphsInNodes(t *testing.T) {
	deeper := tg{Out: []tv{{Name: "r"}}, Nodes: []tn{
		{Op: "Add", In: []string{"q", "late"}, Out: []string{"r"}}, // before the node it reads from
		{Op: "If", In: []string{"c"}, Out: []string{"q"}, Attrs: map[string]any{
			"then_branch": branch("Neg", "q1", "x"), "else_branch": branch("Mul", "q2", "k", "late")}},
	}, Init: []tt{{Name: "k", Dims: []int64{1}, Floats: []float32{2}}}}
	m := tm{
		In: []tv{{Name: "x", Dims: []any{1}}, {Name: "c", DType: 9}}, Out: []tv{{Name: "y"}},
		Nodes: []tn{
			{Op: "If", In: []string{"c"}, Out: []string{"y"}, Attrs: map[string]any{"then_branch": deeper, "else_branch": branch("Relu", "e", "x")}},
			{Op: "Exp", In: []string{"x"}, Out: []string{"late"}},
		},
	}
	g, err := Decode(m.Bytes(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if g.Nodes[0].Op != "Exp" {
		t.Errorf("the node that a branch reads from comes after it: %v", g.Nodes)
	}
	n := g.Nodes[1]
	if got := strings.Join(n.Captures, " "); !strings.Contains(got, "late") || !strings.Contains(got, "x") || !strings.Contains(got, "c") || len(n.Captures) != 3 {
		t.Errorf("captures are %q", n.Captures)
	}
	then := n.Attrs["then_branch"].G
	if then == nil || len(then.Nodes) != 2 || then.Nodes[0].Op != "If" || then.Initializers["k"] == nil || len(then.Outputs) != 1 {
		t.Fatalf("then_branch is %+v", then)
	}
	if in := then.Nodes[0].Attrs["else_branch"].G; in == nil || in.Nodes[0].Op != "Mul" {
		t.Errorf("the inner branch is %+v", in)
	}
}

func TestDecodeExpandsFunctions(t *testing.T) {
	m := tm{
		In: []tv{{Name: "x", Dims: []any{1}}}, Out: []tv{{Name: "y"}, {Name: "z"}, {Name: "w"}}, Domains: map[string]int64{"my": 1},
		Nodes: []tn{
			{Op: "Twice", Domain: "my", In: []string{"x"}, Out: []string{"y"}, Attrs: map[string]any{"slope": float32(0.5)}},
			{Op: "Twice", Domain: "my", In: []string{"x", ""}, Out: []string{"z"}},
			{Op: "Same", Domain: "my", In: []string{"y"}, Out: []string{"w"}},
		},
		Functions: []tf{
			{Name: "Twice", Domain: "my", In: []string{"a", "b"}, Out: []string{"out"}, Attrs: []string{"none"}, Defaults: map[string]any{"slope": float32(0.25)}, Opset: 14,
				Nodes: []tn{
					{Op: "LeakyRelu", In: []string{"a"}, Out: []string{"t"}, Attrs: map[string]any{"alpha": encode.Ref("slope"), "gone": encode.Ref("none")}},
					{Op: "Clip", In: []string{"t", "b"}, Out: []string{"out"}},
				}},
			{Name: "Same", Domain: "my", In: []string{"a"}, Out: []string{"a"}},
		},
	}
	g, err := Decode(m.Bytes(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range g.Nodes {
		got = append(got, fmt.Sprint(n.Op, n.Opset, n.Inputs, n.Outputs, n.Attrs["alpha"].F, len(n.Attrs)))
	}
	want := "LeakyRelu14 [x] [Twice#1/t] 0.5 1 LeakyRelu14 [x] [Twice#2/t] 0.25 1 Clip14 [Twice#1/t ] [y] 0 0 Clip14 [Twice#2/t ] [z] 0 0 " +
		"Identity13 [y] [w] 0 0"
	if strings.Join(got, " ") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, " "), want)
	}
}

// A function inside of a graph inside of a function: names stay apart.
func TestDecodeExpandsFunctionsInGraphs(t *testing.T) {
	m := tm{
		In: []tv{{Name: "a", Dims: []any{1}}, {Name: "c", DType: 9}}, Out: []tv{{Name: "y"}}, Domains: map[string]int64{"my": 1},
		Nodes: []tn{{Op: "Choose", Domain: "my", In: []string{"c", "a"}, Out: []string{"y"}}},
		Functions: []tf{
			{Name: "Choose", Domain: "my", In: []string{"which", "v"}, Out: []string{"r"}, Nodes: []tn{
				{Op: "Neg", In: []string{"v"}, Out: []string{"a"}}, // not the model's a
				{Op: "If", In: []string{"which"}, Out: []string{"r"}, Attrs: map[string]any{
					"then_branch": tg{Out: []tv{{Name: "o"}}, Nodes: []tn{{Op: "Inner", Domain: "my", In: []string{"a"}, Out: []string{"o"}}}},
					"else_branch": branch("Identity", "o", "v")}},
			}},
			{Name: "Inner", Domain: "my", In: []string{"v"}, Out: []string{"o"}, Nodes: []tn{{Op: "Exp", In: []string{"v"}, Out: []string{"o"}}}},
		},
	}
	g, err := Decode(m.Bytes(), Limits{})
	if err != nil {
		t.Fatal(err)
	}
	n := g.Nodes[1]
	then := n.Attrs["then_branch"].G
	if got := fmt.Sprint(n.Inputs, n.Captures, then.Nodes[0].Op, then.Nodes[0].Inputs, then.Nodes[0].Outputs); !strings.HasPrefix(got, "[c] [") ||
		!strings.HasSuffix(got, "Exp[Choose#1/a] [Choose#1/o]") {
		t.Errorf("got %s", got)
	}
}

func TestDecodeRefusesGraphsAndFunctions(t *testing.T) {
	call := func(op string, functions ...tf) []byte {
		return tm{In: []tv{{Name: "x"}}, Out: []tv{{Name: "y"}}, Domains: map[string]int64{"f": 1}, Functions: functions,
			Nodes: []tn{{Op: op, Domain: "f", In: []string{"x"}, Out: []string{"y"}}}}.Bytes()
	}
	fn := func(name string, nodes ...tn) tf {
		return tf{Name: name, Domain: "f", In: []string{"a"}, Out: []string{"b"}, Nodes: nodes}
	}
	to := func(op, in, out string) tn { return tn{Op: op, Domain: "f", In: []string{in}, Out: []string{out}} }
	inIf := func(g tg) []byte {
		return tm{In: []tv{{Name: "x"}, {Name: "c", DType: 9}}, Out: []tv{{Name: "y"}}, Nodes: []tn{{Op: "If", In: []string{"c"}, Out: []string{"y"},
			Attrs: map[string]any{"then_branch": g}}}}.Bytes()
	}
	bomb := []tf{fn("F0", tn{Op: "Relu", In: []string{"a"}, Out: []string{"b"}})}
	for i := range 20 {
		bomb = append(bomb, fn(fmt.Sprint("F", i+1), to(fmt.Sprint("F", i), "a", "m"), to(fmt.Sprint("F", i), "m", "b")))
	}
	chain := []tf{fn("F0", tn{Op: "Relu", In: []string{"a"}, Out: []string{"b"}})}
	for i := range 100 {
		chain = append(chain, fn(fmt.Sprint("F", i+1), to(fmt.Sprint("F", i), "a", "b")))
	}
	empty := fn("F") // many calls that leave nothing behind
	deep := branch("Relu", "o", "x")
	for range 60 {
		deep = tg{Out: []tv{{Name: "o"}}, Nodes: []tn{{Op: "If", In: []string{"c"}, Out: []string{"o"}, Attrs: map[string]any{"then_branch": deep}}}}
	}
	for name, c := range map[string]struct {
		bytes []byte
		want  error
		text  string
	}{
		"recursion":          {call("F", fn("F", to("F", "a", "b"))), ErrMalformed, "calls itself"},
		"mutual recursion":   {call("F", fn("F", to("G", "a", "b")), fn("G", to("F", "a", "b"))), ErrMalformed, "calls itself"},
		"doubling":           {call("F20", bomb...), ErrTooLarge, ""},
		"deep calls":         {call("F100", chain...), ErrTooLarge, "deep"},
		"no body":            {call("F", empty), ErrMalformed, "no graph with nodes"},
		"two of a name":      {call("F", empty, empty), ErrMalformed, "used twice"},
		"input twice":        {call("F", tf{Name: "F", Domain: "f", In: []string{"a", "a"}, Out: []string{"b"}}), ErrMalformed, `"a" stands twice`},
		"too many inputs":    {call("F", tf{Name: "F", Domain: "f", Out: []string{"b"}}), ErrMalformed, "1 inputs"},
		"reads what is out":  {call("F", fn("F", to("Relu", "x", "b"))), ErrMalformed, `reads "F#1/x"`},
		"graph to function":  {tm{In: []tv{{Name: "x"}}, Out: []tv{{Name: "y"}}, Functions: []tf{empty}, Nodes: []tn{{Op: "F", Domain: "f", In: []string{"x"}, Out: []string{"y"}, Attrs: map[string]any{"g": deep}}}}.Bytes(), ErrUnsupported, "graph given"},
		"reference outside":  {tm{In: []tv{{Name: "x"}}, Out: []tv{{Name: "y"}}, Nodes: []tn{{Op: "Elu", In: []string{"x"}, Out: []string{"y"}, Attrs: map[string]any{"alpha": encode.Ref("a")}}}}.Bytes(), ErrMalformed, "outside"},
		"deep graphs":        {inIf(deep), ErrTooLarge, "deep"},
		"no outputs":         {inIf(tg{Nodes: branch("Relu", "o", "x").Nodes}), ErrMalformed, "without outputs"},
		"nobody gives":       {inIf(branch("Relu", "o", "nobody")), ErrMalformed, `reads "nobody"`},
		"nobody gives out":   {inIf(tg{Out: []tv{{Name: "nobody"}}}), ErrMalformed, `"nobody"`},
		"cycle inside":       {inIf(tg{Out: []tv{{Name: "p"}}, Nodes: []tn{{Op: "Relu", In: []string{"q"}, Out: []string{"p"}}, {Op: "Relu", In: []string{"p"}, Out: []string{"q"}}}}), ErrMalformed, "cycle"},
		"cycle through":      {inIf(branch("Relu", "o", "y")), ErrMalformed, "cycle"},
		"given twice inside": {inIf(tg{Out: []tv{{Name: "o"}}, Nodes: append(branch("Relu", "o", "x").Nodes, branch("Relu", "o", "x").Nodes...)}), ErrMalformed, `"o"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Decode(c.bytes, Limits{})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error is %v, want %v with %q", err, c.want, c.text)
			}
		})
	}
}

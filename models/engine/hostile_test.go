package engine

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"idunno/models/onnx"
)

// Tensors that grow from a few bytes: of constants, while compiling, and of inputs, while planning and running. Each must be refused at once.
func TestExpandingTensors(t *testing.T) {
	huge := []int64{1 << 20, 1 << 20, 1 << 20}
	list := func(name string, v ...int64) tt { return tt{Name: name, Dims: []int64{int64(len(v))}, Ints: v} }
	one := tt{Name: "x", Dims: []int64{1, 1, 1}, Floats: []float32{1}}
	scalar := func(name string, v int64) tt { return tt{Name: name, Dims: []int64{}, Ints: []int64{v}} }
	for name, c := range map[string]struct {
		node tn
		init []tt
	}{
		"ConstantOfShape": {tn{Op: "ConstantOfShape", In: []string{"n"}}, []tt{list("n", huge...)}},
		"overflow":        {tn{Op: "ConstantOfShape", In: []string{"n"}}, []tt{list("n", 1<<31, 1<<31, 4, 1)}},
		"negative":        {tn{Op: "ConstantOfShape", In: []string{"n"}}, []tt{list("n", 4, -1)}},
		"Expand":          {tn{Op: "Expand", In: []string{"x", "n"}}, []tt{one, list("n", huge...)}},
		"Tile":            {tn{Op: "Tile", In: []string{"x", "n"}}, []tt{one, list("n", huge...)}},
		"negative Tile":   {tn{Op: "Tile", In: []string{"x", "n"}}, []tt{one, list("n", -1, 1, 1)}},
		"Range":           {tn{Op: "Range", In: []string{"a", "b", "c"}}, []tt{scalar("a", 0), scalar("b", 1<<60), scalar("c", 1)}},
		"endless Range":   {tn{Op: "Range", In: []string{"a", "b", "c"}}, []tt{scalar("a", 0), scalar("b", 1), scalar("c", 0)}},
		"wide Range":      {tn{Op: "Range", In: []string{"a", "b", "c"}}, []tt{scalar("a", math.MinInt64), scalar("b", math.MaxInt64), scalar("c", 1)}},
		"Pad":             {tn{Op: "Pad", In: []string{"x", "n"}}, []tt{one, list("n", 1<<40, 0, 0, 1<<40, 0, 0)}},
		"Pad overflow":    {tn{Op: "Pad", In: []string{"x", "n"}}, []tt{one, list("n", math.MaxInt64, 0, 0, math.MaxInt64, 0, 0)}},
		"Resize":          {tn{Op: "Resize", In: []string{"x", "", "", "n"}}, []tt{one, list("n", huge...)}},
		"Resize by scale": {tn{Op: "Resize", In: []string{"x", "", "s"}}, []tt{one, {Name: "s", Dims: []int64{3}, Floats: []float32{1e30, 1e30, 1e30}}}},
		"OneHot":          {tn{Op: "OneHot", In: []string{"i", "d", "v"}}, []tt{list("i", 1, 2), scalar("d", 1<<50), {Name: "v", Dims: []int64{2}, Floats: []float32{0, 1}}}},
		"Reshape":         {tn{Op: "Reshape", In: []string{"x", "n"}}, []tt{one, list("n", huge...)}},
		"window":          {tn{Op: "HannWindow", In: []string{"a"}}, []tt{scalar("a", 1<<50)}},
		"Gather":          {tn{Op: "Gather", In: []string{"x", "i"}}, []tt{one, list("i", 1<<40)}},
	} {
		c.node.Out = []string{"y"}
		for _, atRun := range []bool{false, true} {
			m := tm{Opset: 17, Out: []tv{{Name: "y"}}, Nodes: []tn{c.node}, Init: c.init}
			var in []*Tensor
			if atRun { // the same values as inputs
				m.Init = nil
				for _, v := range c.init {
					value, x := tv{Name: v.Name, DType: 1}, &Tensor{DType: onnx.Float, F: v.Floats}
					if v.Ints != nil {
						value.DType, x.DType, x.I = 7, onnx.Int64, v.Ints
					}
					for _, d := range v.Dims {
						value.Dims, x.Shape = append(value.Dims, int(d)), append(x.Shape, int(d))
					}
					m.In, in = append(m.In, value), append(in, x)
				}
			}
			began := time.Now()
			p, err := compile(t, m, Limits{Memory: 16 << 20})
			if err == nil {
				_, err = p.NewSession().Run(t.Context(), in)
			}
			if err == nil {
				t.Errorf("%s (at run: %v) is accepted", name, atRun)
			}
			if d := time.Since(began); d > 20*time.Second {
				t.Errorf("%s (at run: %v) took %v", name, atRun, d)
			}
		}
	}
}

// Much arithmetic from a small file: compiling does little of it, and a run ends soon after its context.
func TestMuchWorkFromSmallFiles(t *testing.T) {
	body := tg{In: []tv{{Name: "i"}, {Name: "c"}, {Name: "v"}}, Out: outs("c", "w"), Nodes: []tn{{Op: "MatMul", In: []string{"v", "v"}, Out: []string{"w"}}}}
	nested := tg{In: []tv{{Name: "i1"}, {Name: "c1"}, {Name: "u"}}, Out: outs("c1", "r"), Nodes: []tn{{Op: "Loop", In: []string{"m", "", "u"}, Out: []string{"r"}, Attrs: attrs{"body": body}}}}
	for name, m := range map[string]tm{
		"loop in loop": {Nodes: []tn{{Op: "Loop", In: []string{"m", "", "x"}, Out: []string{"y"}, Attrs: attrs{"body": nested}}}},
		"products": {Nodes: []tn{{Op: "Expand", In: []string{"x", "n"}, Out: []string{"big"}}, {Op: "MatMul", In: []string{"big", "big"}, Out: []string{"y"}}},
			Init: []tt{{Name: "n", Dims: []int64{4}, Ints: []int64{1000, 1000, 256, 256}}}},
	} {
		m.Out = outs("y")
		m.Init = append(m.Init, tt{Name: "m", Dims: []int64{}, Ints: []int64{1 << 40}}, tt{Name: "x", Dims: []int64{1, 1}, Floats: []float32{1}})
		began := time.Now()
		p, err := compile(t, m, Limits{Memory: 1 << 30})
		if d := time.Since(began); d > 20*time.Second {
			t.Errorf("%s: compiling took %v", name, d)
		}
		if err != nil {
			if !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		began = time.Now()
		_, err = p.NewSession().Run(ctx, nil)
		cancel()
		if d := time.Since(began); d > 20*time.Second || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: the run took %v and ended with %v", name, d, err)
		}
	}
}

// Every truncation of small models with graphs in nodes, and every byte of them changed in some ways, through to the run.
func TestRunSurvivesMutations(t *testing.T) {
	for _, m := range []tm{choice(), loop(3, nil), scan(attrs{}),
		{In: []tv{{Name: "x", Dims: []any{1, 2}}}, Out: outs("y", "z"), Domains: map[string]int64{"ai.onnx.ml": 3}, Nodes: []tn{{Op: "TreeEnsembleClassifier", Domain: "ai.onnx.ml",
			In: []string{"x"}, Out: []string{"y", "z"}, Attrs: forest("class", []int{0, 1, 2, 0, 1}, attrs{"classlabels_int64s": []int{5, 6, 7}})}}},
	} {
		whole := m.Bytes()
		for n := range whole {
			tryRun(t, whole[:n])
		}
		for i := range whole {
			for _, x := range []byte{1, 0xff} {
				p := append([]byte(nil), whole...)
				p[i] ^= x
				tryRun(t, p)
			}
		}
	}
}

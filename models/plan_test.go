package models

import (
	"errors"
	"strings"
	"testing"
)

func TestPlanOfABatch(t *testing.T) {
	m := load(t, mlp())
	p, err := m.Plan(100)
	if err != nil {
		t.Fatal(err)
	}
	if want := m.Info().FLOPsPerImage * 100; p.FLOPs != want || p.AtOnce != 100 || len(p.Steps) != 3 {
		t.Errorf("%+v, expected %d FLOPs", p, want)
	}
	if least := int64(4 * 100 * (784 + 512 + 512)); p.PeakBytes != least {
		t.Errorf("%d bytes, expected %d", p.PeakBytes, least)
	}
	share := 0.0
	for _, s := range p.Steps {
		share += s.Share
	}
	if p.Steps[0].Operator != "Gemm+Relu" || p.Steps[0].Shape[1] != 512 || share < 0.999 || share > 1.001 {
		t.Errorf("steps %+v", p.Steps)
	}
	large, err := m.Plan(1000)
	if err != nil || large.AtOnce != maxGroup || large.FLOPs != 10*p.FLOPs || large.PeakBytes > 3*p.PeakBytes {
		t.Errorf("%+v, %v", large, err)
	}
	if _, err := m.Plan(0); !errors.Is(err, ErrInput) {
		t.Errorf("a batch of nothing: %v", err)
	}
}

func TestPlanOfAFixedBatch(t *testing.T) {
	c := classifier("Softmax", nil)
	c.In[0].Dims = []any{8, 4}
	c.Out[0].Dims = []any{8, 3}
	p, err := load(t, c).Plan(9)
	if err != nil || p.AtOnce != 8 || p.FLOPs != 2*8*36 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestPlanThatOnlyARunKnows(t *testing.T) {
	c := classifier("Softmax", nil)
	c.In[0].Dims = []any{"N", "M"}
	if _, err := load(t, c).Plan(1); !errors.Is(err, ErrUnknownCost) {
		t.Errorf("error is %v", err)
	}
}

// A model whose smallest run needs more memory than allowed is refused with the figure.
func TestModelTooLargeToPlan(t *testing.T) {
	c := classifier("Softmax", nil)
	c.Init = append(c.Init, tt{Name: "to", Dims: []int64{3}, Ints: []int64{1, 1 << 15, 3}}, tt{Name: "axis", Dims: []int64{1}, Ints: []int64{1}})
	c.Nodes = append(c.Nodes[:1], tn{Op: "Expand", In: []string{"h", "to"}, Out: []string{"e"}}, tn{Op: "ReduceSum", In: []string{"e", "axis"}, Out: []string{"y"}, Attrs: map[string]any{"keepdims": 0}})
	_, err := Load(c.Bytes(), Options{MaxMemory: 384 << 10})
	if !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "a run with one image: too large: memory limit exceeded: 385 KiB for this run, at most 384 KiB are allowed") {
		t.Fatalf("error is %v", err)
	}
	if _, err := Load(c.Bytes(), Options{MaxMemory: 1 << 20}); err != nil {
		t.Error(err)
	}
}

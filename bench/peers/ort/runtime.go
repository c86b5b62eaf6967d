package main

import (
	"fmt"
	"runtime"

	ort "github.com/yalue/onnxruntime_go"

	"idunno/models/engine"
	"idunno/models/onnx"
)

// peer is an ONNX Runtime session.
type peer struct {
	session *ort.DynamicAdvancedSession
	in, out []string
}

// newPeer opens a model: one operator after the other, each on so many threads, every optimization of the graph on.
func newPeer(model []byte, g *onnx.Graph, threads int) (*peer, error) {
	o, err := ort.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer o.Destroy()
	for _, err := range []error{
		o.SetIntraOpNumThreads(threads), o.SetInterOpNumThreads(1), o.SetExecutionMode(ort.ExecutionModeSequential),
		o.SetGraphOptimizationLevel(ort.GraphOptimizationLevelEnableAll),
	} {
		if err != nil {
			return nil, err
		}
	}
	p := &peer{}
	for _, v := range g.Inputs {
		p.in = append(p.in, v.Name)
	}
	for _, v := range g.Outputs {
		p.out = append(p.out, v.Name)
	}
	if p.session, err = ort.NewDynamicAdvancedSessionWithONNXData(model, p.in, p.out, o); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *peer) close() { _ = p.session.Destroy() }

// bound is a run with its tensors in place: inputs and outputs are memory of this process that ONNX Runtime reads and writes directly.
type bound struct {
	p       *peer
	binding *ort.IoBinding
	values  []ort.Value
	pinner  runtime.Pinner
	outputs [][]float32
}

// bind prepares a run of the inputs; shapes are those of the outputs.
func (p *peer) bind(inputs []*engine.Tensor, shapes [][]int) (b *bound, err error) {
	b = &bound{p: p}
	if b.binding, err = p.session.CreateIoBinding(); err != nil {
		return nil, err
	}
	for i, t := range inputs {
		var v ort.Value
		if t.DType.IsFloat() {
			v, err = tensor(b, t.Shape, t.F)
		} else {
			v, err = tensor(b, t.Shape, t.I)
		}
		if err == nil {
			err = b.binding.BindInput(p.in[i], v)
		}
		if err != nil {
			return nil, fmt.Errorf("input %s: %w", p.in[i], err)
		}
	}
	for i, shape := range shapes {
		n := 1
		for _, d := range shape {
			n *= d
		}
		b.outputs = append(b.outputs, make([]float32, n))
		v, err := tensor(b, shape, b.outputs[i])
		if err == nil {
			err = b.binding.BindOutput(p.out[i], v)
		}
		if err != nil {
			return nil, fmt.Errorf("output %s: %w", p.out[i], err)
		}
	}
	return b, nil
}

// tensor hands elements to ONNX Runtime without a copy.
func tensor[T float32 | int64](b *bound, shape []int, data []T) (ort.Value, error) {
	dims := make([]int64, len(shape))
	for i, d := range shape {
		dims[i] = int64(d)
	}
	b.pinner.Pin(&data[0])
	t, err := ort.NewTensor(ort.NewShape(dims...), data)
	if err != nil {
		return nil, err
	}
	b.values = append(b.values, t)
	return t, nil
}

func (b *bound) run() error { return b.p.session.RunWithBinding(b.binding) }

func (b *bound) close() {
	_ = b.binding.Destroy()
	for _, v := range b.values {
		_ = v.Destroy()
	}
	b.pinner.Unpin()
}

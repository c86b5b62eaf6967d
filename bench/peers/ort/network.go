package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"idunno/models/arch"
	"idunno/models/dataset"
	"idunno/models/engine"
	"idunno/models/onnx"
	"idunno/models/onnx/encode"
	"idunno/models/zoo"
)

// network is a model that both sides have, and what goes into it.
type network struct {
	name    string
	bytes   []byte
	graph   *onnx.Graph
	program *engine.Program
	shipped bool // it takes MNIST's images
	// batches are inputs of n images each, several where the data matter: what an engine can leave out depends on them.
	batches func(n int) [][]*engine.Tensor
}

// mostBatches is how many batches of real images are taken in turn.
const mostBatches = 64

// load reads a network by the name of a shipped or standard one.
func load(name string, set *dataset.Set) (*network, error) {
	n := &network{name: name}
	if p, ok := zoo.Model(name); ok {
		n.bytes, n.shipped = p, true
		n.batches = func(size int) [][]*engine.Tensor {
			list := make([][]*engine.Tensor, min(mostBatches, set.Len()/size))
			for i := range list {
				list[i] = []*engine.Tensor{digits(n.graph, set, i*size, size)}
			}
			return list
		}
	} else if p, ok := arch.Build(name, arch.Config{}); ok {
		n.bytes = p
		n.batches = func(size int) [][]*engine.Tensor { return [][]*engine.Tensor{samples(name, arch.Config{}, size)} }
	} else {
		return nil, fmt.Errorf("there is no network %q: choose from %s", name, strings.Join(names(), ", "))
	}
	return n, n.compile()
}

func (n *network) compile() (err error) {
	if n.graph, err = onnx.Decode(n.bytes, onnx.Limits{Bytes: 1 << 30, Memory: 4 << 30}); err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	if n.program, err = engine.Compile(n.graph, engine.Limits{Memory: 4 << 30}); err != nil {
		return fmt.Errorf("%s: %w", n.name, err)
	}
	return nil
}

func names() []string { return slices.Concat(zoo.Names(), arch.Names()) }

// samples are an architecture's own.
func samples(name string, c arch.Config, n int) []*engine.Tensor {
	list, _ := arch.Sample(name, c, n)
	out := make([]*engine.Tensor, len(list))
	for i, t := range list {
		out[i] = tensorOf(t)
	}
	return out
}

func tensorOf(t encode.Tensor) *engine.Tensor {
	out := &engine.Tensor{DType: onnx.Float, F: t.Floats}
	if t.Ints != nil {
		out = &engine.Tensor{DType: onnx.Int64, I: t.Ints}
	}
	for _, d := range t.Dims {
		out.Shape = append(out.Shape, int(d))
	}
	return out
}

// digits are n images of the set from one on, scaled to 0..1 as package models does.
func digits(g *onnx.Graph, set *dataset.Set, from, n int) *engine.Tensor {
	size := len(set.X) / set.Len()
	t := &engine.Tensor{DType: onnx.Float, Shape: []int{n}, F: make([]float32, n*size)}
	for _, d := range g.Inputs[0].Dims[1:] {
		t.Shape = append(t.Shape, d.Size)
	}
	for i, v := range set.X[from*size:][:n*size] {
		t.F[i] = float32(v) / 255
	}
	return t
}

// both runs the same inputs through both sides once and returns every output.
func (n *network) both(ctx context.Context, p *peer, s *engine.Session, in []*engine.Tensor) (ours []*engine.Tensor, theirs [][]float32, err error) {
	if ours, err = s.Run(ctx, in); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", n.name, err)
	}
	shapes := make([][]int, len(ours))
	for i, t := range ours {
		shapes[i] = t.Shape
	}
	b, err := p.bind(in, shapes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s in ONNX Runtime: %w", n.name, err)
	}
	defer b.close()
	if err := b.run(); err != nil {
		return nil, nil, fmt.Errorf("%s in ONNX Runtime: %w", n.name, err)
	}
	return ours, b.outputs, nil
}

// files lists the cases in a folder.
func files(dir string) ([]string, error) {
	list, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%w: no *.json in %s", os.ErrNotExist, dir)
	}
	return list, err
}

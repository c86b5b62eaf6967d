package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"idunno/models/dataset"
	"idunno/models/engine"
)

// tolerance is how far the engine's output may be from ONNX Runtime's, relative to the largest output of an image.
const tolerance = 1e-4

// checkBatch is how many samples of a standard architecture are compared, and half of them by themselves.
const checkBatch = 4

var errDiffers = errors.New("the engine and ONNX Runtime differ")

// agreement is what a comparison of outputs found.
type agreement struct {
	images, differing int     // images, and those of another class
	worst             float64 // largest difference of an output relative to the largest output of its image
	element           float64 // largest difference relative to the output itself, of those that are not small
}

// add compares the outputs of n images.
func (a *agreement) add(got, want []float32, n int) {
	classes := len(want) / n
	for i := range n {
		x, y := got[i*classes:][:classes], want[i*classes:][:classes]
		best, top, scale := 0, 0, 0.0
		for j := range y {
			if x[j] > x[best] {
				best = j
			}
			if y[j] > y[top] {
				top = j
			}
			scale = max(scale, math.Abs(float64(y[j])))
		}
		for j := range y {
			d := math.Abs(float64(x[j]) - float64(y[j]))
			if math.IsNaN(d) {
				d = math.Inf(1)
			}
			a.worst = max(a.worst, d/scale)
			if w := math.Abs(float64(y[j])); w > scale/100 {
				a.element = max(a.element, d/w)
			}
		}
		a.images++
		if best != top {
			a.differing++
		}
	}
}

// check compares every network and prints a line for each.
func check(ctx context.Context, w io.Writer, names []string, set *dataset.Set) error {
	var failed error
	fmt.Fprintf(w, "%-16s %8s %9s %20s %20s\n", "MODEL", "IMAGES", "DIFFERING", "OF LARGEST OUTPUT", "OF THE OUTPUT ITSELF")
	for _, name := range names {
		n, err := load(name, set)
		if err != nil {
			return err
		}
		a, err := n.agreement(ctx, set)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%-16s %8d %9d %20.2g %20.2g\n", name, a.images, a.differing, a.worst, a.element)
		if a.differing > 0 || !(a.worst <= tolerance) {
			failed = errDiffers
		}
	}
	return failed
}

// agreement runs a shipped model over every image of the set, another one over its samples, in batches of two sizes.
func (n *network) agreement(ctx context.Context, set *dataset.Set) (a agreement, err error) {
	p, err := newPeer(n.bytes, n.graph, 1)
	if err != nil {
		return a, fmt.Errorf("%s in ONNX Runtime: %w", n.name, err)
	}
	defer p.close()
	s := n.program.NewSession()
	var inputs [][]*engine.Tensor
	sizes := []int{checkBatch, checkBatch / 2}
	if n.shipped {
		sizes = nil
		for from := 0; from < set.Len(); from += 100 {
			sizes = append(sizes, min(100, set.Len()-from))
			inputs = append(inputs, []*engine.Tensor{digits(n.graph, set, from, min(100, set.Len()-from))})
		}
	} else {
		for _, size := range sizes {
			inputs = append(inputs, n.batches(size)...)
		}
	}
	for i, in := range inputs {
		ours, theirs, err := n.both(ctx, p, s, in)
		if err != nil {
			return a, err
		}
		if len(ours) != 1 || !slices.Equal(ours[0].Shape, []int{sizes[i], len(theirs[0]) / sizes[i]}) {
			return a, fmt.Errorf("%s: %d outputs, the first %v", n.name, len(ours), ours[0].Shape)
		}
		a.add(ours[0].F, theirs[0], sizes[i])
	}
	return a, nil
}

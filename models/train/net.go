package train

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// net is one goroutine's copy of a network: the layers with their scratch memory.
// The parameters live outside it, in one vector that all copies share.
type net struct {
	in     int // elements of one image
	layers []layer
	at     []int       // layer i has parameters at[i]..at[i+1]
	act    [][]float32 // act[0] is the input, act[i+1] what layer i puts out
	grad   [][]float32 // grad[i] is dLoss/d act[i]; grad[0] is nil
}

// newNet links layers for at most rows images at a time.
func newNet(in, rows int, layers ...layer) *net {
	t := &net{in: in, layers: layers, at: []int{0}, act: [][]float32{make([]float32, rows*in)}, grad: [][]float32{nil}}
	for i, l := range layers {
		t.at = append(t.at, t.at[i]+l.weights())
		t.act = append(t.act, make([]float32, rows*l.size()))
		t.grad = append(t.grad, make([]float32, rows*l.size()))
	}
	return t
}

// shape is what the networks are built for.
type shape struct {
	image   []int // of one image: [C, H, W] for the cnn, anything for the mlp
	classes int
	rows    int     // images at a time
	drop    float64 // share of inputs that dropout leaves out
}

func (s shape) elements() int {
	n := 1
	for _, d := range s.image {
		n *= d
	}
	return n
}

// The sizes of the two networks.
const (
	mlpHidden   = 512
	cnnFirst    = 32
	cnnSecond   = 64
	cnnHidden   = 128
	cnnMinInput = 10 // rows and columns that leave one pixel after two convolutions and poolings

	maxElements = 1 << 14 // of one image, which bounds the memory of a run to about 1 GB
)

// newMLP is in-512-512-classes with ReLU.
func newMLP(s shape) *net {
	in := s.elements()
	return newNet(in, s.rows,
		&dense{in: in, out: mlpHidden}, &relu{mlpHidden}, newDropout(mlpHidden, s.drop, s.rows),
		&dense{in: mlpHidden, out: mlpHidden}, &relu{mlpHidden}, newDropout(mlpHidden, s.drop, s.rows),
		&dense{in: mlpHidden, out: s.classes})
}

// newCNN is conv 3x3x32, pool, conv 3x3x64, pool, dense 128, dense classes, with
// ReLU and without padding: 28x28 becomes 26, 13, 11, 5.
func newCNN(s shape) *net {
	return newConvNet(s, cnnFirst, cnnSecond, cnnHidden)
}

func newConvNet(s shape, first, second, hidden int) *net {
	c1 := newConv(s.image[0], s.image[1], s.image[2], first, s.rows)
	h, w := c1.geo.OutH(), c1.geo.OutW()
	p1 := newPool(first, h, w, s.rows)
	c2 := newConv(first, h/2, w/2, second, s.rows)
	h, w = c2.geo.OutH(), c2.geo.OutW()
	p2 := newPool(second, h, w, s.rows)
	return newNet(s.elements(), s.rows,
		c1, &relu{c1.size()}, p1,
		c2, &relu{c2.size()}, p2,
		&dense{in: p2.size(), out: hidden}, &relu{hidden}, newDropout(hidden, s.drop, s.rows),
		&dense{in: hidden, out: s.classes})
}

// build makes a copy of the network that arch names.
func build(arch string, s shape) (*net, error) {
	if n := s.elements(); n > maxElements {
		return nil, fmt.Errorf("images of %v have %d elements, at most %d: make them smaller: %w", s.image, n, maxElements, ErrData)
	}
	switch arch {
	case "mlp":
		return newMLP(s), nil
	case "cnn":
		if len(s.image) != 3 || s.image[1] < cnnMinInput || s.image[2] < cnnMinInput {
			return nil, fmt.Errorf("cnn takes images [channels rows columns] of at least %[1]dx%[1]d, not %[2]v; the mlp takes any: %[3]w",
				cnnMinInput, s.image, ErrData)
		}
		return newCNN(s), nil
	}
	return nil, fmt.Errorf("arch %q: choose mlp or cnn: %w", arch, ErrConfig)
}

// weights is the number of parameters.
func (t *net) weights() int { return t.at[len(t.layers)] }

// initial is a fresh parameter vector.
func (t *net) initial(rng *rand.Rand) []float32 {
	w := make([]float32, t.weights())
	for i, l := range t.layers {
		l.initial(rng, w[t.at[i]:t.at[i+1]])
	}
	return w
}

// forward runs the first n rows of act[0] through the network and returns the
// logits.
func (t *net) forward(m mode, w []float32, n int) []float32 {
	for i, l := range t.layers {
		l.forward(m, w[t.at[i]:t.at[i+1]], t.act[i], t.act[i+1], n)
	}
	return t.act[len(t.layers)]
}

// backward turns dLoss/dlogits, which stands in the last grad, into the gradient g
// of all parameters.
func (t *net) backward(w, g []float32, n int) {
	for i := len(t.layers) - 1; i >= 0; i-- {
		from, to := t.at[i], t.at[i+1]
		t.layers[i].backward(w[from:to], g[from:to], t.act[i], t.act[i+1], t.grad[i+1], t.grad[i], n)
	}
}

// score is what a number of images cost and how many were right.
type score struct {
	loss    float64 // summed cross-entropy, natural logarithm
	correct int
}

// crossEntropy scores n rows of logits against their labels and, unless d is nil,
// writes the gradient of loss*scale with respect to the logits.
func crossEntropy(logits []float32, labels []int32, classes int, scale float32, d []float32) score {
	var s score
	for i, y := range labels {
		z := logits[i*classes : (i+1)*classes]
		best := 0
		for c, v := range z {
			if v > z[best] {
				best = c
			}
		}
		top, sum := float64(z[best]), 0.0
		for _, v := range z {
			sum += math.Exp(float64(v) - top)
		}
		s.loss += math.Log(sum) - (float64(z[y]) - top)
		if best == int(y) {
			s.correct++
		}
		if d == nil {
			continue
		}
		di := d[i*classes : (i+1)*classes]
		for c, v := range z {
			di[c] = scale * float32(math.Exp(float64(v)-top)/sum)
		}
		di[y] -= scale
	}
	return s
}

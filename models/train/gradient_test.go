package train

import (
	"math"
	"math/rand/v2"
	"testing"
)

// reference computes a network's loss in float64 with plain loops: what the layers
// must equal, and, through differences, what their gradients must equal.
func reference(t *net, w []float64, x []float64, labels []int32, keeps [][]float32) float64 {
	n := len(labels)
	for i, l := range t.layers {
		p := w[t.at[i]:t.at[i+1]]
		y := make([]float64, n*l.size())
		switch l := l.(type) {
		case *dense:
			for r := range n {
				for o := range l.out {
					s := p[l.out*l.in+o]
					for k := range l.in {
						s += x[r*l.in+k] * p[o*l.in+k]
					}
					y[r*l.out+o] = s
				}
			}
		case *conv:
			refConv(l, p, x, y, n)
		case *relu:
			for j, v := range x {
				y[j] = math.Max(v, 0)
			}
		case *pool:
			refPool(l, x, y, n)
		case *dropout:
			for j, v := range x {
				y[j] = v * float64(keeps[i][j])
			}
		}
		x = y
	}
	classes, loss := len(x)/n, 0.0
	for r, label := range labels {
		sum := 0.0
		for _, z := range x[r*classes : (r+1)*classes] {
			sum += math.Exp(z)
		}
		loss += math.Log(sum) - x[r*classes+int(label)]
	}
	return loss / float64(n)
}

func refConv(l *conv, p, x, y []float64, n int) {
	g, oh, ow := l.geo, l.geo.OutH(), l.geo.OutW()
	for r := range n {
		for o := range l.out {
			for i := range oh {
				for j := range ow {
					s := p[l.out*l.k()+o]
					for c := range g.C {
						for a := range g.KH {
							for b := range g.KW {
								s += p[((o*g.C+c)*g.KH+a)*g.KW+b] * x[((r*g.C+c)*g.H+i+a)*g.W+j+b]
							}
						}
					}
					y[((r*l.out+o)*oh+i)*ow+j] = s
				}
			}
		}
	}
}

func refPool(l *pool, x, y []float64, n int) {
	for plane := range n * l.c {
		for i := range l.h / 2 {
			for j := range l.w / 2 {
				m := math.Inf(-1)
				for a := range 2 {
					for b := range 2 {
						m = math.Max(m, x[(plane*l.h+2*i+a)*l.w+2*j+b])
					}
				}
				y[(plane*(l.h/2)+i)*(l.w/2)+j] = m
			}
		}
	}
}

// checkGradient compares backward with central differences of the reference, for
// every parameter, and forward with the reference itself.
func checkGradient(t *testing.T, net *net, n, classes int, drop bool) {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, 11))
	w := net.initial(rng)
	for i := range w {
		w[i] += float32(0.1 * rng.NormFloat64()) // so that biases are not zero
	}
	x := make([]float64, n*net.in)
	for i := range x {
		net.act[0][i] = rng.Float32()
		x[i] = float64(net.act[0][i])
	}
	labels := make([]int32, n)
	for i := range labels {
		labels[i] = int32(rng.IntN(classes))
	}
	m := mode{}
	if drop {
		m.dropout = rng
	}
	logits := net.forward(m, w, n)
	s := crossEntropy(logits, labels, classes, 1/float32(n), net.grad[len(net.layers)])
	g := make([]float32, len(w))
	for i := range g {
		g[i] = float32(math.NaN()) // backward must overwrite, not add
	}
	net.backward(w, g, n)

	keeps := make([][]float32, len(net.layers))
	for i, l := range net.layers {
		if d, ok := l.(*dropout); ok {
			keeps[i] = d.keep
		}
	}
	w64 := make([]float64, len(w))
	for i, v := range w {
		w64[i] = float64(v)
	}
	if want := reference(net, w64, x, labels, keeps); math.Abs(s.loss/float64(n)-want) > 1e-5*(1+want) {
		t.Errorf("loss %v, reference %v", s.loss/float64(n), want)
	}
	const h = 1e-6
	largest := 0.0
	for i, v := range w64 {
		w64[i] = v + h
		up := reference(net, w64, x, labels, keeps)
		w64[i] = v - h
		down := reference(net, w64, x, labels, keeps)
		w64[i] = v
		want := (up - down) / (2 * h)
		largest = max(largest, math.Abs(want))
		if !(math.Abs(float64(g[i])-want) <= 1e-5+1e-4*math.Abs(want)) {
			t.Fatalf("parameter %d of %d: gradient %v, by differences %v", i, len(w), g[i], want)
		}
	}
	if largest < 0.01 {
		t.Errorf("largest gradient is %v: the test shows nothing", largest)
	}
}

func TestGradients(t *testing.T) {
	const n, classes = 5, 3
	for _, c := range []struct {
		name string
		net  *net
		drop bool
	}{
		{"dense", newNet(7, n, &dense{in: 7, out: classes}), false},
		{"dense relu dense", newNet(6, n, &dense{in: 6, out: 9}, &relu{9}, &dense{in: 9, out: classes}), false},
		{"dense dropout dense", newNet(6, n, &dense{in: 6, out: 20}, newDropout(20, 0.4, n), &dense{in: 20, out: classes}), true},
		{"dropout off", newNet(6, n, &dense{in: 6, out: 20}, newDropout(20, 0.4, n), &dense{in: 20, out: classes}), false},
		{"conv", newNet(2*5*4, n, newConv(2, 5, 4, 3, n), &dense{in: 3 * 3 * 2, out: classes}), false},
		{"conv conv", newNet(7*6, n, newConv(1, 7, 6, 2, n), newConv(2, 5, 4, 3, n), &dense{in: 3 * 3 * 2, out: classes}), false},
		{"conv pool", newNet(7*6, n, newConv(1, 7, 6, 2, n), newPool(2, 5, 4, n), &dense{in: 2 * 2 * 2, out: classes}), false},
		{"whole cnn, narrow", newConvNet(shape{image: []int{2, 10, 11}, classes: classes, rows: n, drop: 0.3}, 3, 4, 6), true},
	} {
		t.Run(c.name, func(t *testing.T) { checkGradient(t, c.net, n, classes, c.drop) })
	}
}

// TestGradientsOfFullNetworks follows the gradient of both networks as they are
// trained: along a random direction the loss must change as the gradient says.
func TestGradientsOfFullNetworks(t *testing.T) {
	const n, classes = 2, 10
	for _, arch := range []string{"mlp", "cnn"} {
		t.Run(arch, func(t *testing.T) {
			net, err := build(arch, shape{image: []int{1, 28, 28}, classes: classes, rows: n})
			if err != nil {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(3, 5))
			w := net.initial(rng)
			x, labels := make([]float64, n*net.in), []int32{3, 8}
			for i := range x {
				net.act[0][i] = rng.Float32()
				x[i] = float64(net.act[0][i])
			}
			crossEntropy(net.forward(mode{}, w, n), labels, classes, 1.0/n, net.grad[len(net.layers)])
			g := make([]float32, len(w))
			net.backward(w, g, n)
			keeps := make([][]float32, len(net.layers))
			for i, l := range net.layers {
				if d, ok := l.(*dropout); ok {
					keeps[i] = d.keep
				}
			}
			// Per layer, so that a wrong small layer cannot hide behind a large one.
			for i := range net.layers {
				if net.at[i] == net.at[i+1] {
					continue
				}
				const h = 1e-6
				up, down, want := make([]float64, len(w)), make([]float64, len(w)), 0.0
				for j, v := range w {
					up[j], down[j] = float64(v), float64(v)
					if j >= net.at[i] && j < net.at[i+1] {
						// Along the gradient's sign no part cancels another.
						d := math.Copysign(rng.Float64(), float64(g[j]))
						up[j], down[j], want = up[j]+h*d, down[j]-h*d, want+d*float64(g[j])
					}
				}
				got := (reference(net, up, x, labels, keeps) - reference(net, down, x, labels, keeps)) / (2 * h)
				if want <= 0 || math.Abs(got-want) > 1e-3*want {
					t.Errorf("layer %d: the loss changes by %v along the gradient, which says %v", i, got, want)
				}
			}
		})
	}
}

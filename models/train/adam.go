package train

import "math"

// adam is the state of the optimiser (Kingma, Ba, "Adam: A Method for Stochastic
// Optimization", 2015, with the constants given there).
type adam struct {
	m, v []float32 // moving averages of the gradient and of its square
	t    int       // steps begun
}

const (
	beta1   = 0.9
	beta2   = 0.999
	epsilon = 1e-8
)

func newAdam(n int) *adam { return &adam{m: make([]float32, n), v: make([]float32, n)} }

// begin counts a step and returns its step size, corrected for the averages' start
// at zero.
func (a *adam) begin(rate float64) float32 {
	a.t++
	return float32(rate * math.Sqrt(1-math.Pow(beta2, float64(a.t))) / (1 - math.Pow(beta1, float64(a.t))))
}

// update moves the parameters from..to-1 by one step along the sum of the shards'
// gradients, added in the shards' order.
func (a *adam) update(w []float32, shards [][]float32, from, to int, step float32) {
	sum := shards[0][from:to]
	for _, g := range shards[1:] {
		for i, v := range g[from:to] {
			sum[i] += v
		}
	}
	w, m, v := w[from:to], a.m[from:to], a.v[from:to]
	for i, g := range sum {
		m[i] += (1 - beta1) * (g - m[i])
		v[i] += (1 - beta2) * (g*g - v[i])
		w[i] -= step * m[i] / (float32(math.Sqrt(float64(v[i]))) + epsilon)
	}
}

package arch

import (
	"fmt"
	"math"
	"math/rand/v2"

	"idunno/models/onnx/encode"
)

// builder collects a network node by node. Values are known by their names.
type builder struct {
	c   Config
	m   encode.Model
	rng *rand.PCG
	// square is the mean square that a value's elements have, roughly; weights and statistics are chosen by it.
	square map[string]float64
}

func (b *builder) input(name string, dtype int64, dims ...any) {
	b.m.In = append(b.m.In, encode.Value{Name: name, DType: dtype, Dims: dims})
	b.square[name] = 1
}

// channels is n under the Config's Width.
func (b *builder) channels(n int) int { return max(2, int(math.Round(float64(n)*b.c.Width))) }

// repeats is n under the Config's Depth.
func (b *builder) repeats(n int) int { return max(1, int(math.Round(float64(n)*b.c.Depth))) }

// node appends an operator with one output and returns its name.
func (b *builder) node(op string, attrs encode.Attrs, in ...string) string {
	name := fmt.Sprintf("/%s_%d", op, len(b.m.Nodes))
	out := name + "_output_0"
	b.m.Nodes = append(b.m.Nodes, encode.Node{Name: name, Op: op, In: in, Out: []string{out}, Attrs: attrs})
	if len(in) > 0 {
		b.square[out] = b.square[in[0]]
	}
	return out
}

// elementwise operators change the mean square of normally distributed numbers by about these factors.
const (
	halfOfIt     = 0.5  // ReLU
	afterSiLU    = 0.36 // x * sigmoid(x)
	afterGELU    = 0.42
	afterMean    = 0.4 // the mean over many positions of what ReLU or SiLU leave
	squareOfGate = 0.28
)

// scaled notes that a value's mean square is its first input's times f.
func (b *builder) scaled(x string, f float64) string {
	b.square[x] *= f
	return x
}

// add is the sum of two values.
func (b *builder) add(x, y string) string {
	z := b.node("Add", nil, x, y)
	b.square[z] = b.square[x] + b.square[y]
	return z
}

// floats is a constant of floats, a scalar without dims.
func (b *builder) floats(v float32) string {
	return b.node("Constant", encode.Attrs{"value": encode.Tensor{Floats: []float32{v}}})
}

// int is a scalar constant.
func (b *builder) int(v int64) string {
	return b.node("Constant", encode.Attrs{"value": encode.Tensor{Ints: []int64{v}}})
}

// ints is a constant vector.
func (b *builder) ints(v ...int64) string {
	return b.node("Constant", encode.Attrs{"value": encode.Tensor{Dims: []int64{int64(len(v))}, Ints: v}})
}

// uniform returns n numbers of mean 0 and the given standard deviation.
func (b *builder) uniform(n int, deviation float64) []float32 {
	w := make([]float32, n)
	scale := float32(deviation * math.Sqrt(12) / (1 << 24))
	for i := 0; i < n; i += 2 {
		bits := b.rng.Uint64()
		w[i] = float32(int32(bits>>40)-1<<23) * scale
		if i+1 < n {
			w[i+1] = float32(int32(bits<<32>>40)-1<<23) * scale
		}
	}
	return w
}

// between returns n numbers between two bounds.
func (b *builder) between(n int, low, high float64) []float32 {
	w := b.uniform(n, 1/math.Sqrt(12))
	for i, v := range w {
		w[i] = float32(low + (high-low)*(float64(v)+0.5))
	}
	return w
}

// tensor enters a parameter.
func (b *builder) tensor(what string, w []float32, dims ...int) string {
	t := encode.Tensor{Name: fmt.Sprintf("p%d.%s", len(b.m.Init), what), Floats: w}
	for _, d := range dims {
		t.Dims = append(t.Dims, int64(d))
	}
	b.m.Init = append(b.m.Init, t)
	return t.Name
}

// window describes a convolution.
type window struct {
	in, out     int
	kernel      int
	stride, pad int
	groups      int // 0 means 1
}

func (w *window) attrs() encode.Attrs {
	return encode.Attrs{
		"dilations": []int{1, 1}, "group": max(w.groups, 1), "kernel_shape": []int{w.kernel, w.kernel},
		"pads": []int{w.pad, w.pad, w.pad, w.pad}, "strides": []int{w.stride, w.stride},
	}
}

// weights draws weights by He's rule: the mean square of the output is twice that of the input.
func (b *builder) weights(w window) (values []float32, dims []int) {
	per := w.in / max(w.groups, 1)
	fan := per * w.kernel * w.kernel
	return b.uniform(w.out*fan, math.Sqrt(2/float64(fan))), []int{w.out, per, w.kernel, w.kernel}
}

// conv is a convolution with bias.
func (b *builder) conv(x string, w window) string {
	values, dims := b.weights(w)
	y := b.node("Conv", w.attrs(), x, b.tensor("weight", values, dims...), b.tensor("bias", b.uniform(w.out, 0.05), w.out))
	return b.scaled(y, 2)
}

// convNorm is a convolution without bias and the BatchNormalization after it, which gives its output the mean square gain².
func (b *builder) convNorm(x string, w window, gain float64) string {
	const epsilon = 1e-5
	values, dims := b.weights(w)
	square := 2 * b.square[x]
	gamma, beta := b.between(w.out, 0.8*gain, 1.2*gain), b.uniform(w.out, 0.1*gain)
	mean, variance := b.uniform(w.out, 0.1*math.Sqrt(square)), b.between(w.out, 0.7*square, 1.4*square)
	var y string
	if b.c.Folded {
		per := len(values) / w.out
		for o := range w.out {
			scale := float64(gamma[o]) / math.Sqrt(float64(variance[o])+epsilon)
			for i := range per {
				values[o*per+i] = float32(float64(values[o*per+i]) * scale)
			}
			beta[o] = float32(float64(beta[o]) - float64(mean[o])*scale)
		}
		y = b.node("Conv", w.attrs(), x, b.tensor("weight", values, dims...), b.tensor("bias", beta, w.out))
	} else {
		y = b.node("Conv", w.attrs(), x, b.tensor("weight", values, dims...))
		y = b.node("BatchNormalization", encode.Attrs{"epsilon": float32(epsilon), "momentum": float32(0.9), "training_mode": 0}, y,
			b.tensor("weight", gamma, w.out), b.tensor("bias", beta, w.out), b.tensor("running_mean", mean, w.out), b.tensor("running_var", variance, w.out))
	}
	b.square[y] = gain * gain
	return y
}

func (b *builder) relu(x string) string { return b.scaled(b.node("Relu", nil, x), halfOfIt) }

// relu6 is what the exporter makes of it.
func (b *builder) relu6(x string) string {
	return b.scaled(b.node("Clip", nil, x, b.floats(0), b.floats(6)), halfOfIt)
}

// silu is what the exporter makes of it.
func (b *builder) silu(x string) string {
	return b.scaled(b.node("Mul", nil, x, b.node("Sigmoid", nil, x)), afterSiLU)
}

func (b *builder) maxPool(x string, kernel, stride, pad, ceil int) string {
	return b.node("MaxPool", encode.Attrs{
		"ceil_mode": ceil, "dilations": []int{1, 1}, "kernel_shape": []int{kernel, kernel}, "pads": []int{pad, pad, pad, pad}, "strides": []int{stride, stride},
	}, x)
}

// pooled is the mean of each channel, [N, channels].
func (b *builder) pooled(x string) string {
	x = b.scaled(b.node("GlobalAveragePool", nil, x), afterMean)
	return b.node("Flatten", encode.Attrs{"axis": 1}, x)
}

// linear is a dense layer over a matrix.
func (b *builder) linear(x string, in, out int) string {
	w := b.tensor("weight", b.uniform(in*out, math.Sqrt(1/float64(in))), out, in)
	return b.node("Gemm", encode.Attrs{"alpha": float32(1), "beta": float32(1), "transB": 1}, x, w, b.tensor("bias", b.uniform(out, 0.05), out))
}

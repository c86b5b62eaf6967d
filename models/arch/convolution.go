package arch

import "idunno/models/onnx/encode"

// inBranch is the gain of the last normalization of a residual branch: small, so that sums don't grow from block to block.
const inBranch = 0.4

func (b *builder) resnet18() string { return b.resnet([4]int{2, 2, 2, 2}, 1, b.basic) }
func (b *builder) resnet50() string { return b.resnet([4]int{3, 4, 6, 3}, 4, b.bottleneck) }

// resnet has four stages of residual blocks, whose output has expansion times the channels of their inner layers.
func (b *builder) resnet(blocks [4]int, expansion int, branch func(x string, in, width, stride int) string) string {
	in := b.channels(64)
	x := b.relu(b.convNorm("input", window{in: 3, out: in, kernel: 7, stride: 2, pad: 3}, 1))
	x = b.maxPool(x, 3, 2, 1, 0)
	for stage, n := range blocks {
		width := b.channels(64 << stage)
		for i := range b.repeats(n) {
			stride := 1
			if stage > 0 && i == 0 {
				stride = 2
			}
			y, shortcut := branch(x, in, width, stride), x
			if stride != 1 || in != expansion*width {
				shortcut = b.convNorm(x, window{in: in, out: expansion * width, kernel: 1, stride: stride}, 1)
			}
			x, in = b.relu(b.add(y, shortcut)), expansion*width
		}
	}
	return b.linear(b.pooled(x), in, b.c.Classes)
}

func (b *builder) basic(x string, in, width, stride int) string {
	x = b.relu(b.convNorm(x, window{in: in, out: width, kernel: 3, stride: stride, pad: 1}, 1))
	return b.convNorm(x, window{in: width, out: width, kernel: 3, stride: 1, pad: 1}, inBranch)
}

func (b *builder) bottleneck(x string, in, width, stride int) string {
	x = b.relu(b.convNorm(x, window{in: in, out: width, kernel: 1, stride: 1}, 1))
	x = b.relu(b.convNorm(x, window{in: width, out: width, kernel: 3, stride: stride, pad: 1}, 1))
	return b.convNorm(x, window{in: width, out: 4 * width, kernel: 1, stride: 1}, inBranch)
}

func (b *builder) mobileNetV2() string {
	stages := []struct{ expand, out, blocks, stride int }{
		{1, 16, 1, 1}, {6, 24, 2, 2}, {6, 32, 3, 2}, {6, 64, 4, 2}, {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1},
	}
	in := b.channels(32)
	x := b.relu6(b.convNorm("input", window{in: 3, out: in, kernel: 3, stride: 2, pad: 1}, 1))
	for _, s := range stages {
		out, stride := b.channels(s.out), s.stride
		for range b.repeats(s.blocks) {
			x = b.inverted(x, in, in*s.expand, out, stride)
			in, stride = out, 1
		}
	}
	last := b.channels(1280)
	x = b.relu6(b.convNorm(x, window{in: in, out: last, kernel: 1, stride: 1}, 1))
	return b.linear(b.pooled(x), last, b.c.Classes)
}

// inverted is MobileNetV2's block: widen, convolve each channel, narrow.
func (b *builder) inverted(x string, in, hidden, out, stride int) string {
	y, residual, gain := x, stride == 1 && in == out, 1.0
	if residual {
		gain = inBranch
	}
	if hidden != in {
		y = b.relu6(b.convNorm(y, window{in: in, out: hidden, kernel: 1, stride: 1}, 1))
	}
	y = b.relu6(b.convNorm(y, window{in: hidden, out: hidden, kernel: 3, stride: stride, pad: 1, groups: hidden}, 1))
	y = b.convNorm(y, window{in: hidden, out: out, kernel: 1, stride: 1}, gain)
	if residual {
		y = b.add(x, y)
	}
	return y
}

func (b *builder) squeezeNet() string {
	in := b.channels(64)
	x := b.relu(b.conv("input", window{in: 3, out: in, kernel: 3, stride: 2}))
	for _, fires := range [][][2]int{{{16, 64}, {16, 64}}, {{32, 128}, {32, 128}}, {{48, 192}, {48, 192}, {64, 256}, {64, 256}}} {
		x = b.maxPool(x, 3, 2, 0, 1)
		for _, f := range fires {
			squeeze, expand := b.channels(f[0]), b.channels(f[1])
			x = b.relu(b.conv(x, window{in: in, out: squeeze, kernel: 1, stride: 1}))
			left := b.relu(b.conv(x, window{in: squeeze, out: expand, kernel: 1, stride: 1}))
			right := b.relu(b.conv(x, window{in: squeeze, out: expand, kernel: 3, stride: 1, pad: 1}))
			x, in = b.node("Concat", encode.Attrs{"axis": 1}, left, right), 2*expand
		}
	}
	return b.pooled(b.relu(b.conv(x, window{in: in, out: b.c.Classes, kernel: 1, stride: 1})))
}

func (b *builder) efficientNetB0() string {
	stages := []struct{ expand, kernel, stride, out, blocks int }{
		{1, 3, 1, 16, 1}, {6, 3, 2, 24, 2}, {6, 5, 2, 40, 2}, {6, 3, 2, 80, 3}, {6, 5, 1, 112, 3}, {6, 5, 2, 192, 4}, {6, 3, 1, 320, 1},
	}
	in := b.channels(32)
	x := b.silu(b.convNorm("input", window{in: 3, out: in, kernel: 3, stride: 2, pad: 1}, 1))
	for _, s := range stages {
		out, stride := b.channels(s.out), s.stride
		for range b.repeats(s.blocks) {
			y, residual, gain, hidden := x, stride == 1 && in == out, 1.0, in*s.expand
			if residual {
				gain = inBranch
			}
			if hidden != in {
				y = b.silu(b.convNorm(y, window{in: in, out: hidden, kernel: 1, stride: 1}, 1))
			}
			y = b.silu(b.convNorm(y, window{in: hidden, out: hidden, kernel: s.kernel, stride: stride, pad: s.kernel / 2, groups: hidden}, 1))
			y = b.excite(y, hidden, max(1, in/4))
			y = b.convNorm(y, window{in: hidden, out: out, kernel: 1, stride: 1}, gain)
			if residual {
				y = b.add(y, x)
			}
			x, in, stride = y, out, 1
		}
	}
	last := b.channels(1280)
	x = b.silu(b.convNorm(x, window{in: in, out: last, kernel: 1, stride: 1}, 1))
	return b.linear(b.pooled(x), last, b.c.Classes)
}

// excite weighs the channels by a small network over their means (Hu, Shen, Sun, "Squeeze-and-Excitation Networks", 2017).
func (b *builder) excite(x string, channels, squeezed int) string {
	s := b.scaled(b.node("GlobalAveragePool", nil, x), afterMean)
	s = b.silu(b.conv(s, window{in: channels, out: squeezed, kernel: 1, stride: 1}))
	s = b.node("Sigmoid", nil, b.conv(s, window{in: squeezed, out: channels, kernel: 1, stride: 1}))
	b.square[s] = squareOfGate
	y := b.node("Mul", nil, s, x)
	b.square[y] = squareOfGate * b.square[x]
	return y
}

package arch

import (
	"math"

	"idunno/models/onnx/encode"
)

// lineWidth is the number of pixels in a row of an image for the LSTM.
const lineWidth = 28

// dim is a dimension of x as a scalar, found while the model runs.
func (b *builder) dim(x string, i int64) string {
	return b.node("Gather", encode.Attrs{"axis": 0}, b.node("Shape", nil, x), b.int(i))
}

// shape joins dimensions, numbers or scalars of the graph, to a vector.
func (b *builder) shape(dims ...any) string {
	var parts []string
	for _, d := range dims {
		switch d := d.(type) {
		case int:
			parts = append(parts, b.ints(int64(d)))
		case string:
			parts = append(parts, b.node("Unsqueeze", nil, d, b.ints(0)))
		}
	}
	return b.node("Concat", encode.Attrs{"axis": 0}, parts...)
}

func (b *builder) reshape(x string, dims ...any) string {
	return b.node("Reshape", encode.Attrs{"allowzero": 0}, x, b.shape(dims...))
}

func (b *builder) transpose(x string, perm ...int) string {
	return b.node("Transpose", encode.Attrs{"perm": perm}, x)
}

// dense is a linear layer over the last of three dimensions.
func (b *builder) dense(x string, in, out int) string {
	y := b.node("MatMul", nil, x, b.tensor("weight", b.uniform(in*out, math.Sqrt(1/float64(in))), in, out))
	z := b.node("Add", nil, b.tensor("bias", b.uniform(out, 0.05), out), y)
	b.square[z] = b.square[x]
	return z
}

// gelu is what the exporter makes of it.
func (b *builder) gelu(x string) string {
	y := b.node("Add", nil, b.node("Erf", nil, b.node("Div", nil, x, b.floats(math.Sqrt2))), b.floats(1))
	return b.scaled(b.node("Mul", nil, b.node("Mul", nil, x, y), b.floats(0.5)), afterGELU)
}

// layerNorm normalizes over the last dimension, of width n.
func (b *builder) layerNorm(x string, n int, epsilon float32) string {
	gamma, beta := b.tensor("weight", b.between(n, 0.8, 1.2), n), b.tensor("bias", b.uniform(n, 0.1), n)
	var y string
	if b.c.Decomposed {
		last := encode.Attrs{"axes": []int{-1}}
		d := b.node("Sub", nil, x, b.node("ReduceMean", last, x))
		v := b.node("ReduceMean", last, b.node("Pow", nil, d, b.floats(2)))
		y = b.node("Div", nil, d, b.node("Sqrt", nil, b.node("Add", nil, v, b.floats(epsilon))))
		y = b.node("Add", nil, b.node("Mul", nil, y, gamma), beta)
	} else {
		y = b.node("LayerNormalization", encode.Attrs{"axis": -1, "epsilon": epsilon}, x, gamma, beta)
	}
	b.square[y] = 1
	return y
}

// expand repeats x, whose first dimension is 1, n times, as the exporter writes expand(n, -1, -1).
func (b *builder) expand(x, n string) string {
	size := b.shape(n, -1, -1)
	ones := b.node("ConstantOfShape", encode.Attrs{"value": encode.Tensor{Dims: []int64{1}, Ints: []int64{1}}}, b.ints(3))
	open := b.node("Equal", nil, size, b.node("Mul", nil, ones, b.int(-1)))
	return b.node("Expand", nil, x, b.node("Where", nil, open, ones, size))
}

func (b *builder) vitB16() string {
	const patch = 16
	heads := max(2, int(math.Round(12*b.c.Width)))
	width := (b.channels(768) + heads - 1) / heads * heads
	n := b.dim("input", 0)
	x := b.conv("input", window{in: 3, out: width, kernel: patch, stride: patch})
	side := b.c.Size / patch
	x = b.transpose(b.reshape(x, n, width, side*side), 0, 2, 1)
	class := b.expand(b.tensor("class_token", b.uniform(width, 1), 1, 1, width), n)
	x = b.node("Concat", encode.Attrs{"axis": 1}, class, x)
	x = b.add(x, b.tensor("pos_embedding", b.uniform((side*side+1)*width, 0.5), 1, side*side+1, width))
	for range b.repeats(12) {
		x = b.add(b.packedAttention(b.layerNorm(x, width, 1e-6), width, heads), x)
		y := b.gelu(b.dense(b.layerNorm(x, width, 1e-6), width, 4*width))
		x = b.add(x, b.dense(y, 4*width, width))
	}
	x = b.layerNorm(x, width, 1e-6)
	return b.linear(b.node("Gather", encode.Attrs{"axis": 1}, x, b.int(0)), width, b.c.Classes)
}

// packedAttention is torch.nn.MultiheadAttention over x [N, L, width]: queries, keys and values come from one product.
func (b *builder) packedAttention(x string, width, heads int) string {
	x = b.transpose(x, 1, 0, 2)
	l, n := b.dim(x, 0), b.dim(x, 1)
	all := b.reshape(b.dense(x, width, 3*width), l, n, 3, width)
	all = b.transpose(b.node("Unsqueeze", nil, all, b.ints(0)), 3, 1, 2, 0, 4)
	all = b.node("Squeeze", nil, all, b.ints(-2))
	var qkv [3]string
	for i := range qkv {
		part := b.node("Gather", encode.Attrs{"axis": 0}, all, b.int(int64(i)))
		part = b.reshape(part, l, b.node("Mul", nil, n, b.int(int64(heads))), width/heads)
		qkv[i] = b.reshape(b.transpose(part, 1, 0, 2), n, heads, l, width/heads)
	}
	features := b.node("Slice", nil, b.node("Shape", nil, qkv[0]), b.ints(-1), b.ints(math.MaxInt64))
	scale := b.node("Div", nil, b.floats(1), b.node("Sqrt", nil, b.node("Cast", encode.Attrs{"to": encode.Float}, features)))
	q := b.node("Mul", nil, qkv[0], b.node("Sqrt", nil, scale))
	k := b.node("Mul", nil, b.transpose(qkv[1], 0, 1, 3, 2), b.node("Sqrt", nil, scale))
	y := b.node("MatMul", nil, b.node("Softmax", encode.Attrs{"axis": -1}, b.node("MatMul", nil, q, k)), qkv[2])
	y = b.reshape(b.transpose(y, 2, 0, 1, 3), b.node("Mul", nil, l, n), width)
	y = b.reshape(b.linear(y, width, width), l, n, width)
	y = b.transpose(y, 1, 0, 2)
	b.square[y] = b.square[x]
	return y
}

// vocabulary is the number of tokens of the BERT-style encoder.
func vocabulary(c Config) int {
	if c.Width == 1 {
		return 30522
	}
	return max(16, int(30522*c.Width*c.Width))
}

func (b *builder) bert() string {
	const positions = 512
	heads := max(2, int(math.Round(8*b.c.Width)))
	width := (b.channels(512) + heads - 1) / heads * heads
	words := vocabulary(b.c)
	mask := b.node("Unsqueeze", nil, b.node("Unsqueeze", nil, "attention_mask", b.ints(1)), b.ints(2))
	mask = b.node("Cast", encode.Attrs{"to": encode.Float}, mask)
	mask = b.node("Mul", nil, b.node("Sub", nil, b.floats(1), mask), b.floats(-math.MaxFloat32))
	numbers := make([]int64, positions)
	for i := range numbers {
		numbers[i] = int64(i)
	}
	b.m.Init = append(b.m.Init, encode.Tensor{Name: "position_ids", Dims: []int64{1, positions}, Ints: numbers})
	n, l := b.dim("input_ids", 0), b.dim("input_ids", 1)
	at := b.node("Slice", nil, "position_ids", b.ints(0), b.node("Unsqueeze", nil, l, b.ints(0)), b.ints(1), b.ints(1))
	kind := b.node("ConstantOfShape", encode.Attrs{"value": encode.Tensor{Dims: []int64{1}, Ints: []int64{0}}}, b.shape(n, l))
	embed := func(rows int, which string) string {
		return b.node("Gather", nil, b.tensor("embedding", b.uniform(rows*width, 1), rows, width), which)
	}
	x := b.add(embed(words, "input_ids"), embed(2, kind))
	x = b.layerNorm(b.add(x, embed(positions, at)), width, 1e-12)
	for range b.repeats(4) {
		x = b.layerNorm(b.add(b.attention(x, mask, width, heads), x), width, 1e-12)
		y := b.gelu(b.dense(x, width, 4*width))
		x = b.layerNorm(b.add(b.dense(y, 4*width, width), x), width, 1e-12)
	}
	x = b.node("Gather", encode.Attrs{"axis": 1}, x, b.int(0))
	x = b.node("Tanh", nil, b.linear(x, width, width))
	return b.linear(x, width, b.c.Classes)
}

// attention is BERT's over x [N, L, width]; mask [N, 1, 1, L] is added to the scores.
func (b *builder) attention(x, mask string, width, heads int) string {
	split := func(y string) string { return b.reshape(y, b.dim(y, 0), b.dim(y, 1), heads, width/heads) }
	q, k, v := b.dense(x, width, width), b.dense(x, width, width), b.dense(x, width, width)
	k, v = b.transpose(split(k), 0, 2, 3, 1), b.transpose(split(v), 0, 2, 1, 3)
	q = b.transpose(split(q), 0, 2, 1, 3)
	scores := b.node("Div", nil, b.node("MatMul", nil, q, k), b.floats(float32(math.Sqrt(float64(width/heads)))))
	y := b.node("Softmax", encode.Attrs{"axis": -1}, b.node("Add", nil, scores, mask))
	y = b.transpose(b.node("MatMul", nil, y, v), 0, 2, 1, 3)
	y = b.reshape(y, b.dim(y, 0), b.dim(y, 1), width)
	b.square[y] = b.square[x]
	return b.dense(y, width, width)
}

func (b *builder) lstm() string {
	hidden, layers := b.channels(128), b.repeats(2)
	x, in := b.transpose("input", 1, 0, 2), lineWidth
	zeros := b.node("ConstantOfShape", encode.Attrs{"value": encode.Tensor{Dims: []int64{1}, Floats: []float32{0}}}, b.shape(2*layers, b.dim("input", 0), hidden))
	deviation := math.Sqrt(1 / (3 * float64(hidden)))
	for i := range layers {
		w := b.tensor("weight_ih", b.uniform(8*hidden*in, deviation), 2, 4*hidden, in)
		r := b.tensor("weight_hh", b.uniform(8*hidden*hidden, deviation), 2, 4*hidden, hidden)
		bias := b.tensor("bias", b.uniform(16*hidden, deviation), 2, 8*hidden)
		start := b.node("Slice", nil, zeros, b.ints(int64(2*i)), b.ints(int64(2*i+2)), b.ints(0))
		y := b.node("LSTM", encode.Attrs{"direction": "bidirectional", "hidden_size": hidden}, x, w, r, bias, "", start, start)
		x, in = b.node("Reshape", encode.Attrs{"allowzero": 0}, b.transpose(y, 0, 2, 1, 3), b.ints(0, 0, -1)), 2*hidden
	}
	x = b.node("Gather", encode.Attrs{"axis": 1}, b.transpose(x, 1, 0, 2), b.int(-1))
	return b.linear(x, in, b.c.Classes)
}

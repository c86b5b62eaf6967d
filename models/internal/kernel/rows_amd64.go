//go:build amd64 && !noasm

package kernel

// The functions of element.go and row.go in assembly. Calls are written out because a call through a variable would make its slices
// escape.

func (vector8) apply(act Activation, dst, x []float32) {
	n, p, q := len(x), &x[0], &dst[:len(x)][0]
	switch act.Func {
	case Clip:
		clipx8(n, p, q, act.Alpha, act.Beta)
	case LeakyRelu:
		leakyx8(n, p, q, act.Alpha)
	case Elu:
		elux8(n, p, q, act.Alpha)
	case Linear:
		linearx8(n, p, q, act.Alpha, act.Beta)
	case Standard:
		standardx8(n, p, q, act.Alpha, act.Beta)
	case HardSigmoid:
		hardSigmoidx8(n, p, q, act.Alpha, act.Beta)
	case Abs:
		absx8(n, p, q)
	case Neg:
		negx8(n, p, q)
	case Sqrt:
		sqrtx8(n, p, q)
	case Reciprocal:
		reciprocalx8(n, p, q)
	case Exp:
		expx8(n, p, q)
	case Sigmoid:
		sigmoidx8(n, p, q)
	case Tanh:
		tanhx8(n, p, q)
	case Erf:
		erfx8(n, p, q)
	case Silu:
		silux8(n, p, q)
	case Gelu:
		gelux8(n, p, q)
	case GeluTanh:
		geluTanhx8(n, p, q)
	case HardSwish:
		hardSwishx8(n, p, q)
	default:
		panic("kernel: unknown function")
	}
}

func (vector8) zip(op BinaryOp, which operands, dst, x, y []float32, s float32) {
	switch which {
	case vectorScalar:
		zipVS8(op, dst, x, s)
	case scalarVector:
		zipSV8(op, dst, x, s)
	default:
		zipVV8(op, dst, x, y)
	}
}

func zipVV8(op BinaryOp, dst, x, y []float32) {
	n, p, q, z := len(x), &x[0], &y[:len(x)][0], &dst[:len(x)][0]
	switch op {
	case Add:
		addVVx8(n, p, q, z)
	case Sub:
		subVVx8(n, p, q, z)
	case Mul:
		mulVVx8(n, p, q, z)
	case Div:
		divVVx8(n, p, q, z)
	case Max:
		maxVVx8(n, p, q, z)
	case Min:
		minVVx8(n, p, q, z)
	}
}

func zipVS8(op BinaryOp, dst, x []float32, s float32) {
	n, p, z := len(x), &x[0], &dst[:len(x)][0]
	switch op {
	case Add:
		addVSx8(n, p, z, s)
	case Sub:
		subVSx8(n, p, z, s)
	case Mul:
		mulVSx8(n, p, z, s)
	case Div:
		divVSx8(n, p, z, s)
	case Max:
		maxVSx8(n, p, z, s)
	case Min:
		minVSx8(n, p, z, s)
	}
}

func zipSV8(op BinaryOp, dst, x []float32, s float32) {
	n, p, z := len(x), &x[0], &dst[:len(x)][0]
	switch op {
	case Add:
		addVSx8(n, p, z, s)
	case Sub:
		subSVx8(n, p, z, s)
	case Mul:
		mulVSx8(n, p, z, s)
	case Div:
		divSVx8(n, p, z, s)
	case Max:
		maxSVx8(n, p, z, s)
	case Min:
		minSVx8(n, p, z, s)
	}
}

func (vector8) sum(x []float32) float32 { return sumx8(len(x), &x[0]) }

func (vector8) squares(x []float32, mean float32) float32 { return squaresx8(len(x), &x[0], mean) }

func (vector8) expSum(y, x []float32, top float32) float32 {
	return expSumx8(len(x), &x[0], &y[:len(x)][0], top)
}

func (vector8) highest(x []float32) float32 { return highestx8(len(x), &x[0]) }

func (vector8) normalize(y, x []float32, mean, inverse float32, scale, shift []float32) {
	n, p, q, f := len(x), &x[0], &y[:len(x)][0], &scale[:len(x)][0]
	if shift == nil {
		scalex8(n, p, q, f, mean, inverse)
		return
	}
	scaleShiftx8(n, p, q, f, &shift[:n][0], mean, inverse)
}

func (vector8) unzip(even, odd, x []float32) int {
	blocks := len(x) / 16
	if blocks == 0 {
		return 0
	}
	unzipx8(blocks, &x[0], &even[:blocks*8][0], &odd[:blocks*8][0])
	return blocks * 8
}

func (vector8) greatest(dst, x, y, z []float32) {
	if n := len(dst); n > 0 {
		greatestx8(n, &x[:n][0], &y[:n][0], &z[:n][0], &dst[0])
	}
}

func (vector8) greatestBy2(dst, x []float32) {
	if n := len(dst); n > 0 {
		greatestBy2x8(n, &x[:2*n+1+windowMargin][0], &dst[0])
	}
}

func (vector8) transpose(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	turn(dst, ldd, src, lds, rows, cols)
}

func (vector16) apply(act Activation, dst, x []float32) {
	n, p, q := len(x), &x[0], &dst[:len(x)][0]
	switch act.Func {
	case Clip:
		clipx16(n, p, q, act.Alpha, act.Beta)
	case LeakyRelu:
		leakyx16(n, p, q, act.Alpha)
	case Elu:
		elux16(n, p, q, act.Alpha)
	case Linear:
		linearx16(n, p, q, act.Alpha, act.Beta)
	case Standard:
		standardx16(n, p, q, act.Alpha, act.Beta)
	case HardSigmoid:
		hardSigmoidx16(n, p, q, act.Alpha, act.Beta)
	case Abs:
		absx16(n, p, q)
	case Neg:
		negx16(n, p, q)
	case Sqrt:
		sqrtx16(n, p, q)
	case Reciprocal:
		reciprocalx16(n, p, q)
	case Exp:
		expx16(n, p, q)
	case Sigmoid:
		sigmoidx16(n, p, q)
	case Tanh:
		tanhx16(n, p, q)
	case Erf:
		erfx16(n, p, q)
	case Silu:
		silux16(n, p, q)
	case Gelu:
		gelux16(n, p, q)
	case GeluTanh:
		geluTanhx16(n, p, q)
	case HardSwish:
		hardSwishx16(n, p, q)
	default:
		panic("kernel: unknown function")
	}
}

func (vector16) zip(op BinaryOp, which operands, dst, x, y []float32, s float32) {
	switch which {
	case vectorScalar:
		zipVS16(op, dst, x, s)
	case scalarVector:
		zipSV16(op, dst, x, s)
	default:
		zipVV16(op, dst, x, y)
	}
}

func zipVV16(op BinaryOp, dst, x, y []float32) {
	n, p, q, z := len(x), &x[0], &y[:len(x)][0], &dst[:len(x)][0]
	switch op {
	case Add:
		addVVx16(n, p, q, z)
	case Sub:
		subVVx16(n, p, q, z)
	case Mul:
		mulVVx16(n, p, q, z)
	case Div:
		divVVx16(n, p, q, z)
	case Max:
		maxVVx16(n, p, q, z)
	case Min:
		minVVx16(n, p, q, z)
	}
}

func zipVS16(op BinaryOp, dst, x []float32, s float32) {
	n, p, z := len(x), &x[0], &dst[:len(x)][0]
	switch op {
	case Add:
		addVSx16(n, p, z, s)
	case Sub:
		subVSx16(n, p, z, s)
	case Mul:
		mulVSx16(n, p, z, s)
	case Div:
		divVSx16(n, p, z, s)
	case Max:
		maxVSx16(n, p, z, s)
	case Min:
		minVSx16(n, p, z, s)
	}
}

func zipSV16(op BinaryOp, dst, x []float32, s float32) {
	n, p, z := len(x), &x[0], &dst[:len(x)][0]
	switch op {
	case Add:
		addVSx16(n, p, z, s)
	case Sub:
		subSVx16(n, p, z, s)
	case Mul:
		mulVSx16(n, p, z, s)
	case Div:
		divSVx16(n, p, z, s)
	case Max:
		maxSVx16(n, p, z, s)
	case Min:
		minSVx16(n, p, z, s)
	}
}

func (vector16) sum(x []float32) float32 { return sumx16(len(x), &x[0]) }

func (vector16) squares(x []float32, mean float32) float32 { return squaresx16(len(x), &x[0], mean) }

func (vector16) expSum(y, x []float32, top float32) float32 {
	return expSumx16(len(x), &x[0], &y[:len(x)][0], top)
}

func (vector16) highest(x []float32) float32 { return highestx16(len(x), &x[0]) }

func (vector16) normalize(y, x []float32, mean, inverse float32, scale, shift []float32) {
	n, p, q, f := len(x), &x[0], &y[:len(x)][0], &scale[:len(x)][0]
	if shift == nil {
		scalex16(n, p, q, f, mean, inverse)
		return
	}
	scaleShiftx16(n, p, q, f, &shift[:n][0], mean, inverse)
}

func (vector16) unzip(even, odd, x []float32) int {
	blocks := len(x) / 32
	if blocks == 0 {
		return 0
	}
	unzipx16(blocks, &x[0], &even[:blocks*16][0], &odd[:blocks*16][0])
	return blocks * 16
}

func (vector16) greatest(dst, x, y, z []float32) {
	if n := len(dst); n > 0 {
		greatestx16(n, &x[:n][0], &y[:n][0], &z[:n][0], &dst[0])
	}
}

func (vector16) greatestBy2(dst, x []float32) {
	if n := len(dst); n > 0 {
		greatestBy2x16(n, &x[:2*n+1+windowMargin][0], &dst[0])
	}
}

func (vector16) transpose(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	turn(dst, ldd, src, lds, rows, cols)
}

// turn transposes 8 x 8 elements at a time and the edges one by one.
func turn(dst []float32, ldd int, src []float32, lds, rows, cols int) {
	h, w := rows&^7, cols&^7
	if w > 0 {
		for i := 0; i < h; i += 8 {
			_, _ = src[(i+7)*lds+w-1], dst[(w-1)*ldd+i+7]
			turnx8(w/8, &src[i*lds], lds, &dst[i], ldd)
		}
	}
	if w < cols {
		TransposeBlock(dst[w*ldd:], ldd, src[w:], lds, h, cols-w)
	}
	if h < rows {
		TransposeBlock(dst[h:], ldd, src[h*lds:], lds, rows-h, cols)
	}
}

// Package kernel holds the arithmetic that training and inference spend their time in: single-precision matrix multiplication, convolution
// and what goes along vectors: depthwise convolution, pooling, functions of one and two numbers, softmax, sums, transpositions.
//
// ref.go is the specification in plain loops. The public functions pack their operands into panels (Goto and van de Geijn, "Anatomy of
// High-Performance Matrix Multiplication", 2008) and hand blocks of panels to a level: one implementation of the innermost loops for one
// kind of processor. All matrices are row-major; every function is single-threaded and deterministic.
//
// Every element of a product is accumulated over k in one order that depends on k alone. A row of the result is therefore bit-equal
// whatever the number of rows in the call is.
//
// What goes along vectors has levels of its own (vector.go). Apart from depthwise convolutions these agree in every bit: plain Go is their
// specification, step by step.
//
// It is not a BLAS: there is one element type, no strides besides the row length and no threads.
package kernel

// Gemm computes C = alpha*op(A)*op(B) + beta*C, where op(A) is m x k, op(B) is k x n and C is m x n. transA says that A is stored as k x m,
// transB that B is stored as n x k. lda, ldb and ldc are the lengths of the stored rows. With beta 0 the old C is not read.
// It allocates its packing space at each call; see [Workspace.Gemm] for calls in a loop. It panics when a slice is too short.
func Gemm(transA, transB bool, m, n, k int, alpha float32, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int) {
	var w Workspace
	w.Gemm(transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)
}

// Workspace keeps the packing space between calls, so that a steady state allocates nothing. The zero value is ready and uses the best
// level of this processor. It must not be used by two goroutines at once.
type Workspace struct {
	level level
	a, b  []float32
	st    store
	skip  skip
	end   Epilogue // of a convolution; here for the same reason as st
	stop  <-chan struct{}
	scale [256]float32 // of Bytes

	image, out, bias []float32 // of a convolution
	off              []uint32
	wide             []float32 // of Expand
	rowOff           []uint32
	plan             winogradPlan

	vector vectorLevel
	depth  depthwisePlan
	pool   poolSpace
}

// StopWhen makes products and convolutions end early, within some milliseconds and with results that must not be used, once done is closed.
// nil, as at first, means never.
func (w *Workspace) StopWhen(done <-chan struct{}) { w.stop = done }

// stopped says whether the results are not wanted any more.
func (w *Workspace) stopped() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

func (w *Workspace) use() level {
	if w.level == nil {
		w.level = best()
	}
	return w.level
}

// Gemm is [Gemm] with the packing space of w.
func (w *Workspace) Gemm(transA, transB bool, m, n, k int, alpha float32, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int) {
	checkMatrix("A", pick(transA, k, m), pick(transA, m, k), a, lda)
	checkMatrix("B", pick(transB, n, k), pick(transB, k, n), b, ldb)
	checkMatrix("C", m, n, c, ldc)
	left := operand{raw: a, ld: lda, alongK: !transA}
	right := operand{raw: b, ld: ldb, alongK: transB}
	w.run(m, n, k, &left, &right, store{c: c, ldc: ldc, alpha: alpha, beta: beta})
}

// Epilogue is what is done to each element of a product while it is stored: the bias is added, then ReLU is applied, then the limits.
type Epilogue struct {
	Bias   []float32 // nil for none
	PerRow bool      // Bias has one entry per row of C; otherwise one per column
	Relu   bool      // negative results become 0
	Clip   bool      // results below Lo become Lo, results above Hi become Hi
	Lo, Hi float32
	Halve  bool // only of Conv: of each 2 x 2 results, without overlap, the greatest is stored; an odd last row or column is left out
}

// PackedA is a left operand (m x k) in the form the kernels read, made once for a matrix that is multiplied often.
type PackedA struct {
	m, k int
	lv   level
	op   operand
}

// PackedB is a right operand (k x n) in the form the kernels read.
type PackedB struct {
	k, n   int
	lv     level
	op     operand
	finite bool // no element is infinite or NaN
}

// PackA packs op(A), m x k, for the best level of this processor.
func PackA(trans bool, m, k int, a []float32, lda int) *PackedA {
	return packA(best(), trans, m, k, a, lda)
}

func packA(lv level, trans bool, m, k int, a []float32, lda int) *PackedA {
	checkMatrix("A", pick(trans, k, m), pick(trans, m, k), a, lda)
	mr, _ := lv.tile()
	raw := operand{raw: a, ld: lda, alongK: !trans}
	return &PackedA{m: m, k: k, lv: lv, op: raw.pack(k, even(m, mr))}
}

// PackB packs op(B), k x n, for the best level of this processor.
func PackB(trans bool, k, n int, b []float32, ldb int) *PackedB {
	return packB(best(), trans, k, n, b, ldb)
}

func packB(lv level, trans bool, k, n int, b []float32, ldb int) *PackedB {
	checkMatrix("B", pick(trans, n, k), pick(trans, k, n), b, ldb)
	_, nr := lv.tile()
	raw := operand{raw: b, ld: ldb, alongK: trans}
	p := &PackedB{k: k, n: n, lv: lv, op: raw.pack(k, padded(n, nr)), finite: true}
	for _, v := range p.op.packed {
		p.finite = p.finite && v-v == 0
	}
	return p
}

// Dims returns the shape of the packed matrix: m rows, k columns.
func (p *PackedA) Dims() (m, k int) { return p.m, p.k }

// Dims returns the shape of the packed matrix: k rows, n columns.
func (p *PackedB) Dims() (k, n int) { return p.k, p.n }

// Bytes is the memory the packed form holds.
func (p *PackedA) Bytes() int64 { return 4 * int64(len(p.op.packed)) }

// Bytes is the memory the packed form holds.
func (p *PackedB) Bytes() int64 { return 4 * int64(len(p.op.packed)) }

// MulB computes C = A*B with A an m x k matrix and B packed, and applies the epilogue.
func (w *Workspace) MulB(m int, a []float32, lda int, b *PackedB, c []float32, ldc int, e Epilogue) {
	checkMatrix("A", m, b.k, a, lda)
	checkMatrix("C", m, b.n, c, ldc)
	checkBias(&e, m, b.n)
	w.level = b.lv
	left := operand{raw: a, ld: lda, alongK: true, sparse: b.finite && b.n >= sparseColumns}
	w.run(m, b.n, b.k, &left, &b.op, store{c: c, ldc: ldc, alpha: 1, end: e})
}

// MulA computes C = A*B with A packed and B a k x n matrix, and applies the epilogue.
func (w *Workspace) MulA(a *PackedA, n int, b []float32, ldb int, c []float32, ldc int, e Epilogue) {
	checkMatrix("B", a.k, n, b, ldb)
	checkMatrix("C", a.m, n, c, ldc)
	checkBias(&e, a.m, n)
	w.level = a.lv
	right := operand{raw: b, ld: ldb}
	w.run(a.m, n, a.k, &a.op, &right, store{c: c, ldc: ldc, alpha: 1, end: e})
}

// blockK is the greatest length of the blocks that k is cut into.
const blockK = 512

// blockDepth cuts k into blocks of about the same length. It is the same for every level and shape because it decides the order of
// accumulation where sums are kept block by block.
func blockDepth(k int) int {
	blocks := (k + blockK - 1) / blockK
	return (k + max(blocks, 1) - 1) / max(blocks, 1)
}

// run walks the blocks of C: panels of B for one block of k and n stay in the second-level cache while blocks of A pass.
func (w *Workspace) run(m, n, k int, left, right *operand, to store) {
	if m == 0 || n == 0 {
		return
	}
	lv := w.use()
	w.st = to // in w, because what an interface method is given would else be allocated
	st := &w.st
	mr, nr := lv.tile()
	tiles, panels := lv.blocks()
	st.cols = padded(n, nr)
	direct := left.packed == nil && left.alongK && k > 0 && lv.readsRows()
	depth := max(blockDepth(k), 1)
	for p := 0; p == 0 || p < k; p += depth {
		kc := min(depth, k-p)
		st.first, st.last, st.skip, st.rows = p == 0, p+kc == k, nil, even(m, mr)
		if direct && left.sparse && w.skip.find(lv, m, kc, left.raw[p:], left.ld) {
			st.skip, st.rows = &w.skip, w.skip.rows
		}
		for j := 0; j < n; j = st.cols.end {
			st.cols = st.cols.from(j, panels)
			bp := right.panels(&w.b, p, kc, st.cols)
			for i := 0; i < m && !w.stopped(); i = st.rows.end {
				st.rows = st.rows.from(i, tiles)
				if direct {
					lv.block(kc, left.raw[i*left.ld+p:], left.ld, bp, st)
					continue
				}
				lv.block(kc, left.panels(&w.a, p, kc, st.rows), 0, bp, st)
			}
		}
	}
	w.st = store{}
}

func pick(t bool, yes, no int) int {
	if t {
		return yes
	}
	return no
}

func checkMatrix(name string, rows, cols int, x []float32, ld int) {
	if rows < 0 || cols < 0 {
		panic("kernel: negative dimension of " + name)
	}
	if rows == 0 || cols == 0 {
		return
	}
	if ld < cols || len(x) < (rows-1)*ld+cols {
		panic("kernel: matrix " + name + " is shorter than its dimensions say")
	}
}

func checkBias(e *Epilogue, m, n int) {
	if e.Bias != nil && len(e.Bias) < pick(e.PerRow, m, n) {
		panic("kernel: bias is shorter than the matrix")
	}
}

package kernel

// level is one implementation of the innermost loops.
type level interface {
	name() string
	// tile is the shape of the block of C that is held in registers at most: panels of A have up to mr rows, panels of B nr columns.
	tile() (mr, nr int)
	// blocks is how many panels of rows and of columns are worked on at a time.
	blocks() (rows, cols int)
	// readsRows says whether block can read A as it is in a row-major matrix.
	readsRows() bool
	// block multiplies the rows st.rows in panels a, or if lda is not 0 lda apart, with the columns st.cols in panels b over kc and stores
	// into st.
	block(kc int, a []float32, lda int, b []float32, st *store)
	// limit multiplies and adds numbers in registers as fast as it can, rounds times, and returns how many operations that were.
	limit(rounds int) int
}

// levels lists what this processor can run, the best last.
func levels() []level { return append([]level{generic{}}, simd()...) }

func best() level {
	l := levels()
	return l[len(l)-1]
}

// store says where and how results are written.
type store struct {
	c           []float32
	ldc         int
	alpha, beta float32
	end         Epilogue

	rows, cols  span // of C, in work
	skip        *skip
	first, last bool // block of k: beta applies to the first, the epilogue to the last
}

// put stores one row of a tile: c[i][j:j+len(acc)], positions in the whole of C. The conversions forbid fused multiply-adds, so that this
// and put4 round alike on every processor.
func (s *store) put(i, j int, acc []float32) {
	dst := s.c[i*s.ldc+j:][:len(acc)]
	switch {
	case !s.first:
		for x, v := range acc {
			dst[x] += float32(s.alpha * v)
		}
	case s.beta == 0:
		for x, v := range acc {
			dst[x] = s.alpha * v
		}
	default:
		for x, v := range acc {
			dst[x] = float32(s.alpha*v) + float32(s.beta*dst[x])
		}
	}
	if s.last {
		s.end.apply(dst, i, j)
	}
}

func (e *Epilogue) apply(dst []float32, i, j int) {
	if e.Bias != nil {
		if e.PerRow {
			b := e.Bias[i]
			for x := range dst {
				dst[x] += b
			}
		} else {
			for x, b := range e.Bias[j:][:len(dst)] {
				dst[x] += b
			}
		}
	}
	if e.Relu {
		for x, v := range dst {
			dst[x] = max(v, 0) // without a branch: the sign of a result is hard to predict
		}
	}
	if e.Clip {
		for x, v := range dst {
			dst[x] = min(max(v, e.Lo), e.Hi)
		}
	}
}

package kernel

// refGemm is the specification of [Gemm]: the textbook loops, summed in double precision. Tests compare every level with it.
func refGemm(transA, transB bool, m, n, k int, alpha float32, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int) {
	for i := range m {
		for j := range n {
			var sum float64
			for p := range k {
				x, y := i*lda+p, p*ldb+j
				if transA {
					x = p*lda + i
				}
				if transB {
					y = j*ldb + p
				}
				sum += float64(a[x]) * float64(b[y])
			}
			v := float64(alpha) * sum
			if beta != 0 {
				v += float64(beta) * float64(c[i*ldc+j])
			}
			c[i*ldc+j] = float32(v)
		}
	}
}

// refConv is the specification of a convolution by [Im2col] and a product: one image, one group, x is C x H x W, weights are
// out x C x KH x KW, y is out x OutH x OutW.
func refConv(g *Window, out int, x, weights, y []float32) {
	w := *g
	w.defaults()
	g = &w
	oh, ow := g.OutH(), g.OutW()
	for o := range out {
		for i := range oh * ow {
			var sum float64
			for c := range g.C {
				for kh := range g.KH {
					for kw := range g.KW {
						ih := i/ow*g.StrideH - g.PadTop + kh*g.DilationH
						iw := i%ow*g.StrideW - g.PadLeft + kw*g.DilationW
						if ih < 0 || ih >= g.H || iw < 0 || iw >= g.W {
							continue
						}
						sum += float64(x[(c*g.H+ih)*g.W+iw]) * float64(weights[((o*g.C+c)*g.KH+kh)*g.KW+kw])
					}
				}
			}
			y[o*oh*ow+i] = float32(sum)
		}
	}
}

package kernel

// Window is the geometry of a two-dimensional convolution or pooling over one image of C x H x W. Strides and dilations of 0 mean 1.
type Window struct {
	C, H, W                              int
	KH, KW                               int
	StrideH, StrideW                     int
	DilationH, DilationW                 int
	PadTop, PadLeft, PadBottom, PadRight int
}

func (g *Window) defaults() {
	g.StrideH, g.StrideW = max(g.StrideH, 1), max(g.StrideW, 1)
	g.DilationH, g.DilationW = max(g.DilationH, 1), max(g.DilationW, 1)
}

// OutH is the number of rows of the result; 0 when the kernel does not fit the image.
func (g *Window) OutH() int { return outSize(g.H+g.PadTop+g.PadBottom, g.KH, g.StrideH, g.DilationH) }

// OutW is the number of columns of the result; 0 when the kernel does not fit the image.
func (g *Window) OutW() int { return outSize(g.W+g.PadLeft+g.PadRight, g.KW, g.StrideW, g.DilationW) }

func outSize(size, kernel, stride, dilation int) int {
	span := (kernel-1)*max(dilation, 1) + 1
	if span > size {
		return 0
	}
	return (size-span)/max(stride, 1) + 1
}

// Im2col writes the matrix whose product with the weights (out x C*KH*KW) is the convolution: col has C*KH*KW rows, in the order of the
// weights, and OutH*OutW columns. img is C x H x W; places outside it are zero.
func Im2col(g Window, img, col []float32) {
	g.defaults()
	oh, ow := g.OutH(), g.OutW()
	row := 0
	for c := range g.C {
		plane := img[c*g.H*g.W:][:g.H*g.W]
		for kh := range g.KH {
			for kw := range g.KW {
				dst := col[row*oh*ow:][:oh*ow]
				row++
				lo, hi := g.inside(kw, ow)
				for y := range oh {
					line := dst[y*ow:][:ow]
					ih := y*g.StrideH - g.PadTop + kh*g.DilationH
					if ih < 0 || ih >= g.H || lo >= hi {
						clear(line)
						continue
					}
					clear(line[:lo])
					clear(line[hi:])
					src := plane[ih*g.W+lo*g.StrideW-g.PadLeft+kw*g.DilationW:]
					if g.StrideW == 1 {
						copy(line[lo:hi], src)
						continue
					}
					for x := lo; x < hi; x++ {
						line[x] = src[(x-lo)*g.StrideW]
					}
				}
			}
		}
	}
}

// Col2im is the transpose of [Im2col]: it adds every element of col to the place of img it came from. The caller clears img when the sum
// is to start from zero.
func Col2im(g Window, col, img []float32) {
	g.defaults()
	oh, ow := g.OutH(), g.OutW()
	row := 0
	for c := range g.C {
		plane := img[c*g.H*g.W:][:g.H*g.W]
		for kh := range g.KH {
			for kw := range g.KW {
				src := col[row*oh*ow:][:oh*ow]
				row++
				lo, hi := g.inside(kw, ow)
				for y := range oh {
					ih := y*g.StrideH - g.PadTop + kh*g.DilationH
					if ih < 0 || ih >= g.H || lo >= hi {
						continue
					}
					line := src[y*ow:][:ow][lo:hi]
					dst := plane[ih*g.W+lo*g.StrideW-g.PadLeft+kw*g.DilationW:]
					for x, v := range line {
						dst[x*g.StrideW] += v
					}
				}
			}
		}
	}
}

// inside returns the range of output columns whose input column for kernel column kw is in the image.
func (g *Window) inside(kw, ow int) (lo, hi int) {
	first := kw*g.DilationW - g.PadLeft // input column of output column 0
	if first < 0 {
		lo = (-first + g.StrideW - 1) / g.StrideW
	}
	if g.W-first > 0 {
		hi = (g.W-first-1)/g.StrideW + 1
	}
	return min(lo, ow), max(min(hi, ow), min(lo, ow))
}

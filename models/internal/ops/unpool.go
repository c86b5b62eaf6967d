package ops

import (
	"fmt"
	"math"
	"slices"
)

// maxUnpool puts elements back where MaxPool's indices say they came from; all else is zero.
type maxUnpool struct{ window }

func buildMaxUnpool(n *Node, a *attrs) (Op, error) {
	w, err := readWindow(a)
	if err == nil && len(w.kernel) == 0 {
		err = fmt.Errorf("%s without kernel_shape", n.Op)
	}
	return &maxUnpool{w}, err
}

// original is the shape of what was pooled, as far as the window tells; dst has room for maxRank.
func (m *maxUnpool) original(x, dst []int) ([]int, error) {
	k := len(m.kernel)
	if len(x) != k+2 || k+2 > maxRank || bad(m.strides, k) || bad(m.pads, 2*k) {
		return nil, fmt.Errorf("input of shape %v, kernel %v, strides %v, pads %v", x, m.kernel, m.strides, m.pads)
	}
	dst = append(dst[:0], x[:2]...)
	for i, d := range x[2:] {
		stride, pad := 1, 0
		if len(m.strides) > 0 {
			stride = m.strides[i]
		}
		if len(m.pads) > 0 {
			pad = m.pads[i] + m.pads[k+i]
		}
		n := (d-1)*stride - pad + m.kernel[i]
		if n < 1 {
			return nil, fmt.Errorf("the output would have %d elements along dimension %d", n, i+2)
		}
		dst = append(dst, n)
	}
	return dst, nil
}

func (m *maxUnpool) Shape(in []*Tensor, out []Spec) error {
	if !in[1].DType.IsInt() || !slices.Equal(in[0].Shape, in[1].Shape) {
		return fmt.Errorf("input of shape %v and indices %s%v", in[0].Shape, in[1].DType, in[1].Shape)
	}
	s, err := m.original(in[0].Shape, out[0].Shape)
	if err != nil {
		return err
	}
	out[0].DType, out[0].Shape = in[0].DType, s
	if input(in, 2) != nil {
		want, err := axesSource{input: 2}.of(in)
		if err != nil {
			return err
		}
		to, err := dims(want)
		if err != nil {
			return err
		}
		if len(to) != len(s) {
			return fmt.Errorf("output_shape %v for input of shape %v", want, in[0].Shape)
		}
		for i, d := range to {
			if d < s[i] {
				return fmt.Errorf("output_shape %v is smaller than %v", want, s)
			}
		}
		out[0].Shape = append(s[:0], to...)
	}
	return needFloat(in, 0)
}

// Run panics for an index outside; the session turns that into an error.
func (m *maxUnpool) Run(_ *Scratch, in, out []*Tensor) {
	var space [maxRank]int
	from, _ := m.original(in[0].Shape, space[:0])
	y := out[0]
	clear(y.F)
	for i, v := range in[1].I {
		p, at, step := position(v, volume(from)), 0, 1
		for d := len(from) - 1; d >= 0; d-- {
			at += p % from[d] * step
			p /= from[d]
			step *= y.Shape[d]
		}
		y.F[at] = in[0].F[i]
	}
}

// lpPool gives the Lp norm of each window.
type lpPool struct {
	window
	p float64
}

func readP(a *attrs) (float64, error) {
	p := a.int("p", 2)
	if p < 1 || p > 1<<10 {
		return 0, fmt.Errorf("p is %d", p)
	}
	return float64(p), nil
}

func buildLpPool(n *Node, a *attrs) (Op, error) {
	w, err := readWindow(a)
	if err != nil {
		return nil, err
	}
	if n.Opset >= 18 {
		w.ceil = a.int("ceil_mode", 0) != 0
	}
	if len(w.kernel) == 0 {
		return nil, fmt.Errorf("%s without kernel_shape", n.Op)
	}
	p, err := readP(a)
	return &lpPool{w, p}, err
}

func (l *lpPool) Shape(in []*Tensor, out []Spec) error {
	x := in[0].Shape
	if len(x) < 3 {
		return fmt.Errorf("input of shape %v has no spatial dimensions", x)
	}
	g, err := l.place(x[2:], l.kernel)
	if err != nil {
		return err
	}
	out[0].set(in[0].DType, x[:2]...)
	out[0].Shape = append(out[0].Shape, g.out[3-len(l.kernel):]...)
	return needFloat(in, 0)
}

func (l *lpPool) Cost(_ []*Tensor, out []Spec) (int64, int64) {
	return satMul(int64(volume(out[0].Shape)), int64(min(volume(l.kernel), 1<<30))), 0
}

func (l *lpPool) Run(_ *Scratch, in, out []*Tensor) {
	x := in[0]
	g, _ := l.place(x.Shape[2:], l.kernel)
	size, res := volume(g.in[:]), volume(g.out[:])
	for c := range x.Shape[0] * x.Shape[1] {
		src, dst := x.F[c*size:][:size], out[0].F[c*res:][:res]
		g.each(func(o, z0, ze, y0, ye, x0, xe int) {
			sum := 0.0
			for z := z0; z < ze; z += g.dilation[0] {
				for y := y0; y < ye; y += g.dilation[1] {
					for x := x0; x < xe; x += g.dilation[2] {
						sum += math.Pow(math.Abs(float64(src[(z*g.in[1]+y)*g.in[2]+x])), l.p)
					}
				}
			}
			dst[o] = float32(math.Pow(sum, 1/l.p))
		})
	}
}

// globalLpPool gives the Lp norm of each channel.
type globalLpPool struct{ p float64 }

func buildGlobalLpPool(_ *Node, a *attrs) (Op, error) {
	p, err := readP(a)
	return &globalLpPool{p}, err
}

func (l *globalLpPool) Shape(in []*Tensor, out []Spec) error { return (&globalPool{}).Shape(in, out) }

func (l *globalLpPool) Cost(in []*Tensor, _ []Spec) (int64, int64) { return int64(in[0].Len()), 0 }

func (l *globalLpPool) Run(_ *Scratch, in, out []*Tensor) {
	size := volume(in[0].Shape[2:])
	for c := range out[0].F {
		sum := 0.0
		for _, v := range in[0].F[c*size:][:size] {
			sum += math.Pow(math.Abs(float64(v)), l.p)
		}
		out[0].F[c] = float32(math.Pow(sum, 1/l.p))
	}
}

package ops

import (
	"fmt"
	"math"
	"slices"

	"idunno/models/onnx"
)

// visionTable lists operators of image and detection networks beside convolution and pooling.
func visionTable() map[string]spec {
	return map[string]spec{
		"GridSample":        {since: 16, in: 2, max: 2, outs: 1, build: buildGridSample},
		"RoiAlign":          {since: 10, in: 3, max: 3, outs: 1, build: buildRoiAlign},
		"NonMaxSuppression": {since: 10, in: 2, max: 5, outs: 1, build: buildNMS},
		"MaxUnpool":         {since: 9, in: 2, max: 3, outs: 1, build: buildMaxUnpool},
		"LpPool":            {since: 2, in: 1, max: 1, outs: 1, build: buildLpPool},
		"GlobalLpPool":      {since: 2, in: 1, max: 1, outs: 1, build: buildGlobalLpPool},
	}
}

// gridSample reads an image at places that a grid gives, from -1 to 1 along each side (Jaderberg et al. 2015).
type gridSample struct {
	mode, padding string
	corners       bool
}

func buildGridSample(n *Node, a *attrs) (Op, error) {
	g := &gridSample{a.string("mode", "bilinear"), a.string("padding_mode", "zeros"), a.int("align_corners", 0) != 0}
	switch g.mode {
	case "linear", "cubic": // the names since opset 20
		g.mode = "bi" + g.mode
	case "bilinear", "bicubic", "nearest":
	default:
		return nil, fmt.Errorf("mode is %q", g.mode)
	}
	if !slices.Contains([]string{"zeros", "border", "reflection"}, g.padding) {
		return nil, fmt.Errorf("padding_mode is %q", g.padding)
	}
	return g, nil
}

func (g *gridSample) Shape(in []*Tensor, out []Spec) error {
	x, grid := in[0].Shape, in[1].Shape
	if len(x) != 4 || len(grid) != 4 || grid[3] != 2 || grid[0] != x[0] || x[2]*x[3] == 0 {
		return fmt.Errorf("%w: image of shape %v and grid of shape %v", ErrUnsupported, x, grid)
	}
	out[0].set(in[0].DType, x[0], x[1], grid[1], grid[2])
	return needFloat(in, 0, 1)
}

func (g *gridSample) Cost(_ []*Tensor, out []Spec) (int64, int64) {
	return satMul(int64(volume(out[0].Shape)), 40), 0
}

// place turns a grid coordinate into a position along a side of n pixels.
func (g *gridSample) place(v float32, n int) float64 {
	x := ((float64(v)+1)*float64(n) - 1) / 2
	if g.corners {
		x = (float64(v) + 1) / 2 * float64(n-1)
	}
	if !(math.Abs(x) < 1<<30) {
		x = -1 << 30 // not a number, or far outside
	}
	switch g.padding {
	case "border":
		return min(max(x, 0), float64(n-1))
	case "reflection":
		return g.reflect(x, n)
	}
	return x
}

func (g *gridSample) reflect(x float64, n int) float64 {
	lo, hi := -0.5, float64(n)-0.5
	if g.corners {
		lo, hi = 0, float64(n-1)
	}
	if x >= lo && x <= hi || hi <= lo {
		return x
	}
	span := hi - lo
	d := math.Mod(math.Abs(x-lo), 2*span)
	return lo + min(d, 2*span-d)
}

// pixel reads one pixel; ones outside are what the padding says.
func (g *gridSample) pixel(plane []float32, h, w, y, x int) float64 {
	if y < 0 || y >= h || x < 0 || x >= w {
		switch g.padding {
		case "zeros":
			return 0
		case "reflection":
			y, x = int(g.reflect(float64(y), h)), int(g.reflect(float64(x), w))
		}
		y, x = min(max(y, 0), h-1), min(max(x, 0), w-1)
	}
	return float64(plane[y*w+x])
}

func (g *gridSample) Run(_ *Scratch, in, out []*Tensor) {
	c, h, w := in[0].Shape[1], in[0].Shape[2], in[0].Shape[3]
	points := in[1].Shape[1] * in[1].Shape[2]
	for n := range in[0].Shape[0] {
		for p := range points {
			at := (n*points + p) * 2
			x, y := g.place(in[1].F[at], w), g.place(in[1].F[at+1], h)
			for k := n * c; k < (n+1)*c; k++ {
				out[0].F[k*points+p] = g.sample(in[0].F[k*h*w:][:h*w], h, w, y, x)
			}
		}
	}
}

func (g *gridSample) sample(plane []float32, h, w int, y, x float64) float32 {
	if g.mode == "nearest" {
		return float32(g.pixel(plane, h, w, int(math.RoundToEven(y)), int(math.RoundToEven(x))))
	}
	y0, x0 := math.Floor(y), math.Floor(x)
	wy, wx := [4]float64{0, 1 - (y - y0), y - y0}, [4]float64{0, 1 - (x - x0), x - x0}
	first, last := 1, 2
	if g.mode == "bicubic" {
		first, last = 0, 3
		for k := range 4 {
			wy[k], wx[k] = keys(y-y0-float64(k-1)), keys(x-x0-float64(k-1))
		}
	}
	sum := 0.0
	for i := first; i <= last; i++ {
		for j := first; j <= last; j++ {
			sum += wy[i] * wx[j] * g.pixel(plane, h, w, int(y0)+i-1, int(x0)+j-1)
		}
	}
	return float32(sum)
}

// keys is the kernel of cubic interpolation with a = -3/4 (Keys 1981).
func keys(d float64) float64 {
	const a = -0.75
	if d = math.Abs(d); d <= 1 {
		return ((a+2)*d-(a+3))*d*d + 1
	}
	return ((a*d-5*a)*d+8*a)*d - 4*a
}

// roiAlign averages bilinear samples over the cells of regions of an image (He et al. 2017).
type roiAlign struct {
	h, w, ratio int
	scale       float64
	offset      float64
}

func buildRoiAlign(n *Node, a *attrs) (Op, error) {
	if mode := a.string("mode", "avg"); mode != "avg" {
		return nil, fmt.Errorf("%w: RoiAlign with mode %q", ErrUnsupported, mode)
	}
	h, w, ratio := a.int("output_height", 1), a.int("output_width", 1), a.int("sampling_ratio", 0)
	if h < 1 || w < 1 || h > maxWindow || w > maxWindow || ratio < 0 || ratio > 1<<10 {
		return nil, fmt.Errorf("output_height %d, output_width %d, sampling_ratio %d", h, w, ratio)
	}
	r := &roiAlign{h: int(h), w: int(w), ratio: int(ratio), scale: float64(a.float("spatial_scale", 1))}
	if n.Opset >= 16 {
		switch mode := a.string("coordinate_transformation_mode", "half_pixel"); mode {
		case "half_pixel":
			r.offset = 0.5
		case "output_half_pixel":
		default:
			return nil, fmt.Errorf("coordinate_transformation_mode is %q", mode)
		}
	}
	return r, nil
}

func (r *roiAlign) Shape(in []*Tensor, out []Spec) error {
	x, rois := in[0].Shape, in[1].Shape
	if len(x) != 4 || x[2]*x[3] == 0 || len(rois) != 2 || rois[1] != 4 || !slices.Equal(in[2].Shape, rois[:1]) || !in[2].DType.IsInt() {
		return fmt.Errorf("image of shape %v, regions of shape %v, batch indices %s%v", x, rois, in[2].DType, in[2].Shape)
	}
	out[0].set(in[0].DType, rois[0], x[1], r.h, r.w)
	return needFloat(in, 0, 1)
}

func (r *roiAlign) Cost(in []*Tensor, out []Spec) (int64, int64) {
	samples := int64(r.ratio)
	if samples == 0 {
		samples = int64(max(in[0].Shape[2], in[0].Shape[3]))
	}
	return satMul(satMul(int64(volume(out[0].Shape)), samples*samples), 8), 0
}

func (r *roiAlign) Run(_ *Scratch, in, out []*Tensor) {
	c, h, w := in[0].Shape[1], in[0].Shape[2], in[0].Shape[3]
	for k := range in[1].Shape[0] {
		image := position(in[2].I[k], in[0].Shape[0])
		var box [4]float64
		for i := range box {
			v := float64(in[1].F[4*k+i])*r.scale - r.offset
			box[i] = min(max(v, -1<<20), 1<<20)
		}
		tall, wide := box[3]-box[1], box[2]-box[0]
		if r.offset == 0 {
			tall, wide = max(tall, 1), max(wide, 1)
		}
		ny, nx := r.samples(tall/float64(r.h), h), r.samples(wide/float64(r.w), w)
		for ch := range c {
			plane := in[0].F[(image*c+ch)*h*w:][:h*w]
			for o := range r.h * r.w {
				sum := 0.0
				for i := range ny * nx {
					y := box[1] + (float64(o/r.w)+(float64(i/nx)+0.5)/float64(ny))*tall/float64(r.h)
					x := box[0] + (float64(o%r.w)+(float64(i%nx)+0.5)/float64(nx))*wide/float64(r.w)
					sum += bilinear(plane, h, w, y, x)
				}
				out[0].F[(k*c+ch)*r.h*r.w+o] = float32(sum / float64(max(ny*nx, 1)))
			}
		}
	}
}

// samples is the number of samples along a side of a cell of some pixels.
func (r *roiAlign) samples(size float64, side int) int {
	if r.ratio > 0 {
		return r.ratio
	}
	return min(max(int(math.Ceil(size)), 0), side) // more samples than pixels would tell nothing
}

func bilinear(plane []float32, h, w int, y, x float64) float64 {
	if !(y >= -1 && y <= float64(h) && x >= -1 && x <= float64(w)) {
		return 0
	}
	y, x = min(max(y, 0), float64(h-1)), min(max(x, 0), float64(w-1))
	y0, x0 := int(y), int(x)
	y1, x1 := min(y0+1, h-1), min(x0+1, w-1)
	fy, fx := y-float64(y0), x-float64(x0)
	top := float64(plane[y0*w+x0])*(1-fx) + float64(plane[y0*w+x1])*fx
	low := float64(plane[y1*w+x0])*(1-fx) + float64(plane[y1*w+x1])*fx
	return top*(1-fy) + low*fy
}

// nms chooses, class by class, the boxes with the best scores that overlap no better one too much.
type nms struct{ center bool }

func buildNMS(_ *Node, a *attrs) (Op, error) { return &nms{a.int("center_point_box", 0) != 0}, nil }

func (s *nms) Shape(in []*Tensor, out []Spec) error {
	b, c := in[0].Shape, in[1].Shape
	if len(b) != 3 || b[2] != 4 || len(c) != 3 || c[0] != b[0] || c[2] != b[1] {
		return fmt.Errorf("boxes of shape %v and scores of shape %v", b, c)
	}
	for i, t := range in {
		if t == nil {
			continue
		}
		if i >= 2 && (t.Len() != 1 || t.DType.IsInt() != (i == 2)) {
			return fmt.Errorf("input %d is %s%v", i, t.DType, t.Shape)
		}
		if !t.Known() {
			return ErrNeedsValues
		}
	}
	if err := needFloat(in, 0, 1); err != nil {
		return err
	}
	kept := int64(b[1])
	if t := input(in, 2); t != nil {
		kept = min(kept, max(t.I[0], 0))
	}
	if satMul(int64(in[1].Len()), kept) > 1<<36 {
		return fmt.Errorf("%w: up to %d of %d boxes in %d classes", ErrUnsupported, kept, b[1], c[1])
	}
	out[0].set(onnx.Int64, 0, 3)
	if in[1].Len() == 0 {
		return nil
	}
	n := 0
	s.choose(in, func(_, _, _ int) { n++ })
	out[0].set(onnx.Int64, n, 3)
	return nil
}

func (s *nms) Run(_ *Scratch, in, out []*Tensor) {
	to := out[0].I
	s.choose(in, func(image, class, box int) {
		to[0], to[1], to[2] = int64(image), int64(class), int64(box)
		to = to[3:]
	})
}

func (s *nms) choose(in []*Tensor, f func(image, class, box int)) {
	most, overlap := int64(0), float32(0)
	if t := input(in, 2); t != nil {
		most = t.I[0]
	}
	if t := input(in, 3); t != nil {
		overlap = t.F[0]
	}
	least := float32(math.Inf(-1))
	if t := input(in, 4); t != nil {
		least = t.F[0]
	}
	n, classes := in[0].Shape[1], in[1].Shape[1]
	best, kept := make([]int, 0, n), make([]int, 0, n)
	for k := range in[1].Shape[0] * classes {
		scores, boxes := in[1].F[k*n:][:n], in[0].F[k/classes*n*4:][:n*4]
		best, kept = best[:0], kept[:0]
		for i, v := range scores {
			if v > least {
				best = append(best, i)
			}
		}
		slices.SortFunc(best, func(a, b int) int {
			if c := order(scores[b], scores[a]); c != 0 {
				return c
			}
			return a - b
		})
		for _, i := range best {
			if int64(len(kept)) >= most {
				break
			}
			if !slices.ContainsFunc(kept, func(j int) bool { return s.overlap(boxes[4*i:][:4], boxes[4*j:][:4]) > overlap }) {
				kept = append(kept, i)
				f(k/classes, k%classes, i)
			}
		}
	}
}

// overlap is the share of the intersection of two boxes in their union.
func (s *nms) overlap(a, b []float32) float32 {
	a0, a1, a2, a3 := s.corners(a)
	b0, b1, b2, b3 := s.corners(b)
	both := max(0, min(a2, b2)-max(a0, b0)) * max(0, min(a3, b3)-max(a1, b1))
	all := (a2-a0)*(a3-a1) + (b2-b0)*(b3-b1) - both
	if all <= 0 {
		return 0
	}
	return both / all
}

func (s *nms) corners(b []float32) (y0, x0, y1, x1 float32) {
	if s.center {
		return b[1] - b[3]/2, b[0] - b[2]/2, b[1] + b[3]/2, b[0] + b[2]/2
	}
	return min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])
}

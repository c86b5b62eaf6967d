package ops

import (
	"fmt"
	"math"
	"slices"

	"idunno/models/onnx"
)

// resizeTable lists the operators that scale images.
func resizeTable() map[string]spec {
	return map[string]spec{
		"Resize":   {since: 10, in: 1, max: 4, outs: 1, build: buildResize},
		"Upsample": {since: 7, in: 1, max: 2, outs: 1, build: buildUpsample},
	}
}

// resize interpolates along every axis. ONNX defines the modes by its reference implementation; interpolation is separable, so an output is
// the sum over the products of the axes' weights.
type resize struct {
	mode, coordinates, rounding string
	cubic, outside              float32
	exclude                     bool
	roi, scales, sizes          int       // inputs; -1: none
	fixed                       []float32 // scales of Upsample before opset 9
}

func buildUpsample(n *Node, a *attrs) (Op, error) {
	r := &resize{mode: a.string("mode", "nearest"), coordinates: "asymmetric", rounding: "floor", roi: -1, scales: 1, sizes: -1}
	if n.Opset < 9 {
		v, ok := a.get("scales", onnx.AttrFloats)
		if !ok {
			return nil, fmt.Errorf("the scales are missing")
		}
		r.fixed, r.scales = v.Floats, -1
	} else if !n.present(1) {
		return nil, fmt.Errorf("the scales are missing")
	}
	return r.known()
}

func buildResize(n *Node, a *attrs) (Op, error) {
	if n.Opset < 11 {
		if !n.present(1) {
			return nil, fmt.Errorf("the scales are missing")
		}
		r := &resize{mode: a.string("mode", "nearest"), coordinates: "asymmetric", rounding: "floor", roi: -1, scales: 1, sizes: -1}
		return r.known()
	}
	r := &resize{
		mode: a.string("mode", "nearest"), coordinates: a.string("coordinate_transformation_mode", "half_pixel"),
		rounding: a.string("nearest_mode", "round_prefer_floor"), cubic: a.float("cubic_coeff_a", -0.75),
		exclude: a.int("exclude_outside", 0) != 0, outside: a.float("extrapolation_value", 0), roi: -1, scales: -1, sizes: -1,
	}
	for i, to := range []*int{1: &r.roi, 2: &r.scales, 3: &r.sizes} {
		if to != nil && n.present(i) {
			*to = i
		}
	}
	if n.Opset >= 18 {
		if a.int("antialias", 0) != 0 || a.string("keep_aspect_ratio_policy", "stretch") != "stretch" {
			return nil, fmt.Errorf("%w: Resize with antialias or keep_aspect_ratio_policy", ErrUnsupported)
		}
	}
	return r.known()
}

func (r *resize) known() (Op, error) {
	switch {
	case !slices.Contains([]string{"nearest", "linear", "cubic"}, r.mode):
		return nil, fmt.Errorf("%w: mode %q", ErrUnsupported, r.mode)
	case !slices.Contains([]string{"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize"}, r.coordinates):
		return nil, fmt.Errorf("%w: coordinate_transformation_mode %q", ErrUnsupported, r.coordinates)
	case !slices.Contains([]string{"round_prefer_floor", "round_prefer_ceil", "floor", "ceil"}, r.rounding):
		return nil, fmt.Errorf("%w: nearest_mode %q", ErrUnsupported, r.rounding)
	case r.coordinates == "tf_crop_and_resize" && r.roi < 0:
		return nil, fmt.Errorf("tf_crop_and_resize without a region")
	}
	return r, nil
}

// floatsOf returns the elements of a float input with n elements; nil when it is left out or empty.
func floatsOf(in []*Tensor, i, n int) ([]float32, error) {
	if i < 0 || i >= len(in) || in[i] == nil || in[i].Len() == 0 {
		return nil, nil
	}
	if !in[i].DType.IsFloat() || in[i].Len() != n {
		return nil, fmt.Errorf("input %d is %s%v, expected %d numbers", i, in[i].DType, in[i].Shape, n)
	}
	if !in[i].Known() {
		return nil, ErrNeedsValues
	}
	return in[i].F, nil
}

// scaling returns the scales or the sizes.
func (r *resize) scaling(in []*Tensor) (scales []float32, sizes []int64, err error) {
	n := len(in[0].Shape)
	if scales = r.fixed; scales == nil {
		if scales, err = floatsOf(in, r.scales, n); err != nil {
			return nil, nil, err
		}
	}
	if scales == nil && r.sizes >= 0 {
		sizes, err = axesSource{input: r.sizes}.of(in)
	}
	if err == nil && len(scales)+len(sizes) != n {
		err = fmt.Errorf("%d scales and %d sizes for %d dimensions", len(scales), len(sizes), n)
	}
	return scales, sizes, err
}

func (r *resize) Shape(in []*Tensor, out []Spec) error {
	n := len(in[0].Shape)
	if n > maxRank {
		return fmt.Errorf("%d dimensions are too many", n)
	}
	scales, sizes, err := r.scaling(in)
	if err != nil {
		return err
	}
	if r.coordinates == "tf_crop_and_resize" {
		if roi, err := floatsOf(in, r.roi, 2*n); err != nil || roi == nil {
			return fmt.Errorf("the region has not %d numbers or is not known", 2*n)
		}
	}
	out[0].set(in[0].DType)
	for i, d := range in[0].Shape {
		size := 0.0
		if scales != nil {
			if !(scales[i] > 0) {
				return fmt.Errorf("a scale of %v", scales[i])
			}
			size = math.Floor(float64(d) * float64(scales[i]))
		} else {
			size = float64(sizes[i])
		}
		if !(size >= 0 && size <= 1<<30) || d == 0 && size > 0 {
			return fmt.Errorf("a size of %v from %d", size, d)
		}
		out[0].Shape = append(out[0].Shape, int(size))
	}
	return needFloat(in, 0)
}

// taps is the largest number of inputs along one axis that an output depends on.
func (r *resize) taps() int {
	switch r.mode {
	case "nearest":
		return 1
	case "linear":
		return 2
	}
	return 4
}

func (r *resize) Cost(in []*Tensor, out []Spec) (flops, scratch int64) {
	per := int64(2)
	for i, d := range out[0].Shape {
		if d != in[0].Shape[i] {
			per *= int64(r.taps())
		}
		scratch += 3 * int64(r.taps()) * int64(d)
	}
	return per * int64(volume(out[0].Shape)), scratch
}

func (r *resize) Run(s *Scratch, in, out []*Tensor) {
	x, y := in[0], out[0]
	n := len(x.Shape)
	scales, _, _ := r.scaling(in)
	roi, _ := floatsOf(in, r.roi, 2*n)
	taps, total := r.taps(), 0
	for _, d := range y.Shape {
		total += d
	}
	work := s.ints(total*taps + 2*n)
	positions, index, first := work[:total*taps], work[total*taps:][:n], work[total*taps+n:]
	weights := s.floats(0, total*taps)
	at := 0
	for d := range n {
		l := line{resize: r, in: x.Shape[d], out: y.Shape[d], scale: float64(y.Shape[d]) / float64(max(x.Shape[d], 1))}
		if scales != nil {
			l.scale = float64(scales[d])
		}
		if roi != nil {
			l.start, l.end = float64(roi[d]), float64(roi[n+d])
		}
		first[d] = at
		for o := range y.Shape[d] {
			l.weigh(o, positions[at:at+taps], weights[at:at+taps])
			at += taps
		}
	}
	for i := range y.F {
		y.F[i] = float32(r.sample(x, index, first, positions, weights, 0, 0))
		advance(index, y.Shape)
	}
}

// sample sums over the taps of axis d and those after it; base is the offset that the axes before give.
func (r *resize) sample(x *Tensor, index, first, positions []int, weights []float32, d, base int) float64 {
	if d == len(x.Shape) {
		return float64(x.F[base])
	}
	taps := r.taps()
	at := first[d] + index[d]*taps
	sum := 0.0
	for k := at; k < at+taps; k++ {
		if positions[k] < 0 {
			return float64(r.outside)
		}
		if w := weights[k]; w != 0 {
			sum += float64(w) * r.sample(x, index, first, positions, weights, d+1, base*x.Shape[d]+positions[k])
		}
	}
	return sum
}

// line is one axis being resized.
type line struct {
	*resize
	in, out           int
	scale, start, end float64
}

// coordinate is the place in the input of output position o.
func (l *line) coordinate(o int) float64 {
	x, in := float64(o), float64(l.in)
	switch l.coordinates {
	case "align_corners":
		// As in the reference, the length that the scale gives counts, not the rounded one.
		if length := in * l.scale; length > 1 {
			return x * (in - 1) / (length - 1)
		}
		return 0
	case "asymmetric":
		return x / l.scale
	case "tf_half_pixel_for_nn":
		return (x + 0.5) / l.scale
	case "pytorch_half_pixel":
		if l.out <= 1 {
			return 0
		}
	case "tf_crop_and_resize":
		if l.out > 1 {
			return l.start*(in-1) + x*(l.end-l.start)*(in-1)/float64(l.out-1)
		}
		return 0.5 * (l.start + l.end) * (in - 1)
	case "half_pixel_symmetric":
		return in/2*(1-float64(l.out)/(l.scale*in)) + (x+0.5)/l.scale - 0.5
	}
	return (x+0.5)/l.scale - 0.5
}

// weigh fills the positions and weights of output position o; a position of -1 means outside of the region.
func (l *line) weigh(o int, positions []int, weights []float32) {
	if l.in == l.out && l.coordinates != "tf_crop_and_resize" && l.scale == 1 {
		clear(weights)
		for k := range positions {
			positions[k] = o
		}
		weights[0] = 1
		return
	}
	x := l.coordinate(o)
	if l.coordinates == "tf_crop_and_resize" && !(x >= 0 && x <= float64(l.in-1)) {
		for k := range positions {
			positions[k] = -1
		}
		return
	}
	if l.mode == "nearest" {
		positions[0], weights[0] = min(max(l.round(x), 0), l.in-1), 1
		return
	}
	x = min(max(x, -float64(l.in)-8), 2*float64(l.in)+8) // far outside all is the border
	low := int(math.Floor(x))
	t := float32(x - float64(low))
	if l.mode == "linear" {
		weights[0], weights[1] = 1-t, t
	} else {
		low--
		a := l.cubic
		for k := range weights { // Keys 1981
			d := float32(math.Abs(float64(t - float32(k-1))))
			if d <= 1 {
				weights[k] = ((a+2)*d-(a+3))*d*d + 1
			} else {
				weights[k] = ((a*d-5*a)*d+8*a)*d - 4*a
			}
		}
	}
	sum := float32(0)
	for k := range positions {
		p := low + k
		if l.exclude && (p < 0 || p >= l.in) {
			weights[k] = 0
		}
		sum += weights[k]
		positions[k] = min(max(p, 0), l.in-1)
	}
	if l.exclude && sum != 0 {
		for k := range weights {
			weights[k] /= sum
		}
	}
}

func (l *line) round(x float64) int {
	x = min(max(x, -1), float64(l.in)) // what is outside is clamped anyway
	switch l.rounding {
	case "floor":
		return int(math.Floor(x))
	case "ceil":
		return int(math.Ceil(x))
	case "round_prefer_ceil":
		return int(math.Floor(x + 0.5))
	}
	return int(math.Ceil(x - 0.5))
}

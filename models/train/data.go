package train

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"idunno/models/dataset"
)

// Streams of random numbers that one seed gives; each is used for one purpose, so
// that a change to one leaves the others as they are.
const (
	streamWeights = iota + 1
	streamOrder
	streamShift
	streamDropout
)

// random is the generator for place i of a stream. PCG's two words are the seed
// and the place, so it can be made anywhere, in any order, by any goroutine.
func random(seed, stream, i uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, stream<<48|i))
}

// samples gives images of a set as network input.
type samples struct {
	x     []byte
	f32   bool
	y     []int32
	image []int
	n     int // elements of one image
}

// newSamples checks that a set can be trained on and counts its classes.
func newSamples(set *dataset.Set) (*samples, int, error) {
	if set == nil || set.Len() == 0 {
		return nil, 0, fmt.Errorf("no images: %w", ErrData)
	}
	if err := set.Check(); err != nil {
		return nil, 0, fmt.Errorf("%w: %w", err, ErrData)
	}
	if set.Y == nil {
		return nil, 0, fmt.Errorf("%s has no labels: %w", set.Name, ErrData)
	}
	classes := len(set.Classes)
	if classes == 0 {
		for _, y := range set.Y {
			classes = max(classes, int(y)+1)
		}
	}
	if classes < 2 || classes > 10000 {
		return nil, 0, fmt.Errorf("%s has %d classes, expected 2 to 10000: %w", set.Name, classes, ErrData)
	}
	s := &samples{x: set.X, f32: set.DType == dataset.F32, y: set.Y, image: set.Shape}
	s.n = shape{image: set.Shape}.elements()
	return s, classes, nil
}

// put writes image i, scaled to 0..1 when it is bytes, moved by dx columns and dy
// rows; what moves in is zero.
func (s *samples) put(i int, dst []float32, dx, dy int) {
	if dx == 0 && dy == 0 {
		for j := range dst {
			dst[j] = s.at(i*s.n + j)
		}
		return
	}
	c, h, w := s.image[0], s.image[1], s.image[2]
	clear(dst)
	for p := range c {
		for y := max(0, dy); y < min(h, h+dy); y++ {
			to, from := (p*h+y)*w, i*s.n+(p*h+y-dy)*w
			for x := max(0, dx); x < min(w, w+dx); x++ {
				dst[to+x] = s.at(from + x - dx)
			}
		}
	}
}

func (s *samples) at(i int) float32 {
	if s.f32 {
		return math.Float32frombits(binary.LittleEndian.Uint32(s.x[4*i:]))
	}
	return float32(s.x[i]) * (1.0 / 255)
}

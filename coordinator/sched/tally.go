package sched

import (
	"math"
	"math/bits"
	"time"

	"idunno/broker/wire"
)

// Range and precision of the batch-time histogram, in nanoseconds: 1 µs to 1 h
// at three significant digits.
const (
	histMin    = int64(time.Microsecond)
	histMax    = int64(time.Hour)
	histDigits = 3
)

// Tally sums batches. Sums of times are whole numbers of any order's same value,
// so merging is exact.
type Tally struct {
	raw   wire.RawStats
	times times
}

// NewTally returns an empty tally.
func NewTally() *Tally {
	return &Tally{}
}

// Batch adds a batch.
func (t *Tally) Batch(b *wire.BatchResult) {
	r := &t.raw
	if r.Batches == 0 || b.Nanos < r.MinNs {
		r.MinNs = b.Nanos
	}
	r.MaxNs = max(r.MaxNs, b.Nanos)
	r.Batches++
	r.Images += int64(b.Images)
	if b.Labeled {
		r.Labeled += int64(b.Images)
		r.Correct += int64(b.Correct)
		r.LossSum += b.LossSum
	}
	ns := uint64(b.Nanos)
	r.SumNs += ns
	hi, lo := bits.Mul64(ns, ns)
	addSquares(r, hi, lo)
	t.times.add(placeOf(b.Nanos), 1)
}

// Merge adds another tally.
func (t *Tally) Merge(o *Tally) {
	t.mergeSums(&o.raw)
	t.times.merge(&o.times)
}

func (t *Tally) mergeSums(s *wire.RawStats) {
	r := &t.raw
	if s.Batches > 0 && (r.Batches == 0 || s.MinNs < r.MinNs) {
		r.MinNs = s.MinNs
	}
	r.MaxNs = max(r.MaxNs, s.MaxNs)
	r.Batches += s.Batches
	r.Images += s.Images
	r.Labeled += s.Labeled
	r.Correct += s.Correct
	r.LossSum += s.LossSum
	r.Tasks += s.Tasks
	r.SumNs += s.SumNs
	addSquares(r, s.SumSq[0], s.SumSq[1])
}

func addSquares(r *wire.RawStats, hi, lo uint64) {
	var carry uint64
	r.SumSq[1], carry = bits.Add64(r.SumSq[1], lo, 0)
	r.SumSq[0] += hi + carry
}

// Raw returns the sums, for storing.
func (t *Tally) Raw() (*wire.RawStats, error) { return t.pack(new(packer)) }

func (t *Tally) pack(k *packer) (*wire.RawStats, error) {
	p, err := t.times.encode(k)
	if err != nil {
		return nil, err
	}
	raw := t.raw
	raw.Times = p
	return &raw, nil
}

// Stats computes the statistics. Variance is that of the population: the batches
// are all there are, no sample.
func (t *Tally) Stats() wire.Stats {
	r := &t.raw
	s := wire.Stats{Batches: r.Batches, Images: r.Images}
	if r.Labeled > 0 {
		s.Accuracy = float64(r.Correct) / float64(r.Labeled)
		s.Loss = r.LossSum / float64(r.Labeled)
	}
	if r.Batches == 0 {
		return s
	}
	n := float64(r.Batches)
	mean := float64(r.SumNs) / n
	squares := math.FMA(float64(r.SumSq[0]), 1<<64, float64(r.SumSq[1]))
	variance := max(squares/n-mean*mean, 0)
	const ms = 1e6
	s.MeanMs, s.SdMs, s.VarianceMs2 = mean/ms, math.Sqrt(variance)/ms, variance/ms/ms
	s.MinMs, s.MaxMs = float64(r.MinNs)/ms, float64(r.MaxNs)/ms
	q := t.times.quantiles(50, 90, 95, 99)
	s.P50Ms, s.P90Ms, s.P95Ms, s.P99Ms = float64(q[0])/ms, float64(q[1])/ms, float64(q[2])/ms, float64(q[3])/ms
	return s
}

// window counts what happened in the last ten seconds, in slices of 100 ms.
type window struct {
	slices [windowSlices]windowSlice
}

type windowSlice struct {
	tick            int64
	batches, images int64
}

const (
	windowSlices = 101
	windowStep   = 100 * time.Millisecond
	// RateWindow is the span that rates are taken over.
	RateWindow = (windowSlices - 1) * windowStep
)

func (w *window) add(at time.Time, batches, images int64) {
	tick := at.UnixNano() / int64(windowStep)
	s := &w.slices[tick%windowSlices]
	if s.tick > tick {
		return
	}
	if s.tick != tick {
		*s = windowSlice{tick: tick}
	}
	s.batches += batches
	s.images += images
}

// rate is batches and images per second over the last [RateWindow], or since
// start when that is shorter ago.
func (w *window) rate(now, start time.Time) (batches, images float64) {
	newest := now.UnixNano() / int64(windowStep)
	var nb, ni int64
	for _, s := range w.slices {
		if s.tick > newest-windowSlices+1 && s.tick <= newest {
			nb += s.batches
			ni += s.images
		}
	}
	span := RateWindow
	if d := now.Sub(start); !start.IsZero() && d < span {
		span = max(d, windowStep)
	}
	return float64(nb) / span.Seconds(), float64(ni) / span.Seconds()
}

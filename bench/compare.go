package bench

import (
	"context"
	"fmt"
	"iter"
	"time"
)

// Side is one of two ways to do the same work.
type Side struct {
	// Result names the distribution of its rates, in images/s.
	Result string
	// Rate works for about span, at least once, and returns images per second.
	Rate func(ctx context.Context, span time.Duration) (float64, error)
}

// Comparison is two sides that do the same work.
type Comparison struct {
	// Ratio names the ratio of A's rate to B's.
	Ratio string
	A, B  Side
}

// CompareConfig says what [Compare] measures.
type CompareConfig struct {
	// Scenario names the document. Required.
	Scenario string
	// Comparisons are measured one after the other; the sides need to live only until the next one is asked for. Required.
	Comparisons iter.Seq2[Comparison, error]
	// Pairs is the number of pairs behind each ratio; default 15.
	Pairs int
	// Span is how long each half of a pair takes, about; default 0.2 s.
	Span time.Duration
	// Progress is told of every comparison.
	Progress Progress
}

// Compare measures sides in turn in the same run: the rates of both and the median of the ratios. In every other pair the second goes first.
func Compare(ctx context.Context, c CompareConfig) (*Document, error) {
	if c.Scenario == "" || c.Comparisons == nil {
		return nil, fmt.Errorf("%w: no scenario or nothing to compare", ErrConfig)
	}
	if c.Pairs <= 0 {
		c.Pairs = 15
	}
	if c.Span <= 0 {
		c.Span = 200 * time.Millisecond
	}
	d := newDocument(c.Scenario)
	for k, err := range c.Comparisons {
		if err != nil {
			return nil, err
		}
		first, second := newSample(k.A.Result, "images/s", 100), newSample(k.B.Result, "images/s", 100)
		for _, side := range []Side{k.A, k.B} { // the first run takes memory
			if _, err := side.Rate(ctx, 0); err != nil {
				return nil, fmt.Errorf("%s: %w", side.Result, err)
			}
		}
		ratios, err := paired(c.Pairs, noting(first, k.A.at(ctx, c.Span)), noting(second, k.B.at(ctx, c.Span)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k.Ratio, err)
		}
		r := Ratio{Name: k.Ratio, Value: median(ratios), N: len(ratios)}
		d.Results, d.Ratios = append(d.Results, first.result(), second.result()), append(d.Ratios, r)
		c.Progress.tell("%s %.3f", r.Name, r.Value)
	}
	return d, nil
}

func (s Side) at(ctx context.Context, span time.Duration) func() (float64, error) {
	return func() (float64, error) { return s.Rate(ctx, span) }
}

// noting records what a measurement gives.
func noting(s *sample, f func() (float64, error)) func() (float64, error) {
	return func() (float64, error) {
		v, err := f()
		if err == nil {
			s.add(v)
		}
		return v, err
	}
}

// paired measures a and b in turn, n times, the first to go changing from pair to pair, and returns the ratios a to b.
func paired(n int, a, b func() (float64, error)) ([]float64, error) {
	ratios := make([]float64, 0, n)
	for i := range n {
		var v [2]float64
		for k := range v {
			which := (i + k) % 2
			x, err := []func() (float64, error){a, b}[which]()
			if err != nil {
				return nil, err
			}
			v[which] = x
		}
		ratios = append(ratios, v[0]/v[1])
	}
	return ratios, nil
}

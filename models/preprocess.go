package models

import (
	"fmt"
	"math"
)

// Preprocess turns a byte x of channel c into (x*Scale - Mean[c]) / Std[c] before a model is fed with it. Mean and Std have one number, or one a
// channel; nil means 0 and 1. Images that are numbers already are fed as they are.
type Preprocess struct {
	Scale     float64
	Mean, Std []float64
}

// tables gives the number for each byte, one table for all channels or one for each.
func (p *Preprocess) tables() ([][256]float32, error) {
	n := max(len(p.Mean), len(p.Std), 1)
	at := func(v []float64, c int, none float64) (float64, error) {
		switch len(v) {
		case 0:
			return none, nil
		case 1:
			return v[0], nil
		case n:
			return v[c], nil
		}
		return 0, fmt.Errorf("%w: preprocessing has %d means and %d deviations", ErrMalformed, len(p.Mean), len(p.Std))
	}
	out := make([][256]float32, n)
	for c := range out {
		mean, err := at(p.Mean, c, 0)
		if err != nil {
			return nil, err
		}
		std, err := at(p.Std, c, 1)
		if err != nil {
			return nil, err
		}
		for x := range out[c] {
			v := float32((float64(x)*p.Scale - mean) / std)
			if v != v || math.Abs(float64(v)) > math.MaxFloat32 {
				return nil, fmt.Errorf("%w: preprocessing makes %v of %d", ErrMalformed, v, x)
			}
			out[c][x] = v
		}
	}
	return out, nil
}

// scaled writes images of shape, one after the other, as their tables say.
func (m *Model) scaled(dst []float32, x []byte, per int) {
	plane := per / len(m.tables)
	for len(x) > 0 {
		for c := range m.tables {
			t := &m.tables[c]
			for i, v := range x[:plane] {
				dst[i] = t[v]
			}
			dst, x = dst[plane:], x[plane:]
		}
	}
}

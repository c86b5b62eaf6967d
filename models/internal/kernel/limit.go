package kernel

import "time"

// FMALimit measures for about d how many GFLOP/s this core does at most with the best level of this processor: multiplications and additions
// of numbers that are in registers, none of which waits for another.
func FMALimit(d time.Duration) float64 { return fmaLimit(best(), d) }

func fmaLimit(lv level, d time.Duration) float64 {
	const rounds = 20000
	var most float64
	for began := time.Now(); ; {
		from := time.Now()
		ops := lv.limit(rounds)
		most = max(most, float64(ops)/float64(time.Since(from).Nanoseconds()))
		if time.Since(began) >= d {
			return most
		}
	}
}

package sim_test

import (
	"flag"
	"fmt"
	"maps"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	oneSeed = flag.Uint64("sim.seed", 0, "run this seed alone and print its trace")
	seeds   = flag.Int("sim.seeds", 250, "number of seeds to run")
	limit   = flag.Duration("sim.limit", 20*time.Second, "time after which no further seed begins")
	first   = flag.Uint64("sim.first", 1, "the first seed")
)

// least is how many seeds run however slow the machine is.
const least = 20

// Every accepted job ends with one result a task, equal to those of a run without
// faults, whatever happens on the way.
func TestSeeds(t *testing.T) {
	// Little lives long here; without this a fifth of the time goes into the collector.
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	f, cache := newFixture(t), t.TempDir()
	if *oneSeed > 0 {
		check(t, f, cache, *oneSeed)
		return
	}
	began := time.Now()
	next := *first - 1
	total := make(map[string]int)
	var mu sync.Mutex
	var ran, failed int
	t.Run("lanes", func(t *testing.T) {
		for lane := range 2 {
			t.Run(fmt.Sprint(lane), func(t *testing.T) {
				t.Parallel()
				for {
					seed := atomic.AddUint64(&next, 1)
					if seed >= *first+uint64(*seeds) || seed >= *first+least && time.Since(began) > *limit {
						return
					}
					ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
						counts := check(t, f, cache, seed)
						mu.Lock()
						defer mu.Unlock()
						for k, n := range counts {
							total[k] += n
						}
					})
					mu.Lock()
					ran++
					if !ok {
						failed++
					}
					enough := failed > 5
					mu.Unlock()
					if enough {
						return
					}
				}
			})
		}
	})
	t.Logf("%d seeds in %v: %v", ran, time.Since(began).Round(time.Millisecond), total)
}

// check simulates a seed and reports its failure, with what leads to it.
func check(t *testing.T, f *fixture, cache string, seed uint64) map[string]int {
	wrong, trace, steps, faults := simulate(t, f, cache, seed)
	if *oneSeed > 0 {
		t.Log(trace)
	}
	if len(wrong) > 0 {
		if lines := strings.Split(trace, "\n"); *oneSeed == 0 && len(lines) > 40 {
			trace = "...\n" + strings.Join(lines[len(lines)-40:], "\n")
		}
		t.Errorf("seed %d:\n%s\n%s\nrepeat it with: go test ./coordinator/cluster/sim -run TestSeeds -sim.seed %d",
			seed, strings.Join(wrong, "\n"), trace, seed)
	}
	counts := maps.Clone(steps)
	for k, n := range faults {
		counts["fault "+k] = n
	}
	return counts
}

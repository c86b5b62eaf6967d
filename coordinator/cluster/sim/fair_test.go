package sim_test

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator"
	"idunno/coordinator/cluster/sim"
	"idunno/worker"
)

// A second job whose batches cost several times what the first one's do has an equal
// rate within two seconds and keeps it, wherever between two looks of the leader it
// comes. What the first one did alone, and what was in hand when the second came, is
// nobody's debt.
func TestSecondJobHasAnEqualRateSoon(t *testing.T) {
	f, cache := newFixture(t), t.TempDir()
	for i, c := range []struct {
		first, second int
		later         time.Duration
	}{{batchSize, batchSize, 0}, {3 * batchSize, batchSize, 220 * time.Millisecond}, {batchSize, 3 * batchSize, 440 * time.Millisecond}} {
		t.Run(fmt.Sprintf("%d images beside %d, %v", c.second, c.first, c.later), func(t *testing.T) {
			soon, worst := join(t, f, cache, uint64(i)+1, c.first, c.second, c.later)
			t.Logf("equal after %v, then %.1f %% apart at most", soon, worst)
			if soon > 2*time.Second {
				t.Errorf("rates are equal after %v", soon)
			}
			if worst > 15 {
				t.Errorf("rates are %.1f %% apart in a second that begins later than one after the second job came", worst)
			}
		})
	}
}

// join has a job of batches of the one size run for a while, and another one come. It
// returns when their rates over a second were first within ten percent, and how far
// they lay apart at most over the seconds that began a second or more after that job
// came.
func join(t *testing.T, f *fixture, cache string, seed uint64, first, second int, later time.Duration) (soon time.Duration, worst float64) {
	const joined = 4 * time.Second
	synctest.Test(t, func(t *testing.T) {
		w := sim.NewWorld(seed, f.store, broker.LeaseTTL)
		ctx, stop := context.WithCancel(context.Background())
		var ends sync.WaitGroup
		for i := range 3 {
			conn := w.Connect(fmt.Sprint("n", i))
			ends.Go(func() {
				defer conn.Kill()
				var err error
				if i == 0 {
					err = coordinator.Run(ctx, coordinator.Config{Broker: conn, Name: "c", CompactAfter: -1})
				} else {
					err = worker.Run(ctx, worker.Config{Broker: conn, Name: fmt.Sprint("w", i), Slots: 2, CacheDir: cache, CacheBytes: 1, MemoryBytes: 1})
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		client := w.Connect("client")
		submit := func(size int) {
			doc := fmt.Appendf(nil, `{"model":%q,"data":%q,"from":1,"to":%d,"batch_size":%d,"rounds":%d}`, modelName, dataName, batches*batchSize/size, size, 25*size/batchSize)
			_, err := client.Submit(context.Background(), "", doc)
			must(t, err)
		}
		submit(first)
		time.Sleep(2*time.Second + later)
		at := time.Now()
		submit(second)
		time.Sleep(joined)
		results := w.Results()
		for end := time.Second; end <= joined; end += 20 * time.Millisecond {
			gap := gapBetween(results, at.Add(end-time.Second), at.Add(end))
			if soon == 0 && gap <= 10 {
				soon = end
			}
			if end >= 2*time.Second {
				worst = max(worst, gap)
			}
		}
		if soon == 0 {
			soon = math.MaxInt64
		}
		stop()
		ends.Wait()
		w.Close()
		time.Sleep(leftovers)
	})
	return soon, worst
}

// gapBetween is how far the rates of jobs 1 and 2 lie apart between two moments, in
// percent of their mean.
func gapBetween(results []broker.Stored, from, to time.Time) float64 {
	var n [3]float64
	for i := range results {
		job, task, ok := broker.TaskOfResult(results[i].Subject)
		if ok && job <= 2 && results[i].At.After(from) && !results[i].At.After(to) {
			n[job] += float64(len(wire.ReceiveResult(job, task, results[i].Data).Batches))
		}
	}
	if n[1]+n[2] == 0 {
		return math.Inf(1)
	}
	return 200 * math.Abs(n[1]-n[2]) / (n[1] + n[2])
}

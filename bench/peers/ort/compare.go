package main

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"idunno/bench"
	"idunno/models/dataset"
	"idunno/models/engine"
)

// plan says what is compared.
type plan struct {
	names  []string
	sizes  []int // batch sizes for models that take MNIST's images
	others []int // for the other models
	all    bool  // also on all cores
	clock  clock
}

// clock tells time.
type clock func() time.Duration

// wall is the time of day.
func wall() clock {
	began := time.Now()
	return func() time.Duration { return time.Since(began) }
}

// processor is the time that processors have spent in this process: what a single thread needs, whoever else uses the machine.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err) // it has no reason to fail
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// comparisons loads one network after the other and pairs the engine with ONNX Runtime: one thread against one thread, then a session on
// every core against a session with a thread on every core.
func (p *plan) comparisons(ctx context.Context, set *dataset.Set) iter.Seq2[bench.Comparison, error] {
	return func(yield func(bench.Comparison, error) bool) {
		for _, name := range p.names {
			n, err := load(name, set)
			if err != nil {
				yield(bench.Comparison{}, err)
				return
			}
			sizes := p.others
			if n.shipped {
				sizes = p.sizes
			}
			if !p.network(ctx, n, sizes, yield) {
				return
			}
		}
	}
}

// network compares one model at every size and reports whether to go on.
func (p *plan) network(ctx context.Context, n *network, sizes []int, yield func(bench.Comparison, error) bool) bool {
	threads, ways := []int{1}, []string{""}
	if cores := runtime.NumCPU(); p.all && cores > 1 {
		threads, ways = append(threads, cores), append(ways, "_all")
	}
	for i, k := range threads {
		theirs, err := newPeer(n.bytes, n.graph, k)
		if err != nil {
			yield(bench.Comparison{}, fmt.Errorf("%s in ONNX Runtime: %w", n.name, err))
			return false
		}
		for _, size := range sizes {
			c, done, err := n.comparison(ctx, theirs, p.clock, size, k, ways[i])
			ok := yield(c, err) && err == nil
			if err == nil {
				done()
			}
			if !ok {
				theirs.close()
				return false
			}
		}
		theirs.close()
	}
	return true
}

// comparison prepares both sides with the same batches, which each takes in turn.
func (n *network) comparison(ctx context.Context, p *peer, now clock, size, threads int, way string) (c bench.Comparison, done func(), err error) {
	batches := n.batches(size)
	sessions := make([]*engine.Session, threads)
	var shapes [][]int
	for i := range sessions {
		sessions[i] = n.program.NewSession()
		out, err := sessions[i].Run(ctx, batches[0])
		if err != nil {
			return c, nil, fmt.Errorf("%s, batch of %d: %w", n.name, size, err)
		}
		shapes = shapes[:0]
		for _, t := range out {
			shapes = append(shapes, t.Shape)
		}
	}
	var runs []*bound
	done = func() {
		for _, b := range runs {
			b.close()
		}
	}
	for _, in := range batches {
		b, err := p.bind(in, shapes)
		if err != nil {
			done()
			return c, nil, fmt.Errorf("%s in ONNX Runtime, batch of %d: %w", n.name, size, err)
		}
		runs = append(runs, b)
	}
	key := fmt.Sprintf("%s/%s/%d", way, n.name, size)
	next := 0
	c = bench.Comparison{
		Ratio: "engine_to_ort" + key,
		A: bench.Side{Result: "images_per_s/engine" + key, Rate: func(ctx context.Context, span time.Duration) (float64, error) {
			return slots(ctx, now, sessions, batches, size, span)
		}},
		B: bench.Side{Result: "images_per_s/ort" + key, Rate: func(ctx context.Context, span time.Duration) (float64, error) {
			next = 0
			return rate(ctx, now, span, size, func() error {
				next++
				return runs[(next-1)%len(runs)].run()
			})
		}},
	}
	return c, done, nil
}

// rate calls run until span has passed, at least once, and returns images per second.
func rate(ctx context.Context, now clock, span time.Duration, size int, run func() error) (float64, error) {
	images := 0
	for began := now(); ; {
		if err := run(); err != nil {
			return 0, err
		}
		images += size
		if took := now() - began; took >= span {
			return float64(images) / took.Seconds(), context.Cause(ctx)
		}
	}
}

// slots runs a session on every slot at once, each over all batches.
func slots(ctx context.Context, now clock, sessions []*engine.Session, batches [][]*engine.Tensor, size int, span time.Duration) (float64, error) {
	work := func(s *engine.Session, first int, count func()) (float64, error) {
		next := first
		return rate(ctx, now, span, size, func() error {
			_, err := s.Run(ctx, batches[next%len(batches)])
			next++
			count()
			return err
		})
	}
	if len(sessions) == 1 {
		return work(sessions[0], 0, func() {})
	}
	var images atomic.Int64
	var group sync.WaitGroup
	errs := make([]error, len(sessions))
	began := now()
	for i, s := range sessions {
		group.Go(func() {
			_, errs[i] = work(s, i, func() { images.Add(int64(size)) })
		})
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return float64(images.Load()) / (now() - began).Seconds(), nil
}

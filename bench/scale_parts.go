package bench

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"idunno/broker/wire"
)

const (
	// dispatchWorkers and dispatchSlots are who computes in the dispatch part, and the
	// connections and messages under way of nats.go alone.
	dispatchWorkers = 4
	dispatchSlots   = 16
	// shortSet is the batches of the set that many workers compute again and again.
	shortSet = 100
	// leastLong is the batches of the job that shows how long a batch takes.
	leastLong = 500
)

// dispatch pairs jobs of tasks of one batch with nats.go alone.
func (s *scale) dispatch(ctx context.Context) (err error) {
	k, err := s.hire(ctx, dispatchWorkers, dispatchSlots)
	if err != nil {
		return err
	}
	defer func() {
		if stopped := k.dismiss(); err == nil {
			err = stopped
		}
	}()
	var ours, singles, grouped, toSingles, toGrouped, toBest []float64
	costs := make(map[string][]float64)
	// The first pair warms everything.
	for i := range s.Pairs + 1 {
		s.Progress.tell("dispatch: pair %d of %d", i, s.Pairs)
		rate, cost, err := s.dispatched(ctx)
		if err != nil {
			return err
		}
		plain, err := s.plainRate(ctx, false)
		if err != nil {
			return err
		}
		batched, err := s.plainRate(ctx, true)
		if err != nil {
			return err
		}
		s.Progress.tell("dispatch: %.0f tasks/s, %.0f µs of CPU time a task (broker %.0f, coordinator %.0f, workers %.0f); nats.go alone: %.0f, in batches %.0f",
			rate, cost["broker"]+cost["coordinator"]+cost["workers"], cost["broker"], cost["coordinator"], cost["workers"], plain, batched)
		if i == 0 {
			continue
		}
		for name, c := range cost {
			costs[name] = append(costs[name], c)
		}
		ours, singles, grouped = append(ours, rate), append(singles, plain), append(grouped, batched)
		toSingles, toGrouped, toBest = append(toSingles, rate/plain), append(toGrouped, rate/batched), append(toBest, rate/max(plain, batched))
	}
	s.add("dispatch", "tasks/s", ours...)
	s.add("jetstream", "tasks/s", singles...)
	s.add("jetstream_batches", "tasks/s", grouped...)
	for _, name := range slices.Sorted(maps.Keys(costs)) {
		s.add("dispatch_cpu/"+name, "µs", costs[name]...)
	}
	s.d.Ratios = append(s.d.Ratios, Ratio{"dispatch_to_jetstream", median(toBest), s.Pairs},
		Ratio{"dispatch_to_jetstream/singles", median(toSingles), s.Pairs}, Ratio{"dispatch_to_jetstream/batches", median(toGrouped), s.Pairs})
	return nil
}

// dispatched runs one job and returns its tasks a second, from when the first could
// be taken to the last stored result, and the CPU time that each took.
func (s *scale) dispatched(ctx context.Context) (rate float64, cost map[string]float64, err error) {
	job, err := s.submit(ctx, s.Tasks)
	if err != nil {
		return 0, nil, err
	}
	return s.rateOf(ctx, job)
}

// rateOf is dispatched for a job that has been submitted just now.
func (s *scale) rateOf(ctx context.Context, job nullJob) (rate float64, cost map[string]float64, err error) {
	before, err := s.spent()
	if err != nil {
		return 0, nil, err
	}
	reply, err := s.ended(ctx, job)
	if err != nil {
		return 0, nil, err
	}
	after, err := s.spent()
	if err != nil {
		return 0, nil, err
	}
	if reply.Record.TaskSize != 1 {
		return 0, nil, fmt.Errorf("%w: they have %d", errTaskSize, reply.Record.TaskSize)
	}
	if err := s.check(ctx, job); err != nil {
		return 0, nil, err
	}
	tasks := reply.Record.Tasks()
	return float64(tasks) / reply.Stats.Last.Sub(reply.Record.Started).Seconds(), after.each(before, tasks), nil
}

// long runs the long job, with tasks as they are planned.
func (s *scale) long(ctx context.Context) (err error) {
	k, err := s.hire(ctx, 2, 1)
	if err != nil {
		return err
	}
	defer func() {
		if stopped := k.dismiss(); err == nil {
			err = stopped
		}
	}()
	per, rounds := s.Batches, 1
	for per > maxNullBatches {
		rounds *= 10
		per = (s.Batches + rounds - 1) / rounds
	}
	set, err := s.null.set(ctx, max(per, leastLong))
	if err != nil {
		return err
	}
	model, err := s.null.fresh(ctx)
	if err != nil {
		return err
	}
	first, err := s.submitDoc(ctx, wire.JobDoc{Model: model, Data: set, From: 1, To: leastLong})
	if err != nil {
		return err
	}
	if _, err := s.ended(ctx, first); err != nil {
		return err
	}
	before, err := s.usage()
	if err != nil {
		return err
	}
	s.Progress.tell("long: a job of %d batches, %d times; the coordinator has %.0f MiB", per, rounds, before.mib)
	began := time.Now()
	doc := wire.JobDoc{Model: model, Data: set, From: 1, To: per}
	if doc.Rounds = rounds; rounds == 1 {
		doc.Rounds = 0
	}
	job, err := s.submitDoc(ctx, doc)
	if err != nil {
		return err
	}
	if _, err := s.ended(ctx, job); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := s.usage()
	if err != nil {
		return err
	}
	million := 1e6 / float64(job.all())
	s.add("coordinator_mib", "MiB", after.most)
	s.add("coordinator_mib/before", "MiB", before.mib)
	s.add("coordinator_cpu_per_million_batches", "s", (after.cpu-before.cpu).Seconds()*million)
	s.add("long_job", "batches/s", float64(job.all())/took.Seconds())
	s.Progress.tell("long: %.0f MiB at most, %.1f s of CPU time for a million batches", after.most, (after.cpu-before.cpu).Seconds()*million)
	return s.check(ctx, job)
}

// takeoverSpare is how many tasks a job has left at least when its workers are sent
// away: some seconds of work for them.
const takeoverSpare = 20_000

// takeover starts coordinators while jobs of several lengths are running.
func (s *scale) takeover(ctx context.Context) error {
	var all []float64
	for _, size := range s.Sizes {
		job, err := s.submit(ctx, size+size/2+takeoverSpare)
		if err != nil {
			return err
		}
		k, err := s.hire(ctx, dispatchWorkers, dispatchSlots)
		if err != nil {
			return err
		}
		s.Progress.tell("takeover: a job with %d finished tasks", size)
		_, err = s.reaches(ctx, job, reachedPoll, func(r *wire.JobReply) bool { return r.Stats.Batches >= int64(size) })
		if stopped := k.dismiss(); err == nil {
			err = stopped
		}
		if err != nil {
			return err
		}
		done, err := s.settled(ctx, job)
		if err != nil {
			return err
		}
		var times []float64
		for range s.Starts {
			took, err := s.coldStart(ctx, job, done)
			if err != nil {
				return err
			}
			times = append(times, took.Seconds()*1000)
		}
		s.add(fmt.Sprintf("takeover/%d", size), "ms", times...)
		s.Progress.tell("takeover: %d tasks: %.0f ms", size, median(times))
		all = append(all, times...)
		if _, err := s.api.Cancel(ctx, job.number); err != nil {
			return err
		}
	}
	s.add("takeover", "ms", all...)
	return nil
}

// settled waits until a job without workers stands still, and until the checkpoint
// that is due has been written.
func (s *scale) settled(ctx context.Context, job nullJob) (batches int64, err error) {
	for still := 0; still < 4; {
		r, err := s.api.Job(ctx, job.number)
		if err != nil {
			return 0, err
		}
		if still++; r.Stats.Batches != batches {
			batches, still = r.Stats.Batches, 0
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(500 * time.Millisecond):
		}
	}
	return batches, nil
}

// coldStart stops the only coordinator and starts one that knows nothing. It returns
// the time until that one has counted all results.
func (s *scale) coldStart(ctx context.Context, job nullJob, done int64) (time.Duration, error) {
	if _, err := s.local.Signal(leader, os.Interrupt); err != nil {
		return 0, err
	}
	for s.local.PID(leader) != 0 {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
	began := time.Now()
	if err := s.local.Restart(ctx, leader); err != nil {
		return 0, err
	}
	r, err := s.reaches(ctx, job, reachedPoll, func(*wire.JobReply) bool { return true })
	took := time.Since(began)
	if err == nil && r.Stats.Batches != done {
		s.d.Counts.Differing++
		err = fmt.Errorf("the new coordinator counts %d batches, the one before %d", r.Stats.Batches, done)
	}
	return took, err
}

// queue has many jobs wait.
func (s *scale) queue(ctx context.Context) error {
	set, err := s.null.set(ctx, 10)
	if err != nil {
		return err
	}
	model, err := s.null.fresh(ctx)
	if err != nil {
		return err
	}
	before, err := s.usage()
	if err != nil {
		return err
	}
	s.Progress.tell("queue: %d jobs", s.Jobs)
	group, submitting := errgroup.WithContext(ctx)
	group.SetLimit(joinAtOnce)
	began := time.Now()
	for range s.Jobs {
		group.Go(func() error {
			_, err := s.local.Broker().Submit(submitting, "", fmt.Appendf(nil, `{"model":%q,"data":%q,"from":1,"to":10}`, model, set))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if _, err := s.reaches(ctx, nullJob{number: uint64(s.Jobs)}, reachedPoll, func(*wire.JobReply) bool { return true }); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := s.usage()
	if err != nil {
		return err
	}
	jobs := float64(s.Jobs)
	s.add("coordinator_mib/queued", "MiB", after.mib)
	s.add("coordinator_kib_per_queued_job", "KiB", (after.mib-before.mib)*1024/jobs)
	s.add("coordinator_cpu_per_queued_job", "ms", (after.cpu-before.cpu).Seconds()*1000/jobs)
	s.add("admission", "jobs/s", jobs/took.Seconds())
	var pages []float64
	listed := 0
	for next := uint64(0); ; {
		began := time.Now()
		page, err := s.api.Jobs(ctx, next, 0)
		if err != nil {
			return err
		}
		pages = append(pages, time.Since(began).Seconds()*1000)
		listed += len(page.Jobs)
		if next = page.Next; next == 0 {
			break
		}
	}
	s.add("list_page", "ms", pages...)
	s.d.Counts.Lost += s.Jobs - listed
	s.Progress.tell("queue: %.1f MiB more, %.0f jobs/s, a page in %.1f ms", after.mib-before.mib, jobs/took.Seconds(), median(pages))
	return nil
}

// workers has many workers join, idle, and compute.
func (s *scale) workers(ctx context.Context) (err error) {
	before, err := s.usage()
	if err != nil {
		return err
	}
	s.Progress.tell("workers: %d of them", s.Workers)
	began := time.Now()
	k, err := s.hire(ctx, s.Workers, 1)
	if err != nil {
		return err
	}
	defer func() {
		if stopped := k.dismiss(); err == nil {
			err = stopped
		}
	}()
	joined := time.Since(began)
	spentBefore, err := s.spent()
	if err != nil {
		return err
	}
	idle, err := s.usage()
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(min(5*time.Second, time.Duration(s.Workers)*20*time.Millisecond)):
	}
	idled, err := s.usage()
	if err != nil {
		return err
	}
	spentIdle, err := s.spent()
	if err != nil {
		return err
	}
	// Each worker keeps the list of a set's batches: a short set, again and again.
	set, err := s.null.set(ctx, shortSet)
	if err != nil {
		return err
	}
	model, err := s.null.fresh(ctx)
	if err != nil {
		return err
	}
	job, err := s.submitDoc(ctx, wire.JobDoc{Model: model, Data: set, From: 1, To: shortSet, Terms: wire.Terms{Rounds: max(s.Tasks/shortSet, 1)}})
	if err != nil {
		return err
	}
	rate, cost, err := s.rateOf(ctx, job)
	if err != nil {
		return err
	}
	after, err := s.usage()
	if err != nil {
		return err
	}
	n := fmt.Sprintf("/workers%d", s.Workers)
	span := idled.at.Sub(idle.at).Seconds()
	share, brokerShare := (idled.cpu-idle.cpu).Seconds()/span, (spentIdle["broker"]-spentBefore["broker"]).Seconds()/span
	s.add("joined"+n, "ms", joined.Seconds()*1000)
	s.add("coordinator_mib"+n, "MiB", after.most)
	s.add("coordinator_mib_idle"+n, "MiB", idled.mib-before.mib)
	s.add("coordinator_core_share"+n, "cores", share)
	s.add("broker_core_share"+n, "cores", brokerShare)
	s.add("dispatch"+n, "tasks/s", rate)
	for _, name := range slices.Sorted(maps.Keys(cost)) {
		s.add("dispatch_cpu/"+name+n, "µs", cost[name])
	}
	s.Progress.tell("workers: joined within %.1f s; coordinator: %.0f MiB at most, %.2f cores when idle, the broker %.2f, the workers %.2f",
		joined.Seconds(), after.most, share, brokerShare, (spentIdle["workers"]-spentBefore["workers"]).Seconds()/span)
	s.Progress.tell("workers: %.0f tasks/s; CPU time a task: broker %.0f µs, coordinator %.0f, workers %.0f", rate, cost["broker"], cost["coordinator"], cost["workers"])
	return nil
}

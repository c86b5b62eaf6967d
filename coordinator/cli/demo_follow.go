package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/cli/render"
	"idunno/coordinator/cluster"
)

const (
	demoPoll = 20 * time.Millisecond
	// resumePoll is how often it is looked whether a dead worker's task has a
	// result. The time that is reported comes from the result, not from here.
	resumePoll = 20 * time.Millisecond
)

// follow shows the jobs until all have ended, and kills a worker half-way.
func (d *demo) follow(ctx context.Context) error {
	var watch sync.WaitGroup
	defer watch.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.progress = render.NewProgress(d.stderr)
	defer d.progress.Close()
	total := int64(0)
	for _, j := range d.jobs {
		n := int64(j.doc.To - j.doc.From + 1)
		j.bar = d.progress.Bar(fmt.Sprintf("job %d  %s %d-%d", j.job, j.doc.Model, j.doc.From, j.doc.To), n)
		total += n
	}
	resumed := make(chan error, 1)
	tick := time.NewTicker(demoPoll)
	defer tick.Stop()
	for {
		done, ended, err := d.update(ctx)
		if err != nil {
			return err
		}
		if d.victim.node == "" && done >= total/2 {
			if err := d.kill(ctx); err != nil {
				return err
			}
			if d.victim.node != "" {
				watch.Go(func() { resumed <- d.awaitResumption(ctx) })
			}
		}
		if ended {
			break
		}
		select {
		case <-tick.C:
		case err := <-d.local.Died():
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if d.victim.node == "" {
		return errors.New("the queries ended before a worker could be killed: run the demo again on a machine that is less busy")
	}
	return d.joinResumption(ctx, resumed)
}

// joinResumption waits for the watch on the dead worker's tasks. All jobs have
// ended, so what it looks for is stored by now.
func (d *demo) joinResumption(ctx context.Context, resumed <-chan error) error {
	select {
	case err := <-resumed:
		if err != nil || d.victim.by != "" {
			return err
		}
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	// It had finished all that it was last known to hold, and held newer tasks; or
	// it died with nothing unfinished, and what goes on is simply the next task.
	var first, next *wire.Result
	for _, j := range d.jobs {
		o, err := cluster.Collect(ctx, d.api, j.job, j.doc.From, j.doc.To)
		if err != nil {
			return err
		}
		for i := range o.Results {
			r := &o.Results[i]
			if !d.resumes(r) {
				continue
			}
			if r.Attempt > 1 && (first == nil || r.Started.Before(first.Started)) {
				first = r
			}
			if next == nil || r.Started.Before(next.Started) {
				next = r
			}
		}
	}
	if first == nil {
		first = next
	}
	if first == nil {
		return fmt.Errorf("no other worker carried on with the tasks of %s", d.victim.node)
	}
	d.noteResumed(first)
	return nil
}

// resumes reports whether a result shows that another worker went on after the kill.
func (d *demo) resumes(r *wire.Result) bool {
	return r.Node != d.victim.node && r.Started.After(d.victim.at)
}

func (d *demo) noteResumed(r *wire.Result) {
	d.victim.by, d.victim.resumed = r.Node, r.Started.Sub(d.victim.at)
	d.progress.Line("RESUMED  its work on %s, %d ms after the kill", r.Node, d.victim.resumed.Round(time.Millisecond).Milliseconds())
}

// update asks how far the jobs are and shows it.
func (d *demo) update(ctx context.Context) (done int64, ended bool, err error) {
	reply, err := d.api.Stats(ctx, 0)
	if err != nil {
		return 0, false, err
	}
	ended = true
	for _, j := range d.jobs {
		i := slices.IndexFunc(reply.Jobs, func(s wire.JobStats) bool { return s.Job == j.job })
		if i < 0 {
			ended = false
			continue
		}
		j.stats = reply.Jobs[i]
		done += j.stats.Batches
		ended = ended && j.stats.State.Ended()
		j.bar.Set(j.stats.Batches, rateNote(&j.stats))
	}
	return done, ended, nil
}

// kill ends the worker that holds most tasks. When none holds any, it does nothing.
func (d *demo) kill(ctx context.Context) error {
	reply, err := d.api.Nodes(ctx)
	if err != nil {
		return err
	}
	var busiest *wire.Node
	for i := range reply.Nodes {
		n := &reply.Nodes[i]
		if n.Role == wire.RoleWorker && n.State == wire.NodeAlive && len(n.InFlight) > 0 &&
			(busiest == nil || len(n.InFlight) > len(busiest.InFlight)) {
			busiest = n
		}
	}
	if busiest == nil {
		return nil
	}
	d.victim.node, d.victim.held = busiest.Node, busiest.InFlight
	pid := d.local.PID(busiest.Node)
	if d.victim.at, err = d.local.Kill(busiest.Node); err != nil {
		return err
	}
	d.progress.Line("KILLED   %s (process %d) with SIGKILL while it held %s", busiest.Node, pid, tasksHeld(busiest.InFlight))
	return nil
}

func tasksHeld(held []wire.InFlight) string {
	if len(held) == 1 {
		return "1 task"
	}
	return fmt.Sprintf("%d tasks", len(held))
}

// awaitResumption finds the first result, by another worker, of a task that the
// dead one held, and notes when that worker began. What was in its hands when it
// was killed may be newer than its last heartbeat, so that both lists count.
func (d *demo) awaitResumption(ctx context.Context) error {
	if reply, err := d.api.Nodes(ctx); err == nil {
		for _, n := range reply.Nodes {
			if n.Node == d.victim.node {
				d.victim.held = append(d.victim.held, n.InFlight...)
			}
		}
	}
	results, err := d.local.Broker().Results(ctx)
	if err != nil {
		return err
	}
	tick := time.NewTicker(resumePoll)
	defer tick.Stop()
	for {
		open := 0
		for _, h := range d.victim.held {
			r, err := resultOf(ctx, results, h)
			switch {
			case err != nil:
				return err
			case r == nil:
				open++
			case d.resumes(r):
				d.noteResumed(r)
				return nil
			}
		}
		if open == 0 {
			return nil // it had finished them all
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// resultOf reads a task's result, nil when there is none yet.
func resultOf(ctx context.Context, results jetstream.Stream, t wire.InFlight) (*wire.Result, error) {
	msg, err := results.GetLastMsgForSubject(ctx, broker.SubjectResult(t.Job, t.Task))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read result of job %d task %d: %w", t.Job, t.Task, err)
	}
	return wire.ParseResult(msg.Data)
}

package coordinator

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"idunno/broker"
	"idunno/broker/wire"
	"idunno/coordinator/sched"
)

const (
	// maxLetters is how many dead letters a list has at most: their longest errors fit
	// into a message.
	maxLetters = 100
	// maxRanges bounds the runs of task numbers in a retry's record.
	maxRanges = 20_000
	fileAgain = 200 * time.Millisecond
)

// file stores the job's next dead letters, aside. Storing one again is harmless:
// a new leader folds all results of its unfinished jobs, and files them all.
func (l *leader) file(ctx context.Context, j *sched.Job) {
	letters := j.Letters(publishAtOnce)
	if len(letters) == 0 {
		return
	}
	job := j.Rec.Job
	go func() {
		left := l.Broker.StoreDeadLetters(ctx, letters)
		if len(left) > 0 {
			l.Log.Warn("dead letters not stored yet", "job", job, "letters", len(left))
			select {
			case <-ctx.Done():
			case <-time.After(fileAgain):
			}
		}
		l.do(ctx, func() {
			if j := l.jobs[job]; j != nil {
				j.Filed(left)
			}
		})
	}()
}

// resolveRetry freezes in the record of a retry what the retried job had frozen,
// and which of its tasks have failed. With newest asked for, names stand for what
// they stand for now.
func (l *leader) resolveRetry(ctx context.Context, rec *wire.JobRecord) error {
	doc := rec.Doc
	reply, ok := l.lookUpJob(ctx, doc.Retry)
	switch {
	case !ok:
		return fmt.Errorf("look up job %d: %w", doc.Retry, ctx.Err())
	case reply.Error != nil:
		return &wire.Error{Code: reply.Error.Code, Field: "retry", Message: reply.Error.Message}
	case !reply.Record.State.Ended():
		return &wire.Error{Code: wire.CodeJobRuns, Field: "retry",
			Message: fmt.Sprintf("job %d is %s; allowed: a job that has ended", doc.Retry, reply.Record.State)}
	}
	old := reply.Record
	dead, err := l.Broker.DeadTasks(ctx, doc.Retry)
	if err != nil {
		return err
	}
	if len(dead) == 0 || old.State == wire.StateRejected {
		return &wire.Error{Code: wire.CodeNoFailures, Field: "retry", Message: fmt.Sprintf("job %d has no failed tasks; `idunno dlq ls` lists those there are", doc.Retry)}
	}
	chosen, err := chooseTasks(doc, dead)
	if err != nil {
		return err
	}
	numbers := make([]int, len(chosen))
	for i, n := range chosen {
		numbers[i] = old.Number(n)
	}
	rec.Retry = &wire.Retry{Of: doc.Retry, Tasks: wire.RangesOf(numbers)}
	if len(rec.Retry.Tasks) > maxRanges {
		return &wire.Error{Code: wire.CodeBadRange, Field: "tasks", Message: fmt.Sprintf("the failed tasks of job %d lie in %d places; allowed: %d at a time, named in \"tasks\"",
			doc.Retry, len(rec.Retry.Tasks), maxRanges)}
	}
	rec.BatchSize = old.BatchSize
	rec.TaskSize, rec.Tail, rec.ModelVersion, rec.ModelDigest, rec.DataVersion, rec.DataDigest = old.TaskSize, old.Tail, old.ModelVersion, old.ModelDigest, old.DataVersion, old.DataDigest
	rec.Doc = old.Doc
	rec.Doc.Retry, rec.Doc.Tasks, rec.Doc.Newest = doc.Retry, doc.Tasks, doc.Newest
	rec.Doc.After, rec.Doc.ID, rec.Doc.Deadline = 0, "", "" // those were the other job's
	if !doc.Newest {
		return nil
	}
	r, err := l.validate(ctx, rec.Doc, rec.BatchSize, false)
	if err == nil {
		r.freeze(rec)
	}
	return err
}

// chooseTasks returns the failed tasks that a retry asks for, ascending.
func chooseTasks(doc wire.JobDoc, dead []int) ([]int, error) {
	if doc.Tasks == nil {
		return dead, nil
	}
	asked := make(map[int]bool, len(doc.Tasks))
	for _, n := range doc.Tasks {
		asked[n] = true
	}
	var chosen []int
	for _, n := range dead {
		if asked[n] {
			chosen = append(chosen, n)
			delete(asked, n)
		}
	}
	for _, n := range doc.Tasks {
		if asked[n] {
			return nil, &wire.Error{Code: wire.CodeNoSuchLetter, Field: "tasks", Message: fmt.Sprintf("task %d of job %d has not failed; allowed: %s", n, doc.Retry, some(dead))}
		}
	}
	return chosen, nil
}

// some lists the first numbers.
func some(numbers []int) string {
	const most = 20
	var words []string
	for i, n := range numbers {
		if i == most {
			words = append(words, fmt.Sprintf("and %d more", len(numbers)-most))
			break
		}
		words = append(words, strconv.Itoa(n))
	}
	return strings.Join(words, ", ")
}

// answerDLQ shows a dead letter, or lists them.
func (l *leader) answerDLQ(ctx context.Context, req broker.Request) any {
	r, err := wire.ParseDLQRequest(req.Data)
	if err != nil {
		return wire.DLQReply{Letters: []wire.DeadLetter{}, Error: asWireError(err)}
	}
	reply, err := l.letters(ctx, r)
	if err != nil {
		return wire.DLQReply{Letters: []wire.DeadLetter{}, Error: asWireError(err)}
	}
	return reply
}

func (l *leader) letters(ctx context.Context, r wire.DLQRequest) (reply wire.DLQReply, err error) {
	reply.Letters = []wire.DeadLetter{}
	if r.Task > 0 {
		letter, err := l.Broker.DeadLetter(ctx, r.Job, r.Task)
		if err != nil {
			return reply, err
		}
		if letter == nil {
			return reply, &wire.Error{Code: wire.CodeNoSuchLetter, Field: "task",
				Message: fmt.Sprintf("task %d of job %d has no dead letter; `idunno dlq ls` lists those there are", r.Task, r.Job)}
		}
		reply.Letters = append(reply.Letters, *letter)
	} else {
		limit := r.Limit
		if limit < 1 || limit > maxLetters {
			limit = maxLetters
		}
		list, more, err := l.Broker.DeadLetters(ctx, r.Job, r.After, limit)
		if err != nil {
			return reply, err
		}
		for i := range list {
			list[i].Tried = nil
		}
		reply.Letters = append(reply.Letters, list...)
		if more {
			reply.Next = list[len(list)-1].Seq
		}
	}
	return reply, l.markRetried(ctx, reply.Letters)
}

// markRetried tells for each letter which job does its task again.
func (l *leader) markRetried(ctx context.Context, letters []wire.DeadLetter) error {
	retries, ok := inLoop(ctx, l, func() map[uint64][]uint64 { return l.retriesOf(letters) })
	if !ok {
		return ctx.Err()
	}
	for of, jobs := range retries {
		old, ok := l.lookUpJob(ctx, of)
		if !ok {
			return ctx.Err()
		}
		for _, job := range jobs {
			r, ok := l.lookUpJob(ctx, job)
			if !ok {
				return ctx.Err()
			}
			if old.Record == nil || r.Record == nil || r.Record.Retry == nil {
				continue
			}
			for i := range letters {
				letter := &letters[i]
				if letter.Job == of && job > letter.RetriedBy && r.Record.Retry.Tasks.Has(old.Record.Number(letter.Task)) {
					letter.RetriedBy = job
				}
			}
		}
	}
	return nil
}

// retriesOf are the jobs that retry those of the letters, in the loop.
func (l *leader) retriesOf(letters []wire.DeadLetter) map[uint64][]uint64 {
	retries := make(map[uint64][]uint64)
	for i := range letters {
		if of := letters[i].Job; len(l.ended.retries[of]) > 0 {
			retries[of] = slices.Clone(l.ended.retries[of])
		}
	}
	for job, j := range l.jobs {
		if r := j.Rec.Retry; r != nil && slices.ContainsFunc(letters, func(letter wire.DeadLetter) bool { return letter.Job == r.Of }) {
			retries[r.Of] = append(retries[r.Of], job)
		}
	}
	return retries
}

// answerRetry submits a job that does failed tasks again.
func (l *leader) answerRetry(ctx context.Context, req broker.Request) any {
	r, err := wire.ParseRetryRequest(req.Data)
	if err != nil {
		return wire.SubmitReply{Error: asWireError(err)}
	}
	return l.submit(ctx, req.ID, r.Doc())
}

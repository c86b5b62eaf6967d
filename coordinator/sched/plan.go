package sched

import (
	"time"

	"idunno/broker/wire"
)

const (
	// mostTask is the work in a task at most: long enough that its bookkeeping does
	// not count, short enough that a new job starts soon and little is lost
	// with a node. leastTask is the work in it at least, where a batch takes less.
	mostTask  = 100 * time.Millisecond
	leastTask = 15 * time.Millisecond
	// tailTask is the work in a task from which on the last ones of a job are smaller:
	// those of less end soon enough.
	tailTask = 40 * time.Millisecond
	// windowParts is into how many tasks at least a job's part of [RateWindow] is cut, so
	// that rates over such a window can be equal to within a percent or two: results
	// come by whole tasks. A cheap model's batches are many beside a dear one's.
	windowParts = 200
	// tasksPerSlot is how many tasks a slot should get at least, so that the
	// nodes finish a job at about the same time.
	tasksPerSlot = 4
	// fewBatches say nothing about a node: its first ones take longer.
	fewBatches = 16
	// maxTaskSize and maxTaskImages keep a task's result within one message,
	// whatever its time: an image takes up to 12 bytes there.
	maxTaskSize   = 512
	maxTaskImages = 64_000
	// maxOutputTask is the most batches of a task that keeps outputs.
	maxOutputTask = 16
	// MaxBatchImages is the most images of a batch whose size a job chooses.
	MaxBatchImages = maxTaskImages
)

// Experience is what is known of a model's batches on a data set; zero when there
// is none yet.
type Experience struct {
	// Time is the mean processing time of a batch, Images its mean size.
	Time   time.Duration
	Images float64
	// Slowest is the median time of a batch on the slowest node that computed
	// [fewBatches] or more, 0 when there is none.
	Slowest time.Duration
	// Job is the one that showed it, where that matters.
	Job uint64
}

// Of is what is known of batches with the given number of images, as far as their
// time grows with their size.
func (e Experience) Of(images int) Experience {
	if e.Images < 1 {
		return Experience{}
	}
	grows := float64(images) / e.Images
	return Experience{Time: time.Duration(float64(e.Time) * grows), Slowest: time.Duration(float64(e.Slowest) * grows), Images: float64(images), Job: e.Job}
}

// Size freezes in a record how many batches a task has: as [TaskSize] says, at most
// a round, and so many that the plan has no more than [wire.MaxTasks] tasks. The end
// of a job that has one round is cut into smaller tasks for the slots that there are,
// where its tasks are long enough to be worth it.
func Size(rec *wire.JobRecord, known Experience, round time.Duration, slots int) {
	rec.TaskSize = min(TaskSize(rec.Batches(), known, round, slots), rec.RoundBatches())
	if known.Time*time.Duration(rec.TaskSize) >= tailTask && !rec.Doc.Training() && !rec.Doc.Forever && rec.Doc.Rounds <= 1 {
		rec.Tail = slots
	}
	if rec.Doc.Outputs == wire.OutputsProbs || rec.Doc.Outputs == wire.OutputsRaw {
		rec.TaskSize = min(rec.TaskSize, maxOutputTask)
	}
	for rec.Tasks() > wire.MaxTasks && rec.TaskSize < rec.RoundBatches() {
		rec.TaskSize++
	}
}

// TaskSize is the number of batches to put into a task: at most [mostTask] of work by
// what is known of the model (1 without experience), also on the slowest nodes unless
// the others' tasks would have less than [leastTask] then, and at least [tasksPerSlot]
// tasks for each of the cluster's slots. Round is the time of one batch of every job
// that is expected to run beside it, its own included; 0 when it runs alone.
func TaskSize(batches int, known Experience, round time.Duration, slots int) int {
	slots = max(slots, 1)
	size := 1
	if known.Time > 0 && known.Images >= 1 {
		size = int(mostTask / known.Time)
		if known.Slowest > known.Time {
			size = max(int(mostTask/known.Slowest), min(size, int(leastTask/known.Time)))
		}
		if round > 0 {
			size = min(size, max(int(RateWindow*time.Duration(slots)/windowParts/round), int(leastTask/known.Time)))
		}
		size = min(size, int(maxTaskImages/known.Images))
	}
	if share := batches / (tasksPerSlot * slots); size > share {
		size = share
	}
	return min(max(size, 1), maxTaskSize)
}

// Task is task number n of a job, counted from 1 to [wire.JobRecord.Tasks]: a
// pure function of the frozen record.
func Task(rec *wire.JobRecord, n int) *wire.Task {
	t := &wire.Task{Schema: wire.Schema, Job: rec.Job, Task: n, Model: rec.Doc.Target(),
		ModelDigest: rec.ModelDigest, DataDigest: rec.DataDigest}
	if rec.Doc.Training() {
		t.Train, t.Epochs, t.Seed = rec.Doc.Train, rec.Doc.Epochs, rec.Doc.Seed
		return t
	}
	t.From, t.To = rec.Span(n)
	if rec.Doc.Outputs != wire.OutputsTop1 {
		t.Outputs = rec.Doc.Outputs
	}
	t.BatchSize = rec.BatchSize
	return t
}

package wire

import "time"

// Schema is the version of every stored message in this package.
const Schema = 1

// State is where a job stands.
type State string

// The states of a job. A job ends in one of the last four.
const (
	StateQueued           State = "queued"
	StateRunning          State = "running"
	StatePaused           State = "paused"
	StateDone             State = "done"
	StateDoneWithFailures State = "done_with_failures"
	StateCancelled        State = "cancelled"
	StateRejected         State = "rejected"
)

// Ended reports whether a job in state s will never change again.
func (s State) Ended() bool {
	switch s {
	case StateDone, StateDoneWithFailures, StateCancelled, StateRejected:
		return true
	}
	return false
}

// JobRecord is everything the coordinator froze when it admitted a job, and how
// the job ended. The tasks of a job are a pure function of it, so that any
// coordinator plans the same ones.
type JobRecord struct {
	Schema int    `json:"schema_version"`
	Job    uint64 `json:"job"`
	Doc    JobDoc `json:"doc"`
	State  State  `json:"state"`
	// Reason says why a job was rejected, cancelled or ended with failures.
	Reason string `json:"reason,omitempty"`

	ModelVersion int    `json:"model_version,omitempty"`
	ModelDigest  string `json:"model_digest,omitempty"`
	DataVersion  int    `json:"data_version,omitempty"`
	DataDigest   string `json:"data_digest,omitempty"`
	// TaskSize is the number of batches in a task; the last ones may have fewer. Tail
	// is the number of slots that share the job's end in smaller tasks; 0 in records
	// of programs that made none.
	TaskSize int `json:"task_size,omitempty"`
	Tail     int `json:"tail,omitempty"`
	// BatchSize is the number of images in the job's batches, when it isn't that of the
	// stored ones; 0 means that batches are as they are stored.
	BatchSize int `json:"batch_size,omitempty"`
	// Deadline is when the job ends if it hasn't by then; zero for no such time.
	Deadline time.Time `json:"deadline,omitzero"`
	// DuplicateOf is the job that had the document's id first. This one is not run.
	DuplicateOf uint64 `json:"duplicate_of,omitempty"`
	// Retry is set for a job that retries another one's failed tasks. Doc, TaskSize, Tail
	// and BatchSize are then those of the job that was planned first.
	Retry *Retry `json:"retry,omitempty"`
	// ResultsFrom is the first sequence of the results stream that can hold a
	// result of this job that is kept.
	ResultsFrom uint64 `json:"results_from,omitempty"`
	// KeptFrom is the first task whose result is kept, of a job that runs for ever: all
	// before it were done, and their results may be gone; 0 means that all are kept.
	KeptFrom int `json:"kept_from,omitempty"`
	// Epoch is the lease of the coordinator that wrote the record last.
	Epoch uint64 `json:"epoch,omitempty"`

	Submitted time.Time `json:"submitted"`
	// Started is when the job's first task could be taken; zero before.
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	// Summary holds the final statistics of an ended job.
	Summary *JobStats `json:"summary,omitempty"`
	// Trained describes the model that a training job stored.
	Trained *Trained `json:"trained,omitempty"`
	// Results tells where an ended job's results are; nil while they are in the
	// stream of results. It is written once the job has ended.
	Results *StoredResults `json:"results,omitempty"`
}

// NamesOpen reports whether the names of model and data are looked up once more when the
// job starts: it waits for another one, which may store a new version of them. What the
// record says of them, and the plan with it, is preliminary until then.
func (r *JobRecord) NamesOpen() bool {
	return r.Doc.After > 0 && r.Retry == nil && r.Started.IsZero() && !r.State.Ended()
}

// Retry says which tasks a retrying job has.
type Retry struct {
	// Of is the job whose failed tasks these are.
	Of uint64 `json:"of"`
	// Tasks are their numbers in the plan that Doc, TaskSize and Tail give, ascending,
	// as ranges of first and last.
	Tasks Ranges `json:"tasks"`
}

// IDOwner says which job has the id of a document.
type IDOwner struct {
	Schema int    `json:"schema_version"`
	ID     string `json:"id"`
	Job    uint64 `json:"job"`
}

// Ranges are whole numbers, ascending, as first and last of each run.
type Ranges [][2]int

// RangesOf gives sorted numbers as ranges; one that comes twice counts once.
func RangesOf(numbers []int) Ranges {
	var out Ranges
	for _, n := range numbers {
		if last := len(out) - 1; last >= 0 && n <= out[last][1]+1 {
			out[last][1] = max(n, out[last][1])
			continue
		}
		out = append(out, [2]int{n, n})
	}
	return out
}

// Len is how many numbers there are.
func (r Ranges) Len() int {
	n := 0
	for _, t := range r {
		n += t[1] - t[0] + 1
	}
	return n
}

// Has reports whether n is among them.
func (r Ranges) Has(n int) bool {
	for _, t := range r {
		if n >= t[0] && n <= t[1] {
			return true
		}
	}
	return false
}

// At is the n-th number, counted from 1; 0 when there are fewer.
func (r Ranges) At(n int) int {
	for _, t := range r {
		if size := t[1] - t[0] + 1; n > size {
			n -= size
			continue
		}
		return t[0] + n - 1
	}
	return 0
}

// ActiveJobs is the table that tells workers which jobs have work.
type ActiveJobs struct {
	Schema int `json:"schema_version"`
	// Epoch is the lease of the coordinator that wrote the table.
	Epoch uint64 `json:"epoch,omitempty"`
	// Fair is what rates are counted in, see [Settings].
	Fair string      `json:"fair,omitempty"`
	Jobs []ActiveJob `json:"jobs"`
	// Kept are other jobs that have results in the stream of results, ended ones and
	// such as wait, ascending, as first and last of each run.
	Kept [][2]uint64 `json:"kept,omitempty"`
}

// ActiveJob is a line of that table.
type ActiveJob struct {
	Job   uint64 `json:"job"`
	Model string `json:"model"`
	Train bool   `json:"train,omitempty"`
	// Queue is where the job's tasks are pulled from.
	Queue string `json:"queue"`
	// Weight is the job's share of the rate, relative to others'; 0 means 1. Jobs of
	// a higher Priority go first.
	Weight   float64 `json:"weight,omitempty"`
	Priority int     `json:"priority,omitempty"`
	// Nodes are the workers that the job is assigned to; empty means all. Others serve
	// it when they have nothing else to do, unless Only forbids it.
	Nodes []string `json:"nodes,omitempty"`
	Only  bool     `json:"only,omitempty"`
	// MaxInFlight is how many of its tasks the queue gives out at a time; 0 means any
	// number.
	MaxInFlight int `json:"max_in_flight,omitempty"`
}

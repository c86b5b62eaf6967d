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
	// TaskSize is the number of batches in a task; the last one may have fewer.
	TaskSize int `json:"task_size,omitempty"`
	// ResultsFrom is the first sequence of the results stream that can hold a
	// result of this job.
	ResultsFrom uint64 `json:"results_from,omitempty"`
	// Epoch is the lease of the coordinator that wrote the record last.
	Epoch uint64 `json:"epoch,omitempty"`

	Submitted time.Time `json:"submitted"`
	Ended     time.Time `json:"ended,omitzero"`
	// Summary holds the final statistics of an ended job.
	Summary *JobStats `json:"summary,omitempty"`
	// Trained describes the model that a training job stored.
	Trained *Trained `json:"trained,omitempty"`
}

// Batches is the number of batches the job asks for, 0 for training.
func (r *JobRecord) Batches() int {
	if r.Doc.Training() || r.Doc.To == 0 {
		return 0
	}
	return r.Doc.To - r.Doc.From + 1
}

// Tasks is the number of tasks the job is planned into.
func (r *JobRecord) Tasks() int {
	if r.Doc.Training() {
		return 1
	}
	if r.TaskSize < 1 {
		return 0
	}
	return (r.Batches() + r.TaskSize - 1) / r.TaskSize
}

// ActiveJobs is the table that tells workers which jobs have work.
type ActiveJobs struct {
	Schema int         `json:"schema_version"`
	Jobs   []ActiveJob `json:"jobs"`
}

// ActiveJob is a line of that table.
type ActiveJob struct {
	Job   uint64 `json:"job"`
	Model string `json:"model"`
	Train bool   `json:"train,omitempty"`
	// Queue is where the job's tasks are pulled from.
	Queue string `json:"queue"`
}

package wire

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Cause says how a try to carry out a task ended without a result.
type Cause string

// The causes. All but CauseCrash are failures of the task itself.
const (
	// CauseError is an error of the model or the data; the process goes on.
	CauseError Cause = "error"
	// CausePanic is a panic while computing.
	CausePanic Cause = "panic"
	// CauseTimeout says that a batch took longer than allowed.
	CauseTimeout Cause = "timeout"
	// CauseMemory says that the task took more memory than allowed.
	CauseMemory Cause = "memory"
	// CauseKilled says that the process of the task's own died.
	CauseKilled Cause = "killed"
	// CauseCrash says that a node died while it computed the task in its own
	// process. Whether the task is to blame is not known.
	CauseCrash Cause = "crash"
)

const (
	// MaxTried is the most tries that a task's record holds.
	MaxTried = 64
	// MaxTryError is the most bytes of an error that a try keeps.
	MaxTryError = 500
)

// Attempt is a try to carry out a task that ended without a result. Attempts are
// kept by task, in the order stored, until the job ends; a task's result holds
// what is known of them then.
type Attempt struct {
	Schema int    `json:"v"`
	Cause  Cause  `json:"cause"`
	Node   string `json:"node"`
	// Incarnation is the node's, see [Heartbeat].
	Incarnation int64 `json:"incarnation,omitempty"`
	// Delivery is the number of the task's delivery, 0 when not known.
	Delivery int `json:"delivery,omitempty"`
	// Isolated says that the task had a process of its own.
	Isolated bool      `json:"isolated,omitempty"`
	Time     time.Time `json:"time"`
	Error    string    `json:"error,omitempty"`
}

// Marshal encodes the attempt.
func (a *Attempt) Marshal() []byte { return mustMarshal(a) }

// ParseAttempt decodes an attempt.
func ParseAttempt(p []byte) (*Attempt, error) {
	var a Attempt
	if err := json.Unmarshal(p, &a); err != nil {
		return nil, fmt.Errorf("decode attempt: %w", err)
	}
	return &a, a.check()
}

func (a *Attempt) check() error {
	switch a.Cause {
	case CauseError, CausePanic, CauseTimeout, CauseMemory, CauseKilled, CauseCrash:
	default:
		return fmt.Errorf("decode attempt: cause %q", excerptString(string(a.Cause)))
	}
	if a.Schema != Schema || !ValidNodeName(a.Node) || len(a.Error) > MaxTryError+len("…") {
		return fmt.Errorf("decode attempt: version %d of node %q with an error of %d bytes", a.Schema, excerptString(a.Node), len(a.Error))
	}
	return nil
}

// Shorten cuts an error to what a try keeps.
func Shorten(s string) string { return cut(s, MaxTryError) }

// maxReason is the most bytes of an error that a dead letter keeps.
const maxReason = 1000

func cut(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// Distinct leaves out what has been told twice: a node crashes once in its life,
// and a delivery fails once.
func Distinct(tried []Attempt) []Attempt {
	var out []Attempt
	for _, a := range tried {
		told := slices.ContainsFunc(out, func(b Attempt) bool {
			return a.Node == b.Node && a.Incarnation == b.Incarnation && (a.Cause == CauseCrash) == (b.Cause == CauseCrash) && a.Delivery == b.Delivery && a.Time.Equal(b.Time)
		}) || a.Cause == CauseCrash && slices.ContainsFunc(out, func(b Attempt) bool {
			return b.Cause == CauseCrash && a.Node == b.Node && a.Incarnation == b.Incarnation
		})
		if !told {
			out = append(out, a)
		}
	}
	return out
}

// Crashes is how many nodes died at the task, Failures how often it failed by itself.
func Crashes(tried []Attempt) int {
	n := 0
	for i := range tried {
		if tried[i].Cause == CauseCrash {
			n++
		}
	}
	return n
}

// Failures is how often the task failed by itself.
func Failures(tried []Attempt) int { return len(tried) - Crashes(tried) }

// DeadLetter is a task that failed for good: what it was, what was tried, and
// how it failed. Its truth is the task's result; the coordinator files it while it
// folds results, and a job doesn't end before its dead letters are stored.
type DeadLetter struct {
	Schema int `json:"schema_version"`
	// Seq is the place in the list, for paging; not stored.
	Seq  uint64 `json:"seq,omitempty"`
	Job  uint64 `json:"job"`
	Task int    `json:"task"`
	// What the task was: the names that were asked for and what they stood for.
	Model        string `json:"model"`
	ModelVersion int    `json:"model_version,omitempty"`
	ModelDigest  string `json:"model_digest,omitempty"`
	Train        string `json:"train,omitempty"`
	Data         string `json:"data"`
	DataVersion  int    `json:"data_version,omitempty"`
	DataDigest   string `json:"data_digest"`
	From         int    `json:"from,omitempty"`
	To           int    `json:"to,omitempty"`
	// Attempts counts the tries, Failures those that the task failed by itself and
	// Crashes those at which a node died.
	Attempts int `json:"attempts"`
	Failures int `json:"failures"`
	Crashes  int `json:"crashes"`
	// Nodes are those that tried, Node is the last one and Error its error.
	Nodes []string  `json:"nodes"`
	Node  string    `json:"node"`
	Error string    `json:"error"`
	Time  time.Time `json:"time"`
	// Tried are the tries in order; left out of listings.
	Tried []Attempt `json:"tried,omitempty"`
	// RetriedBy is the newest job that retries the task, 0 for none; not stored.
	RetriedBy uint64 `json:"retried_by,omitempty"`
}

// NewDeadLetter is the dead letter of a failed result, stored at the given time,
// of a task of the job with the given record.
func NewDeadLetter(rec *JobRecord, t *Task, r *Result, reason string, at time.Time) *DeadLetter {
	l := &DeadLetter{Schema: Schema, Job: rec.Job, Task: t.Task, Model: rec.Doc.Model, ModelVersion: rec.ModelVersion, ModelDigest: rec.ModelDigest,
		Train: rec.Doc.Train, Data: rec.Doc.Data, DataVersion: rec.DataVersion, DataDigest: rec.DataDigest, From: t.From, To: t.To,
		Attempts: len(r.Tried), Failures: Failures(r.Tried), Crashes: Crashes(r.Tried), Nodes: []string{},
		Node: r.Node, Error: cut(reason, maxReason), Time: at, Tried: r.Tried}
	for i := range r.Tried {
		if name := r.Tried[i].Node; !slices.Contains(l.Nodes, name) {
			l.Nodes = append(l.Nodes, name)
		}
	}
	return l
}

// Marshal encodes the dead letter.
func (l *DeadLetter) Marshal() []byte { return mustMarshal(l) }

// ParseDeadLetter decodes a dead letter.
func ParseDeadLetter(p []byte) (*DeadLetter, error) {
	var l DeadLetter
	if err := json.Unmarshal(p, &l); err != nil {
		return nil, fmt.Errorf("decode dead letter: %w", err)
	}
	if l.Schema != Schema || l.Job == 0 || l.Task < 1 || l.Task > MaxTasks {
		return nil, fmt.Errorf("decode dead letter: version %d, job %d task %d", l.Schema, l.Job, l.Task)
	}
	return &l, nil
}

// DLQRequest asks for dead letters: the one of a job's task, or a list, of a job
// or, with Job 0, of all, oldest first.
type DLQRequest struct {
	Job  uint64 `json:"job,omitempty"`
	Task int    `json:"task,omitempty"`
	// After and Limit page a list: letters behind the place After.
	After uint64 `json:"after,omitempty"`
	Limit int    `json:"limit,omitempty"`
}

// DLQReply is a page of the dead letters. Next is the After of the next page, 0
// at the end.
type DLQReply struct {
	Letters []DeadLetter `json:"letters"`
	Next    uint64       `json:"next,omitempty"`
	Error   *Error       `json:"error,omitempty"`
}

// RetryRequest asks for a job that does failed tasks again: those named, or all
// of the job's. See [JobDoc].
type RetryRequest struct {
	Job    uint64 `json:"job"`
	Tasks  []int  `json:"tasks,omitempty"`
	Newest bool   `json:"newest,omitempty"`
}

// Doc is the job document that the request stands for.
func (r *RetryRequest) Doc() []byte {
	return mustMarshal(JobDoc{Retry: r.Job, Tasks: r.Tasks, Newest: r.Newest})
}

// ParseRetryRequest decodes a request.
func ParseRetryRequest(p []byte) (*RetryRequest, error) {
	var r RetryRequest
	if err := json.Unmarshal(p, &r); err != nil || len(p) > MaxJobDoc || r.Job == 0 {
		return nil, &Error{Code: CodeBadRequest, Field: "job", Message: "request is not understood; allowed: {\"job\":12}, and \"tasks\":[1,7] and \"newest\":true"}
	}
	return &r, nil
}

// ParseDLQRequest decodes a request; an empty body means all letters.
func ParseDLQRequest(p []byte) (DLQRequest, error) {
	var r DLQRequest
	if len(p) == 0 {
		return r, nil
	}
	if err := json.Unmarshal(p, &r); err != nil || len(p) > MaxJobDoc || r.Task < 0 || r.Limit < 0 || r.Task > 0 && r.Job == 0 {
		return r, &Error{Code: CodeBadRequest, Message: "request is not understood; allowed: {}, {\"job\":12}, {\"job\":12,\"task\":3}, and \"after\" and \"limit\" for paging"}
	}
	return r, nil
}

package wire

import (
	"encoding/json"
	"fmt"
)

// JobRequest asks about one job, or about all of them when Job is 0.
type JobRequest struct {
	Job uint64 `json:"job"`
	// Before and Limit page a listing: jobs below Before, newest first.
	Before uint64 `json:"before,omitempty"`
	Limit  int    `json:"limit,omitempty"`
}

// SubmitReply answers a submission: a job number or an error. Duplicate says that
// the job was submitted before, under the same id.
type SubmitReply struct {
	Job       uint64 `json:"job,omitempty"`
	Duplicate bool   `json:"duplicate,omitempty"`
	Error     *Error `json:"error,omitempty"`
}

// JobReply answers for one job.
type JobReply struct {
	Record *JobRecord `json:"record,omitempty"`
	Stats  *JobStats  `json:"stats,omitempty"`
	Error  *Error     `json:"error,omitempty"`
}

// JobsReply is a page of the job listing, newest first. Next is the Before of
// the next page, 0 at the end.
type JobsReply struct {
	Jobs  []JobReply `json:"jobs"`
	Next  uint64     `json:"next,omitempty"`
	Error *Error     `json:"error,omitempty"`
}

// StatsReply holds the statistics of the jobs asked for, and of every node over
// all of these jobs.
type StatsReply struct {
	Jobs  []JobStats  `json:"jobs"`
	Nodes []NodeStats `json:"nodes"`
	Error *Error      `json:"error,omitempty"`
}

// NodesReply is the membership list.
type NodesReply struct {
	Leader string `json:"leader"`
	Nodes  []Node `json:"nodes"`
	Error  *Error `json:"error,omitempty"`
}

// SettingsReply holds the cluster's settings.
type SettingsReply struct {
	Settings *Settings `json:"settings,omitempty"`
	Error    *Error    `json:"error,omitempty"`
}

// ParseJobRequest decodes a request; an empty body means all jobs.
func ParseJobRequest(p []byte) (JobRequest, error) {
	var r JobRequest
	if len(p) == 0 {
		return r, nil
	}
	if len(p) > MaxJobDoc {
		return r, &Error{Code: CodeBadRequest, Message: fmt.Sprintf("request is %d bytes; at most %d are allowed", len(p), MaxJobDoc)}
	}
	if err := json.Unmarshal(p, &r); err != nil {
		return r, &Error{Code: CodeBadRequest, Field: "job", Message: "request is not understood; allowed: an object such as {\"job\":12}, job a whole number from 1"}
	}
	return r, nil
}

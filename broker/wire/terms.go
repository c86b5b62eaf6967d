package wire

import (
	"encoding/json"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of a job's terms.
const (
	MinWeight = 0.01
	MaxWeight = 1000
	// MaxPriority bounds priorities on both sides of 0.
	MaxPriority = 100
	MaxRounds   = 1_000_000
	// MaxJobBatch is the largest batch size that a job may ask for, in images.
	MaxJobBatch = 1_000_000
	// MaxDeadline is the longest time that a deadline may be away.
	MaxDeadline = 10 * 365 * 24 * time.Hour
)

// What a job's results hold for each image.
const (
	// OutputsTop1 is the class and its probability.
	OutputsTop1 = "top1"
	// OutputsProbs is the class and every class's probability.
	OutputsProbs = "probs"
	// OutputsRaw is what the model's first output holds, whatever it means.
	OutputsRaw = "raw"
)

// Outputs lists what results may hold.
func Outputs() []string { return []string{OutputsTop1, OutputsProbs, OutputsRaw} }

// Terms are the part of a job document that says how the job is to be run. Zero
// values are the defaults.
type Terms struct {
	// Weight is the job's share of the rate relative to other jobs', default 1.
	Weight float64 `json:"weight,omitempty"`
	// Priority orders jobs: those of a higher one go first.
	Priority int `json:"priority,omitempty"`
	// MaxNodes and MaxInFlight limit the nodes that work for the job at a time, and
	// its tasks that are being computed; 0 means no limit.
	MaxNodes    int `json:"max_nodes,omitempty"`
	MaxInFlight int `json:"max_in_flight,omitempty"`
	// Rounds is how often the range is done, default once; Forever is until the job is
	// cancelled.
	Rounds  int  `json:"rounds,omitempty"`
	Forever bool `json:"forever,omitempty"`
	// BatchSize is the number of images in a batch; 0 means as the set is stored.
	BatchSize int `json:"batch_size,omitempty"`
	// Deadline is a time (RFC 3339), or a duration after the submission, at which the
	// job ends if it hasn't.
	Deadline string `json:"deadline,omitempty"`
	// After is a job that must have ended well before this one starts.
	After uint64 `json:"after,omitempty"`
	// ID names the submission: the same one never runs twice.
	ID string `json:"id,omitempty"`
	// Outputs is what results hold, one of [Outputs]; "" means [OutputsTop1].
	Outputs string `json:"outputs,omitempty"`
}

// Share is the job's weight.
func (t Terms) Share() float64 {
	if t.Weight == 0 {
		return 1
	}
	return t.Weight
}

// DeadlineAt is the moment of the deadline of a job that was submitted at the given
// time, zero when there is none.
func (t Terms) DeadlineAt(submitted time.Time) time.Time {
	if t.Deadline == "" {
		return time.Time{}
	}
	if d, err := time.ParseDuration(t.Deadline); err == nil {
		return submitted.Add(d)
	}
	at, err := time.Parse(time.RFC3339, t.Deadline)
	if err != nil {
		return time.Time{} // ParseJobDoc refuses it
	}
	return at
}

var idPattern = regexp.MustCompile(`^[!-~]{1,128}$`)

// parseTerms reads what a document says of how the job is to be run. Which fields
// its kind of job may have has been checked before.
func parseTerms(fields map[string]json.RawMessage, t *Terms) error {
	if raw, ok := fields["weight"]; ok {
		w, err := strconv.ParseFloat(string(raw), 64)
		if err != nil || !(w >= MinWeight && w <= MaxWeight) {
			return fieldErr("weight", "is %s; allowed: a number from %v to %v", excerpt(raw), MinWeight, MaxWeight)
		}
		t.Weight = w
	}
	for _, f := range []struct {
		name   string
		lo, hi int
		to     *int
	}{
		{"priority", -MaxPriority, MaxPriority, &t.Priority},
		{"max_nodes", 1, 1_000_000, &t.MaxNodes},
		{"max_in_flight", 1, 1_000_000, &t.MaxInFlight},
		{"rounds", 1, MaxRounds, &t.Rounds},
		{"batch_size", 1, MaxJobBatch, &t.BatchSize},
	} {
		if _, ok := fields[f.name]; !ok {
			continue
		}
		n, err := intField(fields, f.name, f.lo, f.hi, 0)
		if err != nil {
			return err
		}
		*f.to = n
	}
	if raw, ok := fields["forever"]; ok {
		if err := json.Unmarshal(raw, &t.Forever); err != nil || string(raw) == "null" {
			return fieldErr("forever", "is %s; allowed: true or false", excerpt(raw))
		}
	}
	if t.Forever && t.Rounds > 0 {
		return fieldErr("rounds", "and forever can't both be given; allowed: one of them")
	}
	if _, ok := fields["after"]; ok {
		n, err := intField(fields, "after", 1, 1<<53, 0)
		if err != nil {
			return err
		}
		t.After = uint64(n)
	}
	for name, to := range map[string]*string{"deadline": &t.Deadline, "id": &t.ID, "outputs": &t.Outputs} {
		raw, ok := fields[name]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, to); err != nil || *to == "" {
			return fieldErr(name, "is %s; allowed: a string that is not empty", excerpt(raw))
		}
	}
	return t.check()
}

// check checks the terms that are texts.
func (t *Terms) check() error {
	if t.Deadline != "" {
		d, err := time.ParseDuration(t.Deadline)
		if err != nil {
			if _, err = time.Parse(time.RFC3339, t.Deadline); err == nil {
				d = 1
			}
		}
		if err != nil || d <= 0 || d > MaxDeadline {
			return fieldErr("deadline", "is %q; allowed: a time such as 2030-12-31T18:00:00Z, or a duration after the submission such as 90m", excerptString(t.Deadline))
		}
	}
	if t.ID != "" && !idPattern.MatchString(t.ID) {
		return fieldErr("id", "is %q; allowed: 1 to 128 printable ASCII characters without spaces", excerptString(t.ID))
	}
	if t.Outputs != "" && !slices.Contains(Outputs(), t.Outputs) {
		return fieldErr("outputs", "is %q; allowed: %s", excerptString(t.Outputs), strings.Join(Outputs(), ", "))
	}
	return nil
}

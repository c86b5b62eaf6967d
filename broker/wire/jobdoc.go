package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Limits of a job document.
const (
	// MaxJobDoc is the largest accepted job document in bytes.
	MaxJobDoc = 16 << 10
	// MaxBatch is the largest batch number a document may name.
	MaxBatch = 100_000_000
	// MaxEpochs is the most epochs a training job may ask for.
	MaxEpochs = 1000
	// MaxTasks is the most tasks one job is planned into. A job that runs for ever ends with
	// the last round that it holds.
	MaxTasks = 10_000_000
	// MaxRetryTasks is the most tasks that a retry may name.
	MaxRetryTasks = 1000
)

// Where the models and data sets that documents name stand in the SDFS: model
// "mlp" is the file "models/mlp".
const (
	ModelFolder = "models/"
	DataFolder  = "data/"
)

// Defaults of a job document.
const (
	DefaultData      = "mnist"
	DefaultTrainData = "mnist-train"
	DefaultSeed      = 1
)

// JobDoc is what a user submits: an inference query (Model, From, To), a training
// run (Train), or a retry of what failed in another job (Retry). In the record of
// a retry the other fields are those of the job that it retries.
type JobDoc struct {
	// Model names a model in the SDFS, "mlp" or "mlp@3" for a version.
	Model string `json:"model,omitempty"`
	// Train names the architecture to train, "mlp" or "cnn".
	Train string `json:"train,omitempty"`
	// Data names a data set in the SDFS; default "mnist", for training "mnist-train".
	Data string `json:"data,omitempty"`
	// From and To are the first and the last batch, counted from 1, both included.
	From int `json:"from,omitempty"`
	To   int `json:"to,omitempty"`
	// Epochs and Seed configure a training run.
	Epochs int    `json:"epochs,omitempty"`
	Seed   uint64 `json:"seed,omitempty"`
	// Retry is the job whose failed tasks are to be done again, Tasks which of them;
	// default all. The models and data are those that the job had, unless Newest
	// asks for what their names stand for now.
	Retry  uint64 `json:"retry,omitempty"`
	Tasks  []int  `json:"tasks,omitempty"`
	Newest bool   `json:"newest,omitempty"`
	// Terms say how the job is to be run.
	Terms
}

// Archs lists the architectures that can be trained.
func Archs() []string { return []string{"mlp", "cnn"} }

// DefaultEpochs is the number of epochs that an architecture is trained for
// when a document names none.
func DefaultEpochs(arch string) int {
	if arch == "cnn" {
		return 10
	}
	return 20
}

// Training reports whether the document asks for a training run.
func (d JobDoc) Training() bool { return d.Train != "" }

// Target is the model's name in either kind of job.
func (d JobDoc) Target() string {
	if d.Training() {
		return d.Train
	}
	return d.Model
}

var (
	inferFields = []string{"model", "data", "from", "to", "weight", "priority", "max_nodes", "max_in_flight", "rounds", "forever",
		"batch_size", "deadline", "after", "id", "outputs"}
	trainFields = []string{"train", "data", "epochs", "seed", "weight", "priority", "deadline", "after", "id"}
	retryFields = []string{"retry", "tasks", "newest"}
	refPattern  = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}(@[1-9][0-9]{0,8})?$`)
	namePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)
)

// ValidNodeName reports whether s can name a node: it becomes a subject token.
func ValidNodeName(s string) bool { return namePattern.MatchString(s) }

// ValidRef reports whether s is a name that a model or data set may have,
// optionally with "@version".
func ValidRef(s string) bool { return refPattern.MatchString(s) }

// ParseJobDoc decodes and checks a job document. Its errors are *[Error] values
// that name the field and what is allowed there. Defaults are filled in. Ranges
// are checked against the data set later, by whoever knows the data set.
func ParseJobDoc(p []byte) (JobDoc, error) {
	var d JobDoc
	if len(p) > MaxJobDoc {
		return d, fieldErr("document", "is %d bytes; a job document has at most %d", len(p), MaxJobDoc)
	}
	fields, err := objectFields(p)
	if err != nil {
		return d, err
	}
	_, infer := fields["model"]
	_, train := fields["train"]
	_, retry := fields["retry"]
	allowed := inferFields
	switch {
	case retry && (infer || train):
		return d, fieldErr("retry", "can't be given with model or train; allowed: %s", strings.Join(retryFields, ", "))
	case retry:
		allowed = retryFields
	case infer && train:
		return d, fieldErr("train", "and model can't both be given; allowed: one of them")
	case train:
		allowed = trainFields
	case !infer:
		return d, fieldErr("model", "is missing; allowed: the name of a model, such as \"mlp\"")
	}
	for name := range fields {
		if !slices.Contains(allowed, name) {
			return d, fieldErr(printable(name), "is not a field of this kind of job; allowed: %s", strings.Join(allowed, ", "))
		}
	}
	switch {
	case retry:
		err = parseRetry(fields, &d)
	case train:
		err = parseTrain(fields, &d)
	default:
		err = parseInfer(fields, &d)
	}
	if err == nil && !retry {
		err = parseTerms(fields, &d.Terms)
	}
	return d, err
}

func parseRetry(fields map[string]json.RawMessage, d *JobDoc) error {
	job, err := intField(fields, "retry", 1, math.MaxInt64, 0)
	if err != nil {
		return err
	}
	d.Retry = uint64(job)
	if raw, ok := fields["newest"]; ok && string(raw) != "true" && string(raw) != "false" {
		return fieldErr("newest", "is %s; allowed: true or false", excerpt(raw))
	}
	d.Newest = string(fields["newest"]) == "true"
	raw, ok := fields["tasks"]
	if !ok {
		return nil
	}
	if err := json.Unmarshal(raw, &d.Tasks); err != nil || len(d.Tasks) < 1 || len(d.Tasks) > MaxRetryTasks {
		return fieldErr("tasks", "is %s; allowed: a list of 1 to %d task numbers, or nothing for all", excerpt(raw), MaxRetryTasks)
	}
	for _, n := range d.Tasks {
		if n < 1 || n > MaxTasks {
			return fieldErr("tasks", "has the number %d; allowed: 1 to %d", n, MaxTasks)
		}
	}
	return nil
}

func parseInfer(fields map[string]json.RawMessage, d *JobDoc) error {
	var err error
	if d.Model, err = refField(fields, "model", ""); err != nil {
		return err
	}
	if d.Data, err = refField(fields, "data", DefaultData); err != nil {
		return err
	}
	if d.From, err = intField(fields, "from", 1, MaxBatch, 0); err != nil {
		return err
	}
	if d.To, err = intField(fields, "to", 1, MaxBatch, 0); err != nil {
		return err
	}
	if d.From > d.To {
		return fieldErr("from", "is %d, after to (%d); allowed: 1 to %d", d.From, d.To, d.To)
	}
	return nil
}

func parseTrain(fields map[string]json.RawMessage, d *JobDoc) error {
	var err error
	if d.Train, err = refField(fields, "train", ""); err != nil {
		return err
	}
	if !slices.Contains(Archs(), d.Train) {
		return fieldErr("train", "is %q; allowed: %s", d.Train, strings.Join(Archs(), ", "))
	}
	if d.Data, err = refField(fields, "data", DefaultTrainData); err != nil {
		return err
	}
	if d.Epochs, err = intField(fields, "epochs", 1, MaxEpochs, DefaultEpochs(d.Train)); err != nil {
		return err
	}
	seed, err := intField(fields, "seed", 1, math.MaxInt32, DefaultSeed)
	d.Seed = uint64(seed)
	return err
}

// objectFields splits a JSON object into its members and refuses everything
// else, a member given twice included: the last one would silently win.
func objectFields(p []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(p))
	tok, err := dec.Token()
	if err != nil || tok != json.Delim('{') {
		return nil, fieldErr("document", "is not a JSON object; allowed: an object such as {\"model\":\"mlp\",\"from\":1,\"to\":50}")
	}
	fields := make(map[string]json.RawMessage)
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, jsonErr(err)
		}
		name, ok := key.(string)
		if !ok {
			return nil, jsonErr(errors.New("a member has no name"))
		}
		if _, twice := fields[name]; twice {
			return nil, fieldErr(printable(name), "is given twice; allowed: once")
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, jsonErr(err)
		}
		fields[name] = raw
	}
	if _, err := dec.Token(); err != nil {
		return nil, jsonErr(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, fieldErr("document", "has text after the JSON object; allowed: one object")
	}
	return fields, nil
}

func jsonErr(err error) error {
	return fieldErr("document", "is not valid JSON (%v); allowed: an object such as {\"model\":\"mlp\",\"from\":1,\"to\":50}", err)
}

func refField(fields map[string]json.RawMessage, name, def string) (string, error) {
	raw, ok := fields[name]
	if !ok {
		return def, nil
	}
	var s *string
	if err := json.Unmarshal(raw, &s); err != nil || s == nil {
		return "", fieldErr(name, "is %s; allowed: a string, the name of a stored file such as \"mlp\" or \"mlp@2\"", excerpt(raw))
	}
	if !ValidRef(*s) {
		return "", fieldErr(name, "is %s; allowed: lower-case letters, digits and . _ - (at most 64), with @N for version N", printable(*s))
	}
	return *s, nil
}

// intField reads a whole number between lo and hi; def of 0 means required.
func intField(fields map[string]json.RawMessage, name string, lo, hi, def int) (int, error) {
	raw, ok := fields[name]
	if !ok {
		if def == 0 {
			return 0, fieldErr(name, "is missing; allowed: a whole number from %d", lo)
		}
		return def, nil
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil || n < int64(lo) || n > int64(hi) {
		return 0, fieldErr(name, "is %s; allowed: a whole number from %d to %d", excerpt(raw), lo, hi)
	}
	return int(n), nil
}

// excerpt shortens a raw JSON value for an error message.
func excerpt(raw json.RawMessage) string {
	const most = 40
	if len(raw) > most {
		return strings.ToValidUTF8(string(raw[:most]), "?") + "…"
	}
	return strings.ToValidUTF8(string(raw), "?")
}

// printable quotes foreign text where it isn't a plain name.
func printable(s string) string {
	if refPattern.MatchString(s) {
		return s
	}
	return strconv.QuoteToASCII(excerptString(s))
}

func excerptString(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "…"
	}
	return s
}

func fieldErr(field, format string, args ...any) *Error {
	return &Error{Code: CodeBadDocument, Field: field, Message: field + " " + fmt.Sprintf(format, args...)}
}

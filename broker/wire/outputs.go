package wire

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// MaxOutputs is the largest size in bytes of a task's values: classes, probabilities
// and outputs of all of its batches. More than [MaxResult] of them stand in the SDFS.
const MaxOutputs = 256 << 20

const (
	// maxOutputDims and maxOutputDim bound the shape of an image's outputs.
	maxOutputDims = 8
	maxOutputDim  = MaxOutputs / 4
)

// Where results stand in the SDFS: the archive of ended job 12 is the file
// "results/12", the values of its task 3 are "results/12/3" until then.
const ResultFolder = "results/"

// ResultsFile is the SDFS file of an ended job's results.
func ResultsFile(job uint64) string { return ResultFolder + strconv.FormatUint(job, 10) }

// OutputsFile is the SDFS file of values that are too large for a task's result.
func OutputsFile(job uint64, task int) string { return ResultsFile(job) + "/" + strconv.Itoa(task) }

// Output tells what the values are that a batch's result has beside classes.
type Output struct {
	// Kind is [OutputsProbs] or [OutputsRaw].
	Kind string `json:"kind"`
	// Shape is that of one image's values; empty for a single one.
	Shape []int `json:"shape,omitempty"`
	// Unscored says that the outputs are no scores of classes: the batch has no
	// classes, and no labels.
	Unscored bool `json:"unscored,omitempty"`
}

// check returns how many values an image has.
func (o *Output) check() (each int, err error) {
	if o == nil {
		return 0, nil
	}
	if o.Kind != OutputsProbs && o.Kind != OutputsRaw {
		return 0, fmt.Errorf("outputs %q; known are %s and %s", excerptString(o.Kind), OutputsProbs, OutputsRaw)
	}
	if len(o.Shape) > maxOutputDims {
		return 0, fmt.Errorf("outputs of %d dimensions, allowed are %d", len(o.Shape), maxOutputDims)
	}
	each = 1
	for _, d := range o.Shape {
		if d < 1 || d > maxOutputDim/each {
			return 0, fmt.Errorf("outputs of shape %v", o.Shape)
		}
		each *= d
	}
	return each, nil
}

// Outside names the object that holds the values of a result's batches.
type Outside struct {
	// Digest is the SHA-256 of the bytes in lower-case hexadecimal.
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

// errOutside is returned for a result whose values lie outside and don't fit.
var errOutside = errors.New("its values in the SDFS don't fit")

// digestSize is the length of a SHA-256 in hexadecimal.
const digestSize = 64

// ValidDigest reports whether s is a SHA-256 in lower-case hexadecimal.
func ValidDigest(s string) bool {
	return len(s) == digestSize && !slices.ContainsFunc([]byte(s), func(c byte) bool { return (c < '0' || c > '9') && (c < 'a' || c > 'f') })
}

// checkOutside checks a result whose values lie outside: its figures must make
// exactly as many bytes as are there.
func (r *Result) checkOutside(inside int) error {
	o := r.Outside
	if inside > 0 || !ValidDigest(o.Digest) || o.Size < 1 || o.Size > MaxOutputs {
		return fmt.Errorf("%w: %d bytes in object %q, %d in the message", errOutside, o.Size, excerptString(o.Digest), inside)
	}
	left := int(o.Size)
	for i := range r.Batches {
		need, err := r.Batches[i].check(r.From+i, left)
		if err != nil {
			return err
		}
		if left -= need; left < 0 {
			break
		}
	}
	if left != 0 {
		return fmt.Errorf("%w: %d bytes are there, batches of other sizes", errOutside, o.Size)
	}
	return nil
}

// Split makes of an encoded result that is larger than a message two parts: values
// are to be stored as the object of that digest, and message, which refers to it, is
// what is stored as the result then.
func (r *Result) Split(encoded []byte, digest func(values []byte) string) (message, values []byte) {
	_, values, _ = bytes.Cut(encoded, []byte{'\n'})
	brief := *r
	brief.Outside = &Outside{Digest: digest(values), Size: int64(len(values))}
	return append(mustMarshal(&brief), '\n'), values
}

// Attach fills in the values of a result's batches from the bytes that lay outside.
func (r *Result) Attach(values []byte) error {
	if r.Outside == nil || int64(len(values)) != r.Outside.Size {
		return fmt.Errorf("values of job %d task %d: %w", r.Job, r.Task, errOutside)
	}
	if err := r.decode(values); err != nil {
		return fmt.Errorf("values of job %d task %d: %w", r.Job, r.Task, err)
	}
	r.Outside = nil
	return nil
}

// StoredResults tells where an ended job's results are when they are no longer in the
// stream of results.
type StoredResults struct {
	// Tasks is the number of results, Bytes their size. File is their archive, a
	// version of [ResultsFile]; empty when there were none.
	Tasks int    `json:"tasks"`
	Bytes int64  `json:"bytes"`
	File  string `json:"file,omitempty"`
	// Outside is how many of them have their values in objects of their own.
	Outside int `json:"outside,omitempty"`
	// Digest is that of the archive's manifest.
	Digest string `json:"digest,omitempty"`
	// Removed is when the archive was given up, after the time that results are kept.
	Removed time.Time `json:"removed,omitzero"`
}

// OutsideOf is the object that holds the values of an encoded result, nil when they
// are in it, or when it can't be read.
func OutsideOf(p []byte) *Outside {
	line, _, _ := bytes.Cut(p, []byte{'\n'})
	if !bytes.Contains(line, []byte(`"outside"`)) {
		return nil // nearly every result
	}
	r, err := ParseResult(p)
	if err != nil {
		return nil
	}
	return r.Outside
}

package sched

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"

	"idunno/broker/wire"
)

// A checkpoint is the fold of a job's results up to a place in their stream, so that
// a coordinator that starts reads on from there, however long the job is. It is a
// pure function of the results before that place: who wrote it and when makes no
// difference, and folding some of them once more changes nothing.
//
// The rates of the last ten seconds are left out: they come back by themselves.

// ErrCheckpoint is returned for a checkpoint that is none, or that of another plan.
var ErrCheckpoint = errors.New("unusable checkpoint")

// maxCheckpoint bounds the memory that a stored checkpoint takes, in bytes.
const maxCheckpoint = 64 << 20

// checkpoint is what is stored, as compressed JSON.
type checkpoint struct {
	Schema int `json:"v"`
	// Place is that of the last result in it, in the stream of results; Epoch the
	// lease of the coordinator that wrote it.
	Place uint64 `json:"place"`
	Epoch uint64 `json:"epoch"`
	// Job, Tasks and Size say which plan it belongs to.
	Job   uint64 `json:"job"`
	Tasks int    `json:"tasks"`
	Size  int    `json:"size"`
	// Full is how many words of the set of finished tasks are complete; Done are
	// those behind it, little-endian, up to the last that isn't zero.
	Full   int           `json:"full"`
	Done   []byte        `json:"done,omitempty"`
	Failed int           `json:"failed,omitempty"`
	Error  string        `json:"error,omitempty"`
	Train  *wire.Trained `json:"trained,omitempty"`
	First  time.Time     `json:"first,omitzero"`
	Last   time.Time     `json:"last,omitzero"`
	Nodes  []folded      `json:"nodes,omitempty"`
}

// folded are a node's sums; the times in them are packed as in a histogram's V2
// encoding, without its header.
type folded struct {
	Node string        `json:"node"`
	Sums wire.RawStats `json:"sums"`
}

// Checkpoint writes down what the job's results up to a place come to. All its dead
// letters must be stored: see [Job.AllFiled].
func (j *Job) Checkpoint(place, epoch uint64) ([]byte, error) {
	c := checkpoint{Schema: wire.Schema, Place: place, Epoch: epoch, Job: j.Rec.Job, Tasks: j.Rec.Tasks(), Size: j.Rec.TaskSize,
		Full: j.done.full, Failed: j.failed, Error: j.lastError, Train: j.trained, First: j.first, Last: j.last}
	words := j.done.words[j.done.full:]
	for len(words) > 0 && words[len(words)-1] == 0 {
		words = words[:len(words)-1]
	}
	for _, w := range words {
		c.Done = binary.LittleEndian.AppendUint64(c.Done, w)
	}
	for _, name := range sortedKeys(j.nodes) {
		t := j.nodes[name].tally
		f := folded{Node: name, Sums: t.raw}
		f.Sums.Times = t.times.appendCounts(nil)
		c.Nodes = append(c.Nodes, f)
	}
	plain, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write checkpoint of job %d: %w", j.Rec.Job, err)
	}
	var k packer
	packed, err := k.zip(plain)
	if err != nil {
		return nil, fmt.Errorf("write checkpoint of job %d: %w", j.Rec.Job, err)
	}
	return packed[8:], nil
}

// Restore makes the progress of a job from a checkpoint. It returns the place to
// read on behind, and [ErrCheckpoint] for one that doesn't belong to the record.
func Restore(rec *wire.JobRecord, p []byte) (j *Job, place uint64, err error) {
	c, err := readCheckpoint(p)
	if err != nil {
		return nil, 0, err
	}
	if c.Job != rec.Job || c.Tasks != rec.Tasks() || c.Size != rec.TaskSize {
		return nil, 0, fmt.Errorf("%w: it is that of job %d with %d tasks of %d batches", ErrCheckpoint, c.Job, c.Tasks, c.Size)
	}
	j = NewJob(rec, true)
	if err := j.done.restore(c.Full, c.Done, c.Tasks); err != nil {
		return nil, 0, err
	}
	j.finished, j.places.reached = j.done.count(), j.roundOf(j.done.highest())
	j.failed, j.lastError, j.trained, j.first, j.last = c.Failed, c.Error, c.Train, c.First, c.Last
	for _, f := range c.Nodes {
		if !wire.ValidNodeName(f.Node) || len(j.nodes) > maxShares {
			return nil, 0, fmt.Errorf("%w: a node called %q", ErrCheckpoint, f.Node)
		}
		t := NewTally()
		if err := t.times.take(f.Sums.Times); err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrCheckpoint, err)
		}
		t.raw = f.Sums
		t.raw.Times = nil
		j.nodes[f.Node] = &nodeShare{tally: t}
	}
	return j, c.Place, nil
}

// CheckpointEpoch is the lease under which a checkpoint was written, 0 of what is none.
func CheckpointEpoch(p []byte) uint64 {
	c, err := readCheckpoint(p)
	if err != nil {
		return 0
	}
	return c.Epoch
}

func readCheckpoint(p []byte) (*checkpoint, error) {
	z, err := zlib.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	defer z.Close()
	plain, err := io.ReadAll(io.LimitReader(z, maxCheckpoint))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	var c checkpoint
	if err := json.Unmarshal(plain, &c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCheckpoint, err)
	}
	if c.Schema != wire.Schema {
		return nil, fmt.Errorf("%w: version %d", ErrCheckpoint, c.Schema)
	}
	return &c, nil
}

// restore fills an empty set of numbers from 1 to last.
func (b *bitset) restore(full int, rest []byte, last int) error {
	if full < 0 || full > b.most || len(rest)%8 != 0 || len(rest)/8 > b.most-full {
		return fmt.Errorf("%w: more tasks than there are", ErrCheckpoint)
	}
	b.grow(full + len(rest)/8)
	for i := range full {
		b.words[i] = ^uint64(0)
	}
	for i := 0; i < len(rest); i += 8 {
		b.words[full+i/8] = binary.LittleEndian.Uint64(rest[i:])
	}
	b.full = full
	if len(b.words) > 0 {
		b.words[0] |= 1
	}
	for n := last + 1; n < 64*len(b.words); n++ {
		if b.has(n) {
			return fmt.Errorf("%w: more tasks than there are", ErrCheckpoint)
		}
	}
	for b.full < len(b.words) && b.words[b.full] == ^uint64(0) {
		b.full++
	}
	return nil
}

// count is the number of members.
func (b *bitset) count() int {
	n := 0
	for _, w := range b.words {
		n += bits.OnesCount64(w)
	}
	return max(n-1, 0) // number 0 is none
}

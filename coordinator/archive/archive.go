package archive

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"time"

	"idunno/broker/wire"
	"idunno/objectstore"
)

const (
	schema = 1
	// partSize is when a part is full; a message more may follow.
	partSize = 4 << 20
	// frameHeader is the size of a frame without its message, maxMessage that of the
	// largest message: what a server may accept, not only what ours does.
	frameHeader = 4 + 8 + 4
	maxMessage  = 64 << 20
	maxPart     = partSize + frameHeader + maxMessage
	// MaxOutside is how many objects with outputs an archive can hold.
	MaxOutside = 200_000
)

var (
	// ErrBroken is returned for an archive that contradicts itself.
	ErrBroken = errors.New("the archive of the results is broken")
	// ErrTooMany is returned for a job with more outputs in objects of their own
	// than an archive can hold.
	ErrTooMany = errors.New("too many outputs in objects of their own for an archive")
)

// manifest lists what an archive is made of.
type manifest struct {
	Schema int    `json:"schema_version"`
	Job    uint64 `json:"job"`
	Parts  []part `json:"parts"`
	// Objects are the parts, and then those with outputs.
	Objects []objectstore.Object `json:"objects"`
}

// part says which tasks a part has: so many, from First to Last.
type part struct {
	First int `json:"first"`
	Last  int `json:"last"`
	Tasks int `json:"tasks"`
}

// Writer makes an archive.
type Writer struct {
	store   *objectstore.Store
	m       manifest
	outside []objectstore.Object
	buf     []byte
	open    part
	stored  wire.StoredResults
}

// NewWriter begins the archive of a job.
func NewWriter(store *objectstore.Store, job uint64) *Writer {
	return &Writer{store: store, m: manifest{Schema: schema, Job: job, Parts: []part{}}}
}

// Add appends a task's result. Tasks must come in ascending order. It returns
// [ErrTooMany].
func (w *Writer) Add(ctx context.Context, m *Message) error {
	if m.Task <= w.open.Last || m.Task > math.MaxInt32 || len(m.Data) > maxMessage {
		return fmt.Errorf("archive task %d after %d, %d bytes: %w", m.Task, w.open.Last, len(m.Data), ErrBroken)
	}
	if o := wire.OutsideOf(m.Data); o != nil {
		if len(w.outside) >= MaxOutside {
			return fmt.Errorf("job %d: %w", w.m.Job, ErrTooMany)
		}
		w.outside = append(w.outside, objectstore.Object{Digest: o.Digest, Size: o.Size})
		w.stored.Outside++
		w.stored.Bytes += o.Size
	}
	if w.open.Tasks == 0 {
		w.open.First = m.Task
	}
	w.open.Last = m.Task
	w.open.Tasks++
	w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(m.Task))
	w.buf = binary.LittleEndian.AppendUint64(w.buf, uint64(m.At.UnixNano()))
	w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(len(m.Data)))
	w.buf = append(w.buf, m.Data...)
	w.stored.Tasks++
	w.stored.Bytes += int64(len(m.Data))
	if len(w.buf) >= partSize {
		return w.flush(ctx)
	}
	return nil
}

// flush stores the part that is being made.
func (w *Writer) flush(ctx context.Context) error {
	if w.open.Tasks == 0 {
		return nil
	}
	o, err := w.store.PutObject(ctx, bytes.NewReader(w.buf))
	if err != nil {
		return fmt.Errorf("archive results of job %d: %w", w.m.Job, err)
	}
	w.m.Parts, w.m.Objects = append(w.m.Parts, w.open), append(w.m.Objects, o)
	w.buf, w.open = w.buf[:0], part{Last: w.open.Last}
	return nil
}

// Close stores the archive and tells what is in it. Nothing shows before, and without
// results nothing is stored.
func (w *Writer) Close(ctx context.Context) (*wire.StoredResults, error) {
	if err := w.flush(ctx); err != nil {
		return nil, err
	}
	if w.stored.Tasks == 0 {
		return &w.stored, nil
	}
	w.m.Objects = append(w.m.Objects, w.outside...)
	p, err := json.Marshal(w.m)
	if err != nil {
		return nil, err
	}
	name := wire.ResultsFile(w.m.Job)
	v, err := w.store.PutBundle(ctx, name, p)
	if err != nil {
		return nil, fmt.Errorf("archive results of job %d: %w", w.m.Job, err)
	}
	w.stored.File, w.stored.Digest = objectstore.FormatRef(name, v.Version), v.Digest
	return &w.stored, nil
}

// Reader reads an archive. It keeps the part that it read last.
type Reader struct {
	store *objectstore.Store
	m     manifest
	at    int // which part that is, -1 for none
	have  []*Message
}

// Open opens the archive of a job by the digest of its manifest. It returns
// [ErrBroken], or the errors of [objectstore.Store.Object].
func Open(ctx context.Context, store *objectstore.Store, job uint64, digest string) (*Reader, error) {
	p, err := store.Object(ctx, digest, objectstore.MaxManifest)
	if err != nil {
		return nil, fmt.Errorf("open the archive of job %d: %w", job, err)
	}
	r := &Reader{store: store, at: -1}
	if err := r.m.parse(p, job); err != nil {
		return nil, fmt.Errorf("open the archive of job %d: %w", job, err)
	}
	return r, nil
}

// parse reads a manifest and checks what a reader relies on.
func (m *manifest) parse(p []byte, job uint64) error {
	if err := json.Unmarshal(p, m); err != nil {
		return fmt.Errorf("%w: %v", ErrBroken, err)
	}
	if m.Schema != schema {
		return fmt.Errorf("version %d, this program reads %d: run the same version everywhere", m.Schema, schema)
	}
	if m.Job != job || len(m.Parts) > len(m.Objects) {
		return fmt.Errorf("%w: it is of job %d, with %d parts in %d objects", ErrBroken, m.Job, len(m.Parts), len(m.Objects))
	}
	last := 0
	for i, part := range m.Parts {
		if part.First <= last || part.Last < part.First || part.Last > wire.MaxTasks || part.Tasks < 1 || part.Tasks > part.Last-part.First+1 || m.Objects[i].Size > maxPart {
			return fmt.Errorf("%w: part %d has %d tasks from %d to %d", ErrBroken, i+1, part.Tasks, part.First, part.Last)
		}
		last = part.Last
	}
	return nil
}

// Each calls fn for every result, in the order of the tasks.
func (r *Reader) Each(ctx context.Context, fn func(*Message) error) error {
	for i := range r.m.Parts {
		messages, err := r.part(ctx, i)
		if err != nil {
			return err
		}
		for _, m := range messages {
			if err := fn(m); err != nil {
				return err
			}
		}
	}
	return nil
}

// Task returns the result of a task, nil when there is none.
func (r *Reader) Task(ctx context.Context, task int) (*Message, error) {
	for i, p := range r.m.Parts {
		if task < p.First || task > p.Last {
			continue
		}
		messages, err := r.part(ctx, i)
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			if m.Task == task {
				return m, nil
			}
		}
	}
	return nil, nil
}

// part reads a part.
func (r *Reader) part(ctx context.Context, i int) ([]*Message, error) {
	if i == r.at {
		return r.have, nil
	}
	p, err := r.store.Object(ctx, r.m.Objects[i].Digest, maxPart)
	if err != nil {
		return nil, fmt.Errorf("read part %d of the archive of job %d: %w", i+1, r.m.Job, err)
	}
	messages, err := parsePart(p, r.m.Parts[i])
	if err != nil {
		return nil, fmt.Errorf("read part %d of the archive of job %d: %w", i+1, r.m.Job, err)
	}
	r.at, r.have = i, messages
	return messages, nil
}

// parsePart takes a part apart.
func parsePart(p []byte, want part) (messages []*Message, err error) {
	last := want.First - 1
	for len(p) > 0 {
		if len(p) < frameHeader {
			return nil, fmt.Errorf("%w: %d bytes behind task %d", ErrBroken, len(p), last)
		}
		task, at := int(binary.LittleEndian.Uint32(p)), int64(binary.LittleEndian.Uint64(p[4:]))
		size := int(binary.LittleEndian.Uint32(p[12:]))
		p = p[frameHeader:]
		if task <= last || task > want.Last || size > len(p) || len(messages) >= want.Tasks {
			return nil, fmt.Errorf("%w: task %d of %d bytes behind task %d", ErrBroken, task, size, last)
		}
		messages = append(messages, &Message{Task: task, At: time.Unix(0, at), Data: p[:size:size]})
		p, last = p[size:], task
	}
	if len(messages) != want.Tasks {
		return nil, fmt.Errorf("%w: %d tasks where %d belong", ErrBroken, len(messages), want.Tasks)
	}
	return messages, nil
}

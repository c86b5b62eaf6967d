package archive_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/coordinator/archive"
	"idunno/objectstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, brokertest.Leaks()...) }

func store(t *testing.T) (*objectstore.Store, context.Context) {
	t.Helper()
	b := brokertest.New(t)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	objects, index, err := b.Files(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return objectstore.Open(objects, index), ctx
}

// messages are results of tasks with gaps between them, more than a part holds.
func messages() []*archive.Message {
	var all []*archive.Message
	for i := range 12 {
		r := &wire.Result{Schema: wire.Schema, Job: 7, Task: 1 + 3*i, Node: "n", Error: strings.Repeat("x", 1<<20-i)}
		all = append(all, &archive.Message{Task: r.Task, At: time.Unix(1700000000, int64(i)), Data: r.Marshal()})
	}
	return all
}

func TestArchive(t *testing.T) {
	s, ctx := store(t)
	all := messages()
	w := archive.NewWriter(s, 7)
	for _, m := range all {
		if err := w.Add(ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Add(ctx, all[3]); !errors.Is(err, archive.ErrBroken) {
		t.Errorf("a task out of order: %v", err)
	}
	stored, err := w.Close(ctx)
	if err != nil || stored.Tasks != len(all) || stored.File != "results/7@1" {
		t.Fatalf("%+v, %v", stored, err)
	}
	v, err := s.Resolve(ctx, stored.File)
	if err != nil || !v.Bundle || v.Parts != 3 || v.Digest != stored.Digest {
		t.Fatalf("stored as %+v, %v", v, err)
	}
	r, err := archive.Open(ctx, s, 7, stored.Digest)
	if err != nil {
		t.Fatal(err)
	}
	next := 0
	err = r.Each(ctx, func(m *archive.Message) error {
		if want := all[next]; m.Task != want.Task || !m.At.Equal(want.At) || !bytes.Equal(m.Data, want.Data) {
			t.Errorf("task %d of %d bytes at %v where task %d belongs", m.Task, len(m.Data), m.At, want.Task)
		}
		next++
		return nil
	})
	if err != nil || next != len(all) {
		t.Fatalf("%d results, %v", next, err)
	}
	for _, m := range all {
		if got, err := r.Task(ctx, m.Task); err != nil || got == nil || !bytes.Equal(got.Data, m.Data) {
			t.Errorf("task %d: %v, %v", m.Task, got, err)
		}
		if got, err := r.Task(ctx, m.Task+1); err != nil || got != nil {
			t.Errorf("task %d, which has no result: %v, %v", m.Task+1, got, err)
		}
	}
	if _, err := archive.Open(ctx, s, 8, stored.Digest); !errors.Is(err, archive.ErrBroken) {
		t.Errorf("the archive of another job: %v", err)
	}
	if stored, err := archive.NewWriter(s, 9).Close(ctx); err != nil || stored.Tasks != 0 || stored.File != "" {
		t.Errorf("no results: %+v, %v", stored, err)
	}
}

// The outputs of a result live as long as the archive, also when the file that kept
// them until then is gone.
func TestArchiveKeepsOutputs(t *testing.T) {
	s, ctx := store(t)
	r := &wire.Result{Schema: wire.Schema, Job: 7, Task: 1, From: 1, To: 1, Node: "n", Batches: []wire.BatchResult{{Batch: 1, Images: 1, Class: []int32{},
		Output: &wire.Output{Kind: wire.OutputsRaw, Shape: []int{2}, Unscored: true}, Values: []float32{1, 2}}}}
	message, values := r.Split(r.Marshal(), func(p []byte) string {
		sum := sha256.Sum256(p)
		return hex.EncodeToString(sum[:])
	})
	if _, err := s.Put(ctx, wire.OutputsFile(7, 1), bytes.NewReader(values)); err != nil {
		t.Fatal(err)
	}
	w := archive.NewWriter(s, 7)
	if err := w.Add(ctx, &archive.Message{Task: 1, Data: message}); err != nil {
		t.Fatal(err)
	}
	stored, err := w.Close(ctx)
	if err != nil || stored.Outside != 1 || stored.Bytes != int64(len(message)+len(values)) {
		t.Fatalf("%+v, %v", stored, err)
	}
	if err := s.Erase(ctx, wire.OutputsFile(7, 1)); err != nil {
		t.Fatal(err)
	}
	outside := wire.OutsideOf(message)
	if p, err := s.Object(ctx, outside.Digest, outside.Size); err != nil || !bytes.Equal(p, values) {
		t.Errorf("%q, %v", p, err)
	}
	if _, err := s.Object(ctx, outside.Digest, outside.Size-1); !errors.Is(err, objectstore.ErrTooLarge) {
		t.Errorf("more than allowed: %v", err)
	}
	if err := s.Erase(ctx, wire.ResultsFile(7)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Object(ctx, outside.Digest, outside.Size); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("the outputs outlive the archive: %v", err)
	}
}

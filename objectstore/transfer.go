package objectstore

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	chunkSize = 128 << 10
	// window is how many bytes of an upload may be under way: the client's own
	// bound, 512 MiB, is four times what a server buffers.
	window = 8 << 20
	// barrierObject is written and acknowledged after each window.
	barrierObject = ".barrier"
	// maxStall ends an upload that stood still, perhaps with the whole machine:
	// after orphanAge its first half may have been cleaned up.
	maxStall = 10 * time.Minute
	// readStall ends a download that brings nothing, readWait a single request
	// for a chunk. replicaLag is how far a replica may be behind.
	readStall  = 10 * time.Second
	readAhead  = 4 // chunks asked for at a time
	readWait   = 3 * time.Second
	readPause  = 50 * time.Millisecond
	replicaLag = time.Second
	opWait     = 10 * time.Second
	listWait   = time.Minute
)

// ensure makes sure that the object is stored and readable. One that is there
// already is read and checked: bytes that are broken are stored again.
func (s *Store) ensure(ctx context.Context, sp *spool) error {
	replace := false
	for failed := 0; ; {
		if !replace {
			_, err := s.copyObject(ctx, sp.Digest, MaxObject, io.Discard)
			if err == nil {
				return nil
			}
			replace = errors.Is(err, ErrCorrupt)
		}
		err := s.upload(ctx, sp, replace)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errStored):
			replace = false
			continue
		case errors.Is(err, ErrChanged):
			return err
		case isFull(err):
			return fmt.Errorf("store object %.12s: %w", sp.Digest, ErrFull)
		}
		// The description may have been stored without its acknowledgement
		// reaching us, and the contents purged after it: don't trust what is there.
		replace = true
		if failed++; failed >= 4 {
			return fmt.Errorf("store object %.12s: %w", sp.Digest, err)
		}
		if err := pause(ctx, 10); err != nil {
			return err
		}
	}
}

// upload stores the object. Unless it replaces a broken one it gives up with
// errStored when the object turns up meanwhile, so that no good object is ever
// overwritten under its readers.
func (s *Store) upload(ctx context.Context, sp *spool, replace bool) error {
	src := &source{ctx: ctx, r: sp.open(), h: sha256.New(), digest: sp.Digest, last: time.Now().Round(0)}
	src.report = func(sent int64) { sp.report(sp.Size, sent) }
	src.barrier = func() error { return s.barrier(ctx) }
	src.end = func() error {
		if replace {
			return nil
		}
		if _, err := s.objects.GetInfo(ctx, sp.Digest); err == nil {
			return errStored
		} else if !errors.Is(err, jetstream.ErrObjectNotFound) {
			return err
		}
		return nil
	}
	// The client cleans up after a failed upload with the same context, so it
	// gets one that lives on; the source ends the upload when ctx does.
	_, err := s.objects.Put(context.WithoutCancel(ctx), jetstream.ObjectMeta{
		Name: sp.Digest, Opts: &jetstream.ObjectMetaOptions{ChunkSize: chunkSize}}, src)
	return err
}

// barrier waits until the server has stored everything sent before. The store
// takes the messages of one connection in order, so that the acknowledgement of
// a small one stands for all of them.
func (s *Store) barrier(ctx context.Context) error {
	meta := jetstream.ObjectMeta{Name: barrierObject}
	err := s.objects.UpdateMeta(ctx, barrierObject, meta)
	if errors.Is(err, jetstream.ErrUpdateMetaDeleted) {
		_, err = s.objects.Put(ctx, meta, nil)
	}
	return err
}

// source feeds an upload: full chunks, at most a window ahead of the server,
// and an error instead of the end when the bytes aren't those expected.
type source struct {
	ctx     context.Context
	r       io.Reader
	h       hash.Hash
	digest  string
	ahead   int
	sent    int64
	report  func(sent int64)
	last    time.Time
	barrier func() error
	end     func() error
}

func (s *source) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	// Wall time: the monotonic clock stands still while a machine sleeps.
	now := time.Now().Round(0)
	if now.Sub(s.last) > maxStall {
		return 0, fmt.Errorf("%w: the upload stood still for %v", ErrInterrupted, now.Sub(s.last))
	}
	s.last = now
	if s.ahead >= window {
		if err := s.barrier(); err != nil {
			return 0, err
		}
		s.ahead = 0
	}
	n, err := io.ReadFull(s.r, p)
	s.h.Write(p[:n])
	s.ahead += n
	s.sent += int64(n)
	s.report(s.sent)
	if err == nil {
		return n, nil
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return n, err
	}
	if digestOf(s.h.Sum(nil)) != s.digest {
		return 0, ErrChanged
	}
	if err := s.end(); err != nil {
		return 0, err
	}
	return n, io.EOF
}

// copyObject writes an object to w and checks its digest. It returns
// [ErrNotFound], [ErrCorrupt], [ErrInterrupted], or [ErrTooLarge] before anything
// is written when the object is larger than limit bytes.
func (s *Store) copyObject(ctx context.Context, digest string, limit int64, w io.Writer) (int64, error) {
	if err := checkDigest(digest); err != nil {
		return 0, err
	}
	info, err := s.objects.GetInfo(ctx, digest)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return 0, fmt.Errorf("object %.12s: %w", digest, ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("look up object %.12s: %w", digest, err)
	}
	if !describes(info, digest) {
		return 0, fmt.Errorf("object %.12s is described as %.80q: %w", digest, info.Digest, ErrCorrupt)
	}
	if info.Size > uint64(limit) {
		return 0, fmt.Errorf("object %.12s has %d bytes, allowed are %d: %w", digest, info.Size, limit, ErrTooLarge)
	}
	n, err := s.stream(ctx, info, digest, w)
	if err != nil {
		return n, fmt.Errorf("read object %.12s: %w", digest, err)
	}
	return n, nil
}

// stream writes the object that info describes, of the given digest, to w.
func (s *Store) stream(ctx context.Context, info *jetstream.ObjectInfo, digest string, w io.Writer) (int64, error) {
	reading, cancel := context.WithCancel(ctx)
	defer cancel()
	h, size := sha256.New(), int64(info.Size)
	var total int64
	var asked []chan fetched
	// Chunks mostly lie one behind the other, so the next ones are asked for before
	// it is known where they begin. A question from a place between two chunks
	// brings the later one again, so none is left out.
	last, next, ahead := uint64(0), uint64(1), int64(1)
	for total < size {
		for int64(len(asked)) < min(ahead, (size-total+chunkSize-1)/chunkSize) {
			answer, from := make(chan fetched, 1), next
			go func() {
				m, err := s.chunk(reading, info.NUID, from)
				answer <- fetched{m, err}
			}()
			asked, next = append(asked, answer), next+1
		}
		f := <-asked[0]
		asked = asked[1:]
		switch {
		case ctx.Err() != nil:
			return total, context.Cause(ctx)
		case errors.Is(f.err, jetstream.ErrMsgNotFound):
			return total, s.missing(ctx, info, digest, total)
		case f.err != nil:
			return total, fmt.Errorf("%w after %d of %d bytes: %v", ErrInterrupted, total, size, f.err)
		case f.m.Sequence <= last:
			continue
		}
		last, ahead = f.m.Sequence, readAhead
		next = max(next, last+1)
		if total += int64(len(f.m.Data)); total > size {
			return total, fmt.Errorf("%d bytes, more than the %d described: %w", total, size, ErrCorrupt)
		}
		h.Write(f.m.Data)
		if _, err := w.Write(f.m.Data); err != nil {
			return total, err
		}
	}
	if digestOf(h.Sum(nil)) != digest {
		return total, fmt.Errorf("%d bytes: %w", total, ErrCorrupt)
	}
	return total, nil
}

// fetched is the answer to a question for a chunk.
type fetched struct {
	m   *jetstream.RawStreamMsg
	err error
}

// chunk reads a chunk. It asks again while the network or the server is away, and
// for a moment when a server says that there is none: a replica may be behind.
func (s *Store) chunk(ctx context.Context, id string, from uint64) (*jetstream.RawStreamMsg, error) {
	for began := time.Now(); ; {
		once, cancel := context.WithTimeout(ctx, readWait)
		m, err := s.objects.Chunk(once, id, from)
		cancel()
		patience := readStall
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			patience = replicaLag
		}
		if err == nil || errors.Is(err, nats.ErrConnectionClosed) || time.Since(began) > patience {
			return m, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(readPause):
		}
	}
}

// missing tells why a chunk is not there: the object was deleted or stored anew,
// or its chunks are lost.
func (s *Store) missing(ctx context.Context, info *jetstream.ObjectInfo, digest string, total int64) error {
	now, err := s.objects.GetInfo(ctx, digest)
	switch {
	case errors.Is(err, jetstream.ErrObjectNotFound):
		return ErrNotFound
	case err != nil:
		return fmt.Errorf("%w after %d of %d bytes: %v", ErrInterrupted, total, info.Size, err)
	case now.NUID != info.NUID:
		return fmt.Errorf("%w after %d of %d bytes: it was stored again", ErrInterrupted, total, info.Size)
	}
	return fmt.Errorf("no more than %d of %d bytes are there: %w", total, info.Size, ErrCorrupt)
}

// describes reports whether an object's description, whose digest is written
// "SHA-256=" in URL base64, speaks of the bytes of the given digest.
func describes(info *jetstream.ObjectInfo, digest string) bool {
	encoded, ok := strings.CutPrefix(info.Digest, "SHA-256=")
	if !ok {
		return false
	}
	sum, err := base64.URLEncoding.DecodeString(encoded)
	return err == nil && digestOf(sum) == digest
}

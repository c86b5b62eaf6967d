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
	// readStall ends a download that brings nothing.
	readStall = 10 * time.Second
	opWait    = 10 * time.Second
	// openGrace is how long opening may go on after its caller has gone.
	openGrace = time.Second
	listWait  = time.Minute
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
	n, err := s.stream(ctx, digest, int64(info.Size), w)
	if err != nil {
		return n, fmt.Errorf("read object %.12s: %w", digest, err)
	}
	return n, nil
}

// stream writes an object of the given size and digest to w.
func (s *Store) stream(ctx context.Context, digest string, size int64, w io.Writer) (int64, error) {
	// When opening is cancelled after the first bytes have come, the client leaves a
	// goroutine behind that waits for a reader. So opening outlives ctx for a moment.
	poll, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	guard := time.AfterFunc(opWait, cancel)
	stop := context.AfterFunc(ctx, func() { guard.Reset(openGrace) })
	result, err := s.objects.Get(pollContext{poll}, digest)
	stop()
	guard.Stop()
	if err != nil {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		if errors.Is(err, jetstream.ErrObjectNotFound) {
			return 0, ErrNotFound
		}
		return 0, err
	}
	defer result.Close()
	h, buf := sha256.New(), make([]byte, min(size+1, copySize))
	var total int64
	for moved := time.Now(); ; {
		n, err := result.Read(buf)
		if n > 0 {
			moved = time.Now()
			if total += int64(n); total > size {
				return total, fmt.Errorf("%d bytes, more than the %d described: %w", total, size, ErrCorrupt)
			}
			h.Write(buf[:n])
			if _, err := w.Write(buf[:n]); err != nil {
				return total, err
			}
		}
		switch {
		case ctx.Err() != nil:
			return total, context.Cause(ctx)
		case errors.Is(err, io.EOF), errors.Is(err, jetstream.ErrDigestMismatch):
			if total != size || digestOf(h.Sum(nil)) != digest {
				return total, fmt.Errorf("%d of %d bytes: %w", total, size, ErrCorrupt)
			}
			return total, nil
		case err != nil:
			return total, fmt.Errorf("%w: %v", ErrInterrupted, err)
		case time.Since(moved) > readStall:
			return total, s.stalled(ctx, digest, total, size)
		}
	}
}

// stalled tells why an object's bytes don't come: it was deleted, its chunks
// are lost, or the network is.
func (s *Store) stalled(ctx context.Context, digest string, total, size int64) error {
	_, err := s.objects.GetInfo(ctx, digest)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("%w after %d of %d bytes: %v", ErrInterrupted, total, size, err)
	}
	return fmt.Errorf("no more than %d of %d bytes are there: %w", total, size, ErrCorrupt)
}

// pollContext makes the client's blocking read return every second: the client
// asks for the deadline before each one. Without it a read that no message
// answers can be ended neither by the context nor by closing.
type pollContext struct{ context.Context }

func (pollContext) Deadline() (time.Time, bool) { return time.Now().Add(time.Second), true }

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

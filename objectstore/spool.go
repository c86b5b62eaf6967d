package objectstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	// MaxObject is the largest object in bytes.
	MaxObject = 8 << 30
	// inMemory is the most that is kept in memory until its digest is known.
	inMemory = 1 << 20
	copySize = 256 << 10
)

// spool holds contents whose digest had to be known before they are stored: in
// memory while small, otherwise in the file they come from or a temporary one.
type spool struct {
	Object
	from   io.ReaderAt
	offset int64
	temp   *os.File
	// report is told how much was read and how much was sent.
	report func(read, sent int64)
}

// newSpool reads r to its end. Report may be nil. It returns [ErrTooLarge]. The
// caller closes it.
func newSpool(ctx context.Context, r io.Reader, report func(read, sent int64)) (*spool, error) {
	if report == nil {
		report = func(_, _ int64) {}
	}
	sp, err := fillSpool(ctx, r, report)
	if err != nil {
		sp.close()
		return nil, err
	}
	return sp, nil
}

func fillSpool(ctx context.Context, r io.Reader, report func(read, sent int64)) (*spool, error) {
	sp, h := &spool{report: report}, sha256.New()
	limited := io.LimitReader(&contextReader{ctx: ctx, r: r, count: func(n int64) { report(n, 0) }}, MaxObject+1)
	finish := func(size int64, err error) error {
		sp.Object = Object{Digest: digestOf(h.Sum(nil)), Size: size}
		if err == nil && size > MaxObject {
			err = fmt.Errorf("%w: more than %d bytes; split it into a bundle", ErrTooLarge, int64(MaxObject))
		}
		return err
	}
	if f, offset, ok := regularFile(r); ok {
		sp.from, sp.offset = f, offset
		size, err := io.CopyBuffer(onlyWriter{h}, limited, make([]byte, copySize))
		return sp, finish(size, err)
	}
	var buf bytes.Buffer
	size, err := io.Copy(io.MultiWriter(h, &buf), io.LimitReader(limited, inMemory))
	sp.from = bytes.NewReader(buf.Bytes())
	if err != nil || size < inMemory {
		return sp, finish(size, err)
	}
	if sp.temp, err = os.CreateTemp("", "idunno-put-*"); err != nil {
		return sp, fmt.Errorf("create a temporary file: %w", err)
	}
	// Nameless from now on: whatever happens to this process, nothing stays.
	_ = os.Remove(sp.temp.Name())
	if _, err := sp.temp.Write(buf.Bytes()); err != nil {
		return sp, err
	}
	sp.from = sp.temp
	more, err := io.CopyBuffer(io.MultiWriter(h, sp.temp), limited, make([]byte, copySize))
	return sp, finish(size+more, err)
}

// regularFile reports whether r is a file that can be read twice.
func regularFile(r io.Reader) (*os.File, int64, bool) {
	f, ok := r.(*os.File)
	if !ok {
		return nil, 0, false
	}
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, 0, false
	}
	offset, err := f.Seek(0, io.SeekCurrent)
	return f, offset, err == nil
}

// open reads the contents from the start.
func (sp *spool) open() io.Reader { return io.NewSectionReader(sp.from, sp.offset, sp.Size) }

func (sp *spool) close() {
	if sp.temp != nil {
		_ = sp.temp.Close()
		_ = os.Remove(sp.temp.Name()) // for systems where an open file keeps its name
	}
}

// contextReader ends reading with the context, between two reads.
type contextReader struct {
	ctx   context.Context
	r     io.Reader
	total int64
	count func(total int64)
}

func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.total += int64(n)
	c.count(c.total)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("read what is to be stored: %w", err)
	}
	return n, err
}

// onlyWriter hides other methods, so that a copy uses the buffer it was given.
type onlyWriter struct{ io.Writer }

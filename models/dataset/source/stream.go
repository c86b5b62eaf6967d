package source

import (
	"archive/zip"
	"bufio"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"

	"idunno/models/dataset"
)

// stream reads a file, or a part of one, front to back.
type stream struct {
	name    string
	r       *bufio.Reader
	part    *io.SectionReader // what r reads when it can be skipped in, else nil
	closers []io.Closer
}

const readSize = 256 << 10

// openStream opens a file, unpacked when it is compressed with gzip.
func openStream(name string) (*stream, error) {
	f, err := openFile(name)
	if err != nil {
		return nil, err
	}
	var magic [2]byte
	if n, _ := f.ReadAt(magic[:], 0); n == 2 && magic == [2]byte{0x1f, 0x8b} {
		z, err := gzip.NewReader(bufio.NewReaderSize(f, readSize))
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%s: %w", name, broken(err))
		}
		return &stream{name: name, r: bufio.NewReaderSize(z, readSize), closers: []io.Closer{z, f}}, nil
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return section(name, f, 0, info.Size(), f), nil
}

// section is a stream of a part of a file.
func section(name string, f io.ReaderAt, from, size int64, closers ...io.Closer) *stream {
	part := io.NewSectionReader(f, from, size)
	return &stream{name: name, r: bufio.NewReaderSize(part, readSize), part: part, closers: closers}
}

// openFile opens a regular file: reading from anything else could wait for ever.
func openFile(name string) (*os.File, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file: %w", name, dataset.ErrFormat)
	}
	return os.Open(name)
}

// size is how many bytes are left, -1 when only reading tells.
func (s *stream) size() int64 {
	if s.part == nil {
		return -1
	}
	at, err := s.part.Seek(0, io.SeekCurrent)
	if err != nil {
		return -1
	}
	return s.part.Size() - at + int64(s.r.Buffered())
}

// full reads all of p.
func (s *stream) full(p []byte) error {
	if _, err := io.ReadFull(s.r, p); err != nil {
		return fmt.Errorf("%s: %w", s.name, broken(err))
	}
	return nil
}

// skip passes over n bytes.
func (s *stream) skip(n int64) error {
	if s.part != nil {
		if left := s.size(); left < n {
			return fmt.Errorf("%s: %w", s.name, broken(io.ErrUnexpectedEOF))
		}
		if _, err := s.part.Seek(n-int64(s.r.Buffered()), io.SeekCurrent); err != nil {
			return err
		}
		s.r.Reset(s.part)
		return nil
	}
	if _, err := io.CopyN(io.Discard, s.r, n); err != nil {
		return fmt.Errorf("%s: %w", s.name, broken(err))
	}
	return nil
}

// end checks that the stream ends here; of compressed data that checks the sum, too.
func (s *stream) end() error {
	switch _, err := s.r.ReadByte(); {
	case err == nil:
		return fmt.Errorf("%s goes on after its last image: %w", s.name, dataset.ErrFormat)
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("%s: %w", s.name, broken(err))
	}
	return nil
}

// Close closes what the stream reads from.
func (s *stream) Close() error {
	var all []error
	for _, c := range s.closers {
		all = append(all, c.Close())
	}
	return errors.Join(all...)
}

// broken marks the end of a file in the wrong place, and broken compression, as
// dataset.ErrFormat; any other error is the reader's own and passes as it is.
func broken(err error) error {
	var deflate flate.CorruptInputError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the file ends too early: %w", dataset.ErrFormat)
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, &deflate),
		errors.Is(err, zip.ErrChecksum), errors.Is(err, zip.ErrFormat), errors.Is(err, zip.ErrAlgorithm):
		return fmt.Errorf("%w: %w", err, dataset.ErrFormat)
	}
	return err
}

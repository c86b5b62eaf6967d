package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// RemoteFile is a file that a mirror offers and how to know it is the right one.
type RemoteFile struct {
	Name   string
	Size   int64  // bytes
	SHA256 string // of the file as offered (compressed), hexadecimal
}

// MNISTFiles lists the four official files of MNIST.
func MNISTFiles() []RemoteFile {
	return []RemoteFile{
		{"train-images-idx3-ubyte.gz", 9912422, "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"},
		{"train-labels-idx1-ubyte.gz", 28881, "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"},
		{"t10k-images-idx3-ubyte.gz", 1648877, "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"},
		{"t10k-labels-idx1-ubyte.gz", 4542, "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"},
	}
}

// MNISTMirrors lists public copies of the MNIST files, tried in this order.
func MNISTMirrors() []string {
	return []string{
		"https://storage.googleapis.com/cvdf-datasets/mnist/",
		"https://ossci-datasets.s3.amazonaws.com/mnist/",
	}
}

// FetchConfig says what Fetch fetches and from where. The zero value fetches
// MNIST from MNISTMirrors.
type FetchConfig struct {
	Client   *http.Client                         // nil means http.DefaultClient
	Mirrors  []string                             // folder URLs, tried in order for every file; nil means MNISTMirrors
	Files    []RemoteFile                         // nil means MNISTFiles
	Progress func(file string, done, total int64) // called as bytes of a file arrive; nil for silence
}

// Fetch puts the files of c into the folder dir, which it makes if need be. A
// file that is already there and right is not fetched again. A file appears under
// its name only when its size and checksum are right; what is broken or
// interrupted leaves nothing behind. The error of a file that no mirror could give
// wraps ErrChecksum, ErrTooLarge or the network's own errors, one a mirror.
func Fetch(ctx context.Context, dir string, c FetchConfig) error {
	if c.Client == nil {
		c.Client = http.DefaultClient
	}
	if c.Mirrors == nil {
		c.Mirrors = MNISTMirrors()
	}
	if c.Files == nil {
		c.Files = MNISTFiles()
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("fetch data: %w", err)
	}
	for _, f := range c.Files {
		if isFile(filepath.Join(dir, f.Name), f) {
			continue
		}
		if err := fetchAny(ctx, dir, f, c); err != nil {
			return fmt.Errorf("fetch %s: no mirror could give it: %w", f.Name, err)
		}
	}
	return nil
}

// isFile reports whether path holds exactly the file f.
func isFile(path string, f RemoteFile) bool {
	r, err := os.Open(path)
	if err != nil {
		return false
	}
	defer r.Close()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(r, f.Size+1))
	return err == nil && n == f.Size && hex.EncodeToString(sum.Sum(nil)) == f.SHA256
}

// fetchAny tries one mirror after the other.
func fetchAny(ctx context.Context, dir string, f RemoteFile, c FetchConfig) error {
	var failed []error
	for _, mirror := range c.Mirrors {
		err := fetchOne(ctx, dir, strings.TrimSuffix(mirror, "/")+"/"+f.Name, f, c)
		if err == nil {
			return nil
		}
		failed = append(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(failed...)
}

func fetchOne(ctx context.Context, dir, url string, f RemoteFile, c FetchConfig) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	tmp, err := os.CreateTemp(dir, "."+f.Name+".*")
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, tmp.Close())
		if err == nil {
			err = os.Rename(tmp.Name(), filepath.Join(dir, f.Name))
		}
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	sum := sha256.New()
	w := &meter{file: f.Name, total: f.Size, report: c.Progress}
	n, err := io.Copy(io.MultiWriter(tmp, sum, w), io.LimitReader(resp.Body, f.Size+1))
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", url, err)
	case n > f.Size:
		return fmt.Errorf("%s: more than the %d bytes expected: %w", url, f.Size, ErrTooLarge)
	case hex.EncodeToString(sum.Sum(nil)) != f.SHA256:
		return fmt.Errorf("%s: %d bytes with SHA-256 %x, expected %d with %s: %w", url, n, sum.Sum(nil), f.Size, f.SHA256, ErrChecksum)
	}
	return tmp.Chmod(0o644)
}

// meter reports how much of a file has passed through it.
type meter struct {
	file        string
	done, total int64
	report      func(file string, done, total int64)
}

func (m *meter) Write(p []byte) (int, error) {
	m.done += int64(len(p))
	if m.report != nil {
		m.report(m.file, m.done, m.total)
	}
	return len(p), nil
}

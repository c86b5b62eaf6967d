package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"idunno/broker/wire"
	"idunno/models/dataset"
	"idunno/objectstore"
)

// maxBatchBytes bounds one batch, uploadBytes all batches that travel at once.
const (
	maxBatchBytes = 256 << 20
	uploadBytes   = 256 << 20
)

// Source gives the images of a data set in order.
type Source interface {
	// Head describes the set.
	Head() dataset.Head
	// Read gives the next n images, or as many as are left; at the end io.EOF.
	Read(n int) (*dataset.Batch, error)
	// Skip passes over n images.
	Skip(n int) error
}

// ImportConfig says how a set is imported.
type ImportConfig struct {
	// BatchSize is the number of images in a batch; 0 means BatchSize.
	BatchSize int
	// Journal is a file that notes which batches are stored, so that an import that
	// was cut off goes on where it was; "" for none. It is removed at the end.
	Journal string
	// Fingerprint tells one source from another: what a journal says of another one
	// doesn't count.
	Fingerprint string
	// Progress may be nil; it is called from one goroutine at a time.
	Progress func(done, total int)
}

// Imported is what an import did.
type Imported struct {
	objectstore.Version
	Batches int
	// Reused is how many of the batches were stored by an import that was cut off.
	Reused int
}

// Import stores a set as the data set name: one safetensors object a batch, and a
// manifest that lists them. Only the manifest makes the set visible, so a set is
// there whole or not at all. Memory holds a few batches at a time. The same images in
// the same batches make no new version.
func Import(ctx context.Context, store *objectstore.Store, name string, src Source, cfg ImportConfig) (Imported, error) {
	done, err := importSet(ctx, store, name, src, cfg)
	if err != nil {
		return done, fmt.Errorf("store data set %s: %w", name, err)
	}
	return done, nil
}

func importSet(ctx context.Context, store *objectstore.Store, name string, src Source, cfg ImportConfig) (Imported, error) {
	if cfg.BatchSize == 0 {
		cfg.BatchSize = BatchSize
	}
	h := src.Head()
	if h.Images < 1 || cfg.BatchSize < 1 {
		return Imported{}, fmt.Errorf("%d images in batches of %d: give at least one image and a batch size from 1", h.Images, cfg.BatchSize)
	}
	size, err := h.BatchBytes(min(cfg.BatchSize, h.Images))
	if err != nil {
		return Imported{}, err
	}
	if size > maxBatchBytes {
		return Imported{}, fmt.Errorf("a batch of %d images has %d MiB, at most %d: choose a smaller batch size", min(cfg.BatchSize, h.Images), size>>20, maxBatchBytes>>20)
	}
	im := &importer{store: store, src: src, cfg: cfg, head: h, objects: make([]dataset.Object, (h.Images-1)/cfg.BatchSize+1)}
	m := dataset.Manifest{Schema: dataset.ManifestSchema, Name: name, Batches: len(im.objects), BatchSize: cfg.BatchSize, Images: h.Images,
		Shape: h.Shape, DType: h.DType, Classes: h.Classes, Source: h.Source, Licence: h.Licence}
	if len(im.objects)*objectBytes > objectstore.MaxManifest {
		return Imported{}, fmt.Errorf("%d batches are more than one set may have: choose a larger batch size", len(im.objects))
	}
	out := Imported{Batches: len(im.objects)}
	if out.Reused, err = im.resume(ctx); err != nil {
		return out, err
	}
	defer im.closeJournal()
	if err := im.run(ctx, max(min(uploads, uploadBytes/size), 1)); err != nil {
		return out, err
	}
	m.Objects = im.objects
	if err := m.Check(); err != nil {
		return out, err
	}
	out.Version, err = store.PutBundle(ctx, wire.DataFolder+name, m.Marshal())
	if errors.Is(err, objectstore.ErrNotFound) {
		return out, fmt.Errorf("%w: batches that were stored more than a day ago are gone; import it again, the others are kept", err)
	}
	if err == nil {
		im.finished = true
	}
	return out, err
}

// objectBytes is what a manifest needs for a batch, at most.
const objectBytes = 110

// importer is an import under way.
type importer struct {
	store *objectstore.Store
	src   Source
	cfg   ImportConfig
	head  dataset.Head

	mu       sync.Mutex
	objects  []dataset.Object // batch i (from 1) is objects[i-1]; without a digest while it isn't stored
	done     int
	journal  *os.File
	finished bool
}

// numbered is a batch and its number, from 1.
type numbered struct {
	n     int
	batch *dataset.Batch
}

// run reads the batches, one after the other, and stores several at a time.
func (im *importer) run(ctx context.Context, uploads int) error {
	group, ctx := errgroup.WithContext(ctx)
	next := make(chan numbered)
	for range uploads {
		group.Go(func() error {
			for b := range next {
				if err := im.put(ctx, b); err != nil {
					return fmt.Errorf("batch %d: %w", b.n, err)
				}
			}
			return nil
		})
	}
	// An error of the source lets the batches that were read be stored: they are noted.
	err := im.feed(ctx, next)
	close(next)
	if stored := group.Wait(); stored != nil {
		return stored
	}
	return err
}

// feed reads the batches that aren't stored yet.
func (im *importer) feed(ctx context.Context, next chan<- numbered) error {
	for n := 1; n <= len(im.objects); n++ {
		images := min(im.cfg.BatchSize, im.head.Images-(n-1)*im.cfg.BatchSize)
		if im.stored(n) {
			if err := im.src.Skip(images); err != nil {
				return err
			}
			continue
		}
		b, err := im.src.Read(images)
		if err == nil && b.Len() != images {
			err = fmt.Errorf("%d images instead of %d: %w", b.Len(), images, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
		select {
		case next <- numbered{n, b}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if _, err := im.src.Read(1); !errors.Is(err, io.EOF) {
		return fmt.Errorf("there are more than the %d images announced: %w", im.head.Images, errors.Join(err, dataset.ErrFormat))
	}
	return nil
}

func (im *importer) stored(n int) bool {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.objects[n-1].Digest != ""
}

func (im *importer) put(ctx context.Context, b numbered) error {
	o, err := im.store.PutObject(ctx, bytes.NewReader(b.batch.Marshal()))
	if err != nil {
		return err
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.objects[b.n-1] = dataset.Object{Digest: o.Digest, Size: o.Size}
	im.tell(1)
	if im.journal != nil {
		// What can't be noted is stored again by the next import.
		_, _ = fmt.Fprintf(im.journal, "%d %s %d\n", b.n, o.Digest, o.Size)
	}
	return nil
}

func (im *importer) tell(n int) {
	im.done += n
	if im.cfg.Progress != nil {
		im.cfg.Progress(im.done, len(im.objects))
	}
}

// resume opens the journal and takes over what an earlier import of the same source
// has stored, after asking the store for it.
func (im *importer) resume(ctx context.Context) (int, error) {
	if im.cfg.Journal == "" {
		return 0, nil
	}
	head := fmt.Sprintf("iDunno import 1 %s %d %d", im.cfg.Fingerprint, im.cfg.BatchSize, len(im.objects))
	noted, current := readJournal(im.cfg.Journal, head, len(im.objects))
	reused, err := im.present(ctx, noted)
	if err != nil {
		return 0, err
	}
	mode := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if !current {
		mode |= os.O_TRUNC
	}
	// Without a journal the import works, it can't be resumed.
	if err := os.MkdirAll(filepath.Dir(im.cfg.Journal), 0o700); err != nil {
		return reused, nil
	}
	if im.journal, err = os.OpenFile(im.cfg.Journal, mode, 0o600); err != nil {
		im.journal = nil
		return reused, nil
	}
	if !current {
		_, _ = fmt.Fprintln(im.journal, head)
	} else {
		_, _ = fmt.Fprintln(im.journal) // ends a line that was cut off
	}
	return reused, nil
}

// present asks the store for the batches that a journal notes.
func (im *importer) present(ctx context.Context, noted map[int]dataset.Object) (int, error) {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(uploads)
	reused := 0
	for n, o := range noted {
		group.Go(func() error {
			has, err := im.store.HasObject(ctx, objectstore.Object{Digest: o.Digest, Size: o.Size})
			if err != nil || !has {
				return err
			}
			im.mu.Lock()
			defer im.mu.Unlock()
			im.objects[n-1] = o
			reused++
			im.tell(1)
			return nil
		})
	}
	err := group.Wait()
	return reused, err
}

// readJournal reads which batches are stored, and whether the journal is of this
// import. Lines that make no sense, such as one that was cut off, don't count.
func readJournal(name, head string, batches int) (map[int]dataset.Object, bool) {
	f, err := os.Open(name)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	if !lines.Scan() || lines.Text() != head {
		return nil, false
	}
	out := map[int]dataset.Object{}
	for lines.Scan() {
		var n int
		var o dataset.Object
		if _, err := fmt.Sscanf(lines.Text(), "%d %s %d", &n, &o.Digest, &o.Size); err == nil && n >= 1 && n <= batches &&
			len(o.Digest) == 64 && strings.Trim(o.Digest, "0123456789abcdef") == "" && o.Size > 0 {
			out[n] = o
		}
	}
	return out, true
}

func (im *importer) closeJournal() {
	if im.journal == nil {
		return
	}
	_ = im.journal.Close()
	if im.finished {
		_ = os.Remove(im.cfg.Journal)
	}
}

// inMemory is a set in memory as a Source.
type inMemory struct {
	set  *dataset.Set
	done int
}

func (m *inMemory) Head() dataset.Head { return m.set.Head() }

func (m *inMemory) Read(n int) (*dataset.Batch, error) {
	if n = min(n, m.set.Len()-m.done); n < 1 {
		return nil, io.EOF
	}
	b, err := m.set.Range(m.done, m.done+n)
	m.done += n
	return b, err
}

func (m *inMemory) Skip(n int) error { m.done += n; return nil }

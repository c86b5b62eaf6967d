package powercut

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Stats counts what the disk was told.
type Stats struct {
	// Syncs is the number of fsyncs, fdatasyncs and synchronous writes.
	Syncs int
	// Files is the number of files on the disk, Bytes what is in them.
	Files int
	Bytes int64
}

// inode identifies a file whatever its name is.
type inode struct{ dev, ino uint64 }

// entry is a name on the disk.
type entry struct {
	id   inode
	dir  bool
	size int64
	perm fs.FileMode
}

// disk is what would be on the disk if the power went now.
type disk struct {
	dir   string
	names map[string]entry // by path relative to dir
	files map[inode][]byte
	syncs int
	// seen counts the looks; named is the one that names are from, read those that
	// files' contents are from. Syncs of several threads overlap, and the one that
	// began first may end last.
	seen, named int
	read        map[inode]int
}

func newDisk(dir string) *disk {
	return &disk{dir: dir, names: make(map[string]entry), files: make(map[inode][]byte), read: make(map[inode]int)}
}

// look reads the names that there are at the moment.
func (d *disk) look() (map[string]entry, error) {
	names := make(map[string]entry)
	err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // gone while we look
		}
		if err != nil {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(d.dir, path)
		if err != nil {
			return err
		}
		names[rel] = entry{inodeOf(info), info.IsDir(), info.Size(), info.Mode().Perm()}
		return nil
	})
	return names, err
}

// commit makes the names of a look durable, and with them the sizes that have become
// smaller.
func (d *disk) commit(names map[string]entry, seen int) {
	if seen <= d.named {
		return
	}
	d.names, d.named = names, seen
	there := make(map[inode]bool, len(names))
	for _, e := range names {
		there[e.id] = true
		if p := d.files[e.id]; int64(len(p)) > e.size && !e.dir {
			d.files[e.id] = p[:e.size]
		}
	}
	for id := range d.files {
		if !there[id] {
			delete(d.files, id) // its number may be another file's soon
			delete(d.read, id)
		}
	}
}

// put makes the bytes of a file at a look durable.
func (d *disk) put(id inode, p []byte, seen int) {
	if seen > d.read[id] {
		d.files[id], d.read[id] = p, seen
	}
}

// patch makes bytes of a file at an offset durable.
func (d *disk) patch(id inode, p []byte, at int64) {
	was := d.files[id]
	if need := at + int64(len(p)); int64(len(was)) < need {
		was = append(was, make([]byte, need-int64(len(was)))...)
	}
	copy(was[at:], p)
	d.files[id] = was
}

func (d *disk) stats() Stats {
	s := Stats{Syncs: d.syncs}
	for _, e := range d.names {
		if !e.dir {
			s.Files++
			s.Bytes += int64(len(d.files[e.id]))
		}
	}
	return s
}

// write puts what is on the disk into a directory.
func (d *disk) write(to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	for rel, e := range d.names {
		path := filepath.Join(to, rel)
		if e.dir {
			if err := os.MkdirAll(path, 0o700); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, d.files[e.id], e.perm|0o600); err != nil {
			return fmt.Errorf("write what is left of %s: %w", rel, err)
		}
	}
	return nil
}

package dataset

import (
	"encoding/json"
	"fmt"
)

// ManifestSchema is the version of the manifest that this program writes.
const ManifestSchema = 1

// maxManifest bounds the bytes of a manifest: about 300,000 batches.
const maxManifest = 32 << 20

// Object names stored bytes by content.
type Object struct {
	Digest string `json:"digest"` // SHA-256 of the bytes, 64 lower-case hexadecimal digits
	Size   int64  `json:"size"`   // bytes
}

// Manifest describes a stored data set: what its images are and which object
// holds which batch.
type Manifest struct {
	Schema    int      `json:"schema_version"`
	Name      string   `json:"name"`
	Batches   int      `json:"batches"`
	BatchSize int      `json:"batch_size"` // images in every batch but perhaps the last
	Images    int      `json:"images"`
	Shape     []int    `json:"shape"` // of one image, for example [1, 28, 28]
	DType     string   `json:"dtype"` // U8 or F32
	Classes   []string `json:"classes"`
	Source    string   `json:"source"`
	Licence   string   `json:"licence"`
	Objects   []Object `json:"objects"` // batch i (from 1) is Objects[i-1]
}

// Marshal writes the manifest as JSON. Equal manifests give equal bytes.
func (m *Manifest) Marshal() []byte {
	p, _ := json.Marshal(m) // strings, ints and slices of them always marshal
	return p
}

// ParseManifest reads and checks a manifest; unknown fields are ignored so that
// a later program may add some. The error wraps ErrFormat or ErrTooLarge.
func ParseManifest(p []byte) (*Manifest, error) {
	if len(p) > maxManifest {
		return nil, fmt.Errorf("read manifest: %d bytes, at most %d: %w", len(p), maxManifest, ErrTooLarge)
	}
	m := &Manifest{}
	if err := json.Unmarshal(p, m); err != nil {
		return nil, fmt.Errorf("read manifest: %w: %w", err, ErrFormat)
	}
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	return m, nil
}

// Check says whether the manifest's numbers agree with each other; the error
// wraps ErrFormat or ErrTooLarge.
func (m *Manifest) Check() error {
	if m.Schema != ManifestSchema {
		return fmt.Errorf("schema_version %d, this program reads %d: %w", m.Schema, ManifestSchema, ErrFormat)
	}
	if m.Name == "" || len(m.Name) > 200 {
		return fmt.Errorf("name of %d bytes, expected 1 to 200: %w", len(m.Name), ErrFormat)
	}
	if m.DType != U8 && m.DType != F32 {
		return fmt.Errorf("dtype %.20q, expected U8 or F32: %w", m.DType, ErrFormat)
	}
	if m.BatchSize < 1 || m.Images < 1 || m.Batches != len(m.Objects) || m.Batches != (m.Images-1)/m.BatchSize+1 {
		return fmt.Errorf("%d images in batches of %d do not make %d batches in %d objects: %w",
			m.Images, m.BatchSize, m.Batches, len(m.Objects), ErrFormat)
	}
	// One batch has to fit in memory, so its shape is what must stay small.
	if len(m.Shape) >= maxRank {
		return fmt.Errorf("image of %d dimensions, at most %d: %w", len(m.Shape), maxRank-1, ErrFormat)
	}
	batch := append([]int{min(m.BatchSize, m.Images)}, m.Shape...)
	if _, err := byteSize(batch, m.DType); err != nil {
		return fmt.Errorf("a batch of %v: %w", batch, err)
	}
	for i, o := range m.Objects {
		if !isDigest(o.Digest) || o.Size < 1 {
			return fmt.Errorf("object %d: digest %.80q, size %d: %w", i+1, o.Digest, o.Size, ErrFormat)
		}
	}
	return nil
}

// isDigest reports whether s is 64 lower-case hexadecimal digits.
func isDigest(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"idunno/broker/wire"
	"idunno/coordinator/sched"
	"idunno/objectstore"
)

const (
	// manifestHead is how much of a data set's description says what its images are:
	// the long parts, names of classes and batches, come behind.
	manifestHead = 4 << 10
	// maxShapes bounds the sets whose shapes are remembered.
	maxShapes = 100
)

// setShape is what the coordinator has to know of a data set to group its images
// anew; what they are is the workers' business.
type setShape struct {
	Images    int    `json:"images"`
	BatchSize int    `json:"batch_size"`
	Shape     []int  `json:"shape"`
	DType     string `json:"dtype"`
}

// imageBytes is about the size of an image: an element has one byte or four.
func (s *setShape) imageBytes() float64 {
	n := 4.0
	if s.DType == "U8" {
		n = 1
	}
	for _, d := range s.Shape {
		n *= float64(d)
	}
	return n
}

// shapes remembers the shapes of data sets, by digest.
type shapes struct {
	mu    sync.Mutex
	known map[string]setShape
}

// batchSize is the images in a batch that a document asks for, or that its model has
// by the cluster's settings; 0 for as stored.
func (l *leader) batchSize(doc wire.JobDoc) int {
	if doc.BatchSize > 0 || doc.Training() {
		return doc.BatchSize
	}
	model, _, _ := strings.Cut(doc.Model, "@")
	return l.settings.Load().BatchSizes[model]
}

// regroup returns how many batches of the given size a data set has, and the size: 0
// when that is the stored one.
func (c *coordinator) regroup(ctx context.Context, doc wire.JobDoc, data objectstore.Version, size int) (batches, batchSize int, err error) {
	shape, err := c.shapeOf(ctx, data)
	if err != nil {
		return 0, 0, err
	}
	refuse := func(format string, args ...any) error {
		return &wire.Error{Code: wire.CodeBadRange, Field: "batch_size", Message: "batch_size " + fmt.Sprintf(format, args...)}
	}
	if shape.Images < 1 || shape.BatchSize < 1 || (shape.Images-1)/shape.BatchSize+1 != data.Parts {
		return 0, 0, refuse("can't be chosen for %s, which doesn't say how many images its batches have; allowed: none", doc.Data)
	}
	if size == shape.BatchSize {
		return data.Parts, 0, nil
	}
	most := min(sched.MaxBatchImages, int(max(wire.MaxRegrouped/max(shape.imageBytes(), 1), 1)))
	if size > most {
		return 0, 0, refuse("is %d; allowed for %s: 1 to %d images", size, doc.Data, most)
	}
	return (shape.Images-1)/size + 1, size, nil
}

// shapeOf reads the shape of a data set.
func (c *coordinator) shapeOf(ctx context.Context, data objectstore.Version) (setShape, error) {
	c.shapes.mu.Lock()
	shape, ok := c.shapes.known[data.Digest]
	c.shapes.mu.Unlock()
	if ok {
		return shape, nil
	}
	shape, err := c.readShape(ctx, data.Digest)
	if errors.Is(err, objectstore.ErrCorrupt) || errors.Is(err, objectstore.ErrNotFound) {
		return shape, &wire.Error{Code: wire.CodeUnknownData, Field: "data", Message: fmt.Sprintf("data set can't be read (%v); allowed: one that is whole", err)}
	}
	if err != nil {
		return shape, fmt.Errorf("read data set: %w", err)
	}
	c.shapes.mu.Lock()
	defer c.shapes.mu.Unlock()
	if len(c.shapes.known) >= maxShapes || c.shapes.known == nil {
		c.shapes.known = make(map[string]setShape)
	}
	c.shapes.known[data.Digest] = shape
	return shape, nil
}

// readShape reads the shape of a data set from the beginning of its description, or
// from all of it when somebody wrote it in another order.
func (c *coordinator) readShape(ctx context.Context, digest string) (setShape, error) {
	head, err := c.files.ReadHead(ctx, digest, manifestHead)
	if err != nil {
		return setShape{}, err
	}
	shape, whole := shapeIn(head)
	if !whole && len(head) == manifestHead {
		if head, err = c.files.ReadHead(ctx, digest, objectstore.MaxManifest); err != nil {
			return setShape{}, err
		}
		shape, whole = shapeIn(head)
	}
	if !whole {
		return setShape{}, nil // it isn't one
	}
	return shape, nil
}

// shapeIn reads a shape from the beginning of a description; false when it isn't all
// there.
func shapeIn(head []byte) (s setShape, whole bool) {
	d := json.NewDecoder(bytes.NewReader(head))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return s, false
	}
	for s.Images == 0 || s.BatchSize == 0 || s.Shape == nil || s.DType == "" {
		name, err := d.Token()
		if err != nil {
			return s, false
		}
		var to any = new(json.RawMessage)
		switch name {
		case "images":
			to = &s.Images
		case "batch_size":
			to = &s.BatchSize
		case "shape":
			to = &s.Shape
		case "dtype":
			to = &s.DType
		}
		if d.Decode(to) != nil {
			return s, false
		}
	}
	return s, true
}

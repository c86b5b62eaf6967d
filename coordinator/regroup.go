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
	// maxSetFile is the largest description of a data set, in bytes, that is read.
	maxSetFile = 256 << 20
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
	if data.Size <= maxSetFile {
		var p bytes.Buffer
		_, err := c.files.ReadObject(ctx, data.Digest, &p)
		if errors.Is(err, objectstore.ErrCorrupt) || errors.Is(err, objectstore.ErrNotFound) {
			return shape, &wire.Error{Code: wire.CodeUnknownData, Field: "data", Message: fmt.Sprintf("data set can't be read (%v); allowed: one that is whole", err)}
		}
		if err != nil {
			return shape, fmt.Errorf("read data set: %w", err)
		}
		if json.Unmarshal(p.Bytes(), &shape) != nil {
			shape = setShape{} // it isn't one
		}
	}
	c.shapes.mu.Lock()
	defer c.shapes.mu.Unlock()
	if len(c.shapes.known) >= maxShapes || c.shapes.known == nil {
		c.shapes.known = make(map[string]setShape)
	}
	c.shapes.known[data.Digest] = shape
	return shape, nil
}

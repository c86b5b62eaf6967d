package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"idunno/broker/wire"
	"idunno/objectstore"
)

const (
	// manifestHead is how much of a data set's manifest says what its images are:
	// the long parts, names of classes and objects, come behind.
	manifestHead = 4 << 10
	// maxKnown bounds what is remembered of models and data sets.
	maxKnown = 512
)

// images are what a data set holds, or what a model can be fed with.
type images struct {
	Shape []int  `json:"shape"`
	DType string `json:"dtype"`
	card  *wire.Card
}

// known remembers, by digest, what models take and data sets hold.
type known struct {
	mu   sync.Mutex
	seen map[string]images
}

// fits refuses a query whose images the model can't be fed with. Models without a
// card, and data that can't be read, are left to the workers, which say what is wrong
// with them.
func (c *coordinator) fits(ctx context.Context, doc wire.JobDoc, r resolved) error {
	model, err := c.fitting.look(r.model.Digest, func() (images, error) { return c.modelTakes(ctx, r.model.Digest) })
	if err != nil || model.card == nil {
		return unlessDamaged(err)
	}
	data, err := c.fitting.look(r.data.Digest, func() (images, error) { return c.dataHolds(ctx, r.data.Digest) })
	if err != nil || data.DType == "" {
		return unlessDamaged(err)
	}
	if why := model.card.Fits(data.Shape, data.DType); why != "" {
		return &wire.Error{Code: wire.CodeBadData, Field: "data",
			Message: fmt.Sprintf("data %q does not fit model %q: %s; allowed: a data set of such images, see `idunno data ls` and `idunno model show %s`", doc.Data, doc.Model, why, doc.Model)}
	}
	return nil
}

// unlessDamaged passes on what may be better the next time.
func unlessDamaged(err error) error {
	if errors.Is(err, objectstore.ErrCorrupt) || errors.Is(err, objectstore.ErrNotFound) {
		return nil
	}
	return err
}

// look returns what is known of a digest, or learns it.
func (k *known) look(digest string, learn func() (images, error)) (images, error) {
	k.mu.Lock()
	i, ok := k.seen[digest]
	k.mu.Unlock()
	if ok {
		return i, nil
	}
	i, err := learn()
	if err != nil {
		return i, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.seen == nil || len(k.seen) >= maxKnown {
		k.seen = map[string]images{}
	}
	k.seen[digest] = i
	return i, nil
}

// modelTakes reads from a model's card what it takes.
func (c *coordinator) modelTakes(ctx context.Context, digest string) (images, error) {
	card, err := wire.CardFrom(func(n int) ([]byte, error) { return c.files.ReadHead(ctx, digest, n) })
	if errors.Is(err, wire.ErrCard) {
		return images{}, nil
	}
	if err != nil || card == nil {
		return images{}, err
	}
	return images{card: &wire.Card{Schema: card.Schema, Input: card.Input, Takes: card.Takes}}, nil
}

// dataHolds reads from a data set's manifest what its images are.
func (c *coordinator) dataHolds(ctx context.Context, digest string) (images, error) {
	head, err := c.files.ReadHead(ctx, digest, manifestHead)
	if err != nil {
		return images{}, err
	}
	return imagesOf(head), nil
}

// imagesOf reads shape and type from the beginning of a manifest; what isn't there
// stays empty.
func imagesOf(head []byte) (out images) {
	d := json.NewDecoder(bytes.NewReader(head))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return out
	}
	for out.Shape == nil || out.DType == "" {
		name, err := d.Token()
		if err != nil {
			return images{}
		}
		switch name {
		case "shape":
			err = d.Decode(&out.Shape)
		case "dtype":
			err = d.Decode(&out.DType)
		default:
			err = d.Decode(new(json.RawMessage))
		}
		if err != nil {
			return images{}
		}
	}
	return out
}

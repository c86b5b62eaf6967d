package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"idunno/broker/wire"
	"idunno/objectstore"
)

// cards remembers by digest what models take; nil for those that don't say.
type cards struct {
	mu    sync.Mutex
	known map[string]*wire.Card
}

// maxCards bounds the models that are remembered.
const maxCards = 500

// fits refuses a query whose images the model can't be fed with. Models without a
// card, and data sets that are none, are left to the workers, which say what is wrong
// with them.
func (c *coordinator) fits(ctx context.Context, doc wire.JobDoc, r resolved) error {
	card, err := c.cardOf(ctx, r.model.Digest)
	if err != nil || card == nil {
		return err
	}
	data, err := c.shapeOf(ctx, r.data)
	if err != nil || data.DType == "" {
		return err
	}
	if why := card.Fits(data.Shape, data.DType); why != "" {
		return &wire.Error{Code: wire.CodeBadData, Field: "data",
			Message: fmt.Sprintf("data %q does not fit model %q: %s; allowed: a data set of such images, see `idunno data ls` and `idunno model show %s`", doc.Data, doc.Model, why, doc.Model)}
	}
	return nil
}

// cardOf reads from a model's card what the model takes, nil when it has none.
func (c *coordinator) cardOf(ctx context.Context, digest string) (*wire.Card, error) {
	c.cards.mu.Lock()
	card, ok := c.cards.known[digest]
	c.cards.mu.Unlock()
	if ok {
		return card, nil
	}
	card, err := wire.CardFrom(func(n int) ([]byte, error) { return c.files.ReadHead(ctx, digest, n) })
	switch {
	case errors.Is(err, objectstore.ErrCorrupt), errors.Is(err, objectstore.ErrNotFound):
		return nil, nil // the workers will say so; putting it again may heal it
	case errors.Is(err, wire.ErrCard):
		card = nil
	case err != nil:
		return nil, fmt.Errorf("read the model's card: %w", err)
	}
	if card != nil {
		card = &wire.Card{Schema: card.Schema, Input: card.Input, Takes: card.Takes} // without the long parts
	}
	c.cards.mu.Lock()
	defer c.cards.mu.Unlock()
	if len(c.cards.known) >= maxCards || c.cards.known == nil {
		c.cards.known = make(map[string]*wire.Card)
	}
	c.cards.known[digest] = card
	return card, nil
}

package cluster

import (
	"context"
	"fmt"

	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
	"idunno/objectstore"
)

// Describe fills in what a model itself tells of its card: what it takes, unless the
// card says so, and what it gives. It returns an error when the card contradicts the
// model.
func Describe(m *models.Model, c wire.Card) (wire.Card, error) {
	info := m.Info()
	c.Schema, c.Takes, c.Output = wire.CardSchema, m.Takes(), info.Output
	c.Outputs = info.Classes
	if c.Input == nil {
		c.Input = m.Image()
	}
	for _, d := range c.Input {
		if d < 0 {
			return c, c.Check() // open sizes: only the images tell
		}
	}
	if c.Input != nil && len(c.Takes) > 0 {
		if err := m.Check(c.Input, c.Takes[0]); err != nil {
			return c, fmt.Errorf("input %v: %w", c.Input, err)
		}
	}
	return c, c.Check()
}

// Card reads the card of a stored model by the model's digest; nil when it has none.
// The error wraps wire.ErrCard or is the store's.
func Card(ctx context.Context, store *objectstore.Store, digest string) (*wire.Card, error) {
	return wire.CardFrom(func(n int) ([]byte, error) { return store.ReadHead(ctx, digest, n) })
}

// ClassNames are the names of the classes that a job's results speak of, by the digest of
// its model and the description of its data set: class i is called by the i-th. Those of
// predictions are the model's, by its card, those of labels the data set's; where one
// names none they are the other's, and nil when neither does.
func ClassNames(ctx context.Context, store *objectstore.Store, modelDigest string, data *dataset.Manifest) (predictions, labels []string, err error) {
	c, err := Card(ctx, store, modelDigest)
	if err != nil {
		return nil, nil, fmt.Errorf("names of classes: %w", err)
	}
	if len(data.Classes) > 0 {
		predictions, labels = data.Classes, data.Classes
	}
	if c != nil && len(c.Classes) > 0 {
		predictions = c.Classes
		if labels == nil {
			labels = c.Classes
		}
	}
	return predictions, labels, nil
}

package worker

import (
	"fmt"

	"idunno/broker/wire"
	"idunno/models"
	"idunno/models/dataset"
)

// LoadModel loads a model with the preprocessing that its card says.
func LoadModel(onnx []byte, o models.Options) (*models.Model, error) {
	card, err := wire.ReadCard(onnx)
	if err != nil {
		return nil, err
	}
	if card != nil && card.Preprocess != nil {
		o.Preprocess = &models.Preprocess{Scale: card.Preprocess.Scale, Mean: card.Preprocess.Mean, Std: card.Preprocess.Std}
	}
	return models.Load(onnx, o)
}

// TrainedCard puts the card of a model into it that was trained here on a set.
func TrainedCard(onnx []byte, set *dataset.Set) ([]byte, error) {
	m, err := models.Load(onnx, models.Options{})
	if err != nil {
		return nil, fmt.Errorf("load trained model: %w", err)
	}
	info := m.Info()
	card := wire.Card{Input: set.Shape, Takes: m.Takes(), Outputs: info.Classes, Output: info.Output, Metric: "accuracy",
		Source: "trained by iDunno on data set " + set.Name}
	if len(set.Classes) == info.Classes {
		card.Classes = set.Classes
	}
	return wire.WithCard(onnx, card)
}

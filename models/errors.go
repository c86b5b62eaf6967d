package models

import (
	"errors"

	"idunno/models/engine"
	"idunno/models/onnx"
)

var (
	// ErrMalformed is returned by Load when the bytes are not an ONNX model or contradict themselves.
	ErrMalformed = onnx.ErrMalformed
	// ErrUnsupported is returned by Load when the model uses an operator or a feature that is not implemented; the text names it.
	ErrUnsupported = engine.ErrUnsupported
	// ErrTooLarge is returned when a model or a run would exceed a limit of Options.
	ErrTooLarge = errors.New("too large")
	// ErrNotClassifier is returned by Load, or by Predict where only a run can tell, when the model does not map images to classes.
	ErrNotClassifier = errors.New("not an image classifier")
	// ErrNoProbabilities is returned when probabilities are asked for of a model that gives none.
	ErrNoProbabilities = errors.New("model gives no probabilities")
	// ErrInput is returned by Check and Predict when the images do not fit the model.
	ErrInput = errors.New("images do not fit the model")
	// ErrResult is returned by Predict when the model gives no usable numbers, as NaN.
	ErrResult = errors.New("model gives no usable result")
)

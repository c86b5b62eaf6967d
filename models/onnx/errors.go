package onnx

import "errors"

var (
	// ErrMalformed is returned when the bytes are not an ONNX model or contradict themselves.
	ErrMalformed = errors.New("not a valid onnx model")
	// ErrTooLarge is returned when a model or a part of it exceeds a limit.
	ErrTooLarge = errors.New("onnx model exceeds a limit")
	// ErrUnsupported is returned when the model is valid but uses a part of the format that is not read, as external data.
	ErrUnsupported = errors.New("onnx model uses an unsupported feature")
	// ErrStrings is returned, together with ErrUnsupported, for tensors of strings.
	ErrStrings = errors.New("tensor of strings")
)

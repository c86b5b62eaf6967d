package suite

import (
	"errors"

	"idunno/models/engine"
	"idunno/models/onnx"
)

// The kinds of failures that have no reason of their own.
const (
	Different   = "different result"
	Unsupported = "not implemented"
	Failed      = "failed"
)

// Why says in a few words why a case failed, the same words for the same reason: what the model needs that is left out on purpose, as
// "strings", or one of the constants here. It is empty without an error.
func Why(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrMismatch):
		return Different
	case errors.Is(err, onnx.ErrStrings):
		return "strings"
	}
	if why := engine.Why(err); why != "" {
		return why
	}
	if errors.Is(err, engine.ErrUnsupported) || errors.Is(err, onnx.ErrUnsupported) {
		return Unsupported
	}
	return Failed
}

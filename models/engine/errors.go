package engine

import (
	"errors"

	"idunno/models/internal/ops"
)

var (
	// ErrUnsupported is returned by Compile when an operator, its version or an attribute of it is not implemented.
	ErrUnsupported = ops.ErrUnsupported
	// ErrTooLarge is returned when a tensor would exceed the memory limit.
	ErrTooLarge = errors.New("memory limit exceeded")
	// ErrShapeUnknown is returned by Plan when a shape depends on computed values.
	ErrShapeUnknown = errors.New("shapes are known only while the model runs")
)

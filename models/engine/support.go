package engine

import (
	"errors"

	"idunno/models/internal/ops"
)

// Support is what is implemented of an operator.
type Support = ops.Support

// Operators lists the operators that a model may use, sorted by domain, ONNX's own first, and name.
func Operators() []Support { return ops.NewTable().Support() }

// Why gives the reason, in a word or two, for which what an error names is left out on purpose, as "strings" or "training"; "" when there is
// none.
func Why(err error) string {
	var r *ops.Reason
	if errors.As(err, &r) {
		return r.Kind
	}
	return ""
}

package suite

import "errors"

// ErrMismatch is returned when a model runs but gives something else than expected.
var ErrMismatch = errors.New("result differs")

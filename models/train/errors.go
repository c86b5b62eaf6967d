package train

import "errors"

var (
	// ErrConfig is returned when a Config asks for what cannot be done; the text
	// names the field.
	ErrConfig = errors.New("unusable training configuration")
	// ErrData is returned when a data set cannot be trained on: no labels, too
	// few images, images too small for the network.
	ErrData = errors.New("data set cannot be trained on")
	// ErrDiverged is returned when the loss is no longer a number.
	ErrDiverged = errors.New("training diverged")
)

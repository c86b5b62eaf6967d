package ops

import (
	"fmt"
	"slices"
	"strings"

	"idunno/models/onnx"
)

// Reason says why something of ONNX is left out on purpose. Errors with one wrap ErrUnsupported too.
type Reason struct {
	Kind string // a few words that refusals with the same reason share, as "strings"
	Text string // what to do instead
}

func (r *Reason) Error() string { return r.Text }

// The reasons. What is not among them is left out because nobody has needed it.
var (
	noTraining  = &Reason{"training", "operators for training are left out; export the model for inference"}
	noMaps      = &Reason{"maps", "maps are left out: turn them into rows of numbers before the model"}
	noZipMap    = &Reason{"maps", `maps are left out; export with the option zipmap=False (skl2onnx: options={"zipmap": False})`}
	noStrings   = &Reason{"strings", "strings are left out: prepare them before the model"}
	noNames     = &Reason{"strings", "strings are left out: train with integers as classes"}
	noSequences = &Reason{"sequences", "sequences are left out: every value is one dense tensor"}
	noOptional  = &Reason{"optional values", "optional values are left out: every value is one dense tensor"}
	noRandom    = &Reason{"random numbers", "random numbers are left out: equal batches must give equal results"}
	noSpectra   = &Reason{"spectra", "spectra are left out: compute them before the model"}
)

// reason says why an operator of ONNX's own domains is not here; nil when it is not for a reason.
func reason(domain, op string) *Reason {
	switch domain {
	case "ai.onnx.preview.training", "ai.onnx.training":
		return noTraining
	case domainML:
		switch op {
		case "ZipMap":
			return noZipMap
		case "DictVectorizer", "CastMap":
			return noMaps
		case "CategoryMapper":
			return noNames
		}
		return nil
	case "":
	default:
		return nil
	}
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(op, p) })
	}
	switch {
	case has("Sequence"):
		return noSequences
	case has("Optional"):
		return noOptional
	case has("String", "Regex", "TfIdf"):
		return noStrings
	case has("Random", "Bernoulli", "Multinomial"):
		return noRandom
	case op == "DFT" || op == "STFT" || op == "MelWeightMatrix":
		return noSpectra
	}
	return nil
}

// CheckInput refuses an input of a model that is no dense tensor of numbers.
func CheckInput(v onnx.Value) error {
	if v.DType.IsFloat() || v.DType.IsInt() {
		return nil
	}
	err := fmt.Errorf("%w: input %s", ErrUnsupported, v)
	switch {
	case v.DType == onnx.String:
		return fmt.Errorf("%w; %w", err, noStrings)
	case v.Other == "sequence":
		return fmt.Errorf("%w; %w", err, noSequences)
	case v.Other == "optional value":
		return fmt.Errorf("%w; %w", err, noOptional)
	case v.Other == "map":
		return fmt.Errorf("%w; %w", err, noMaps)
	}
	return err
}

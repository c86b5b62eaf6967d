package ops

import "strings"

// reason says why an operator of ONNX's own domains is not here, where it is more than that nobody has needed it.
func reason(domain, op string) string {
	if domain == "ai.onnx.preview.training" || domain == "ai.onnx.training" {
		return "operators for training are left out; export the model for inference"
	}
	if domain != "" {
		return ""
	}
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(op, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("Sequence"):
		return "sequences are left out: every value is one dense tensor"
	case has("Optional"):
		return "optional values are left out: every value is one dense tensor"
	case has("String", "Regex", "TfIdf"):
		return "strings are left out: prepare them before the model"
	case op == "If" || op == "Loop" || op == "Scan":
		return "graphs inside of nodes are left out; export the model with its control flow unrolled"
	case has("Random", "Bernoulli", "Multinomial"):
		return "random numbers are left out: equal batches must give equal results"
	case op == "DFT" || op == "STFT" || op == "MelWeightMatrix":
		return "spectra are left out: compute them before the model"
	}
	return ""
}

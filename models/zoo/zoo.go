// Package zoo holds the two models that iDunno brings along, trained on MNIST's
// first 49,000 training images: "mlp", a multilayer perceptron 784-512-512-10, and
// "cnn", a convolutional network. Both are standard ONNX files; README.md says how
// they were made and how good they are.
//
// It holds bytes only: package models runs them, package train makes others.
package zoo

import _ "embed"

//go:embed mlp.onnx
var mlp string

//go:embed cnn.onnx
var cnn string

// MLP is the multilayer perceptron as an ONNX file, the caller's own copy: input
// "input" [N, 784], output "logits" [N, 10].
func MLP() []byte { return []byte(mlp) }

// CNN is the convolutional network as an ONNX file, the caller's own copy: input
// "input" [N, 1, 28, 28], output "logits" [N, 10].
func CNN() []byte { return []byte(cnn) }

// Names lists the models in the order in which they are shown.
func Names() []string { return []string{"mlp", "cnn"} }

// Model is the ONNX file of the model with one of the Names; ok says whether there
// is such a model.
func Model(name string) (p []byte, ok bool) {
	switch name {
	case "mlp":
		return MLP(), true
	case "cnn":
		return CNN(), true
	}
	return nil, false
}

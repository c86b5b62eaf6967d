package models

import "idunno/models/onnx"

// learned tells what the scores of a classifier of domain ai.onnx.ml are, from its last operator.
func learned(n *onnx.Node) Kind {
	post := n.Attrs["post_transform"].S
	switch n.Op {
	case "Normalizer":
		if n.Attrs["norm"].S == "L1" {
			return Probabilities // as skl2onnx ends classifiers
		}
	case "TreeEnsembleClassifier": // without a transformation the leaves have shares
		return Probabilities
	case "SVMClassifier":
		if len(n.Attrs["prob_a"].Floats) > 0 {
			return Probabilities
		}
	case "LinearClassifier":
		switch post {
		case "SOFTMAX", "LOGISTIC":
			return Probabilities
		}
		return Logits
	}
	return Raw
}

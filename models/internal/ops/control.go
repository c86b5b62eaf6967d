package ops

import "errors"

// controlTable lists the operators that run graphs of their own. Package engine builds and runs them; here is what they have in common with
// the others.
func controlTable() map[string]spec {
	build := func(*Node, *attrs) (Op, error) {
		return nil, errors.New("a graph inside of a node is the engine's affair")
	}
	return map[string]spec{
		"If":   {since: 1, in: 1, max: many, outs: many, build: build},
		"Loop": {since: 1, in: 0, max: many, outs: many, build: build},
		"Scan": {since: 9, in: 1, max: many, outs: many, build: build},
	}
}

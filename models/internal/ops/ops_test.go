package ops

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"idunno/models/onnx"
)

// The list that chooses the cases of the backend suite must be the list of operators, so that a new operator gets its cases.
func TestOperatorListIsComplete(t *testing.T) {
	raw, err := os.ReadFile("../../_gen/backendsuite/operators.txt")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for line := range strings.Lines(string(raw)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			listed = append(listed, line)
		}
	}
	if names := NewTable().Names(); !slices.Equal(names, listed) {
		t.Errorf("operators.txt has\n%v\nthe table has\n%v", listed, names)
	}
}

// What is left out on purpose says why; what is here or unknown has no reason to give.
func TestReasons(t *testing.T) {
	for _, c := range []struct{ domain, op, want string }{
		{"", "SequenceAt", "sequences"}, {"", "OptionalGetElement", "optional"}, {"", "StringNormalizer", "strings"},
		{"ai.onnx.ml", "ZipMap", "zipmap=False"}, {"", "RandomNormalLike", "random"}, {"", "STFT", "spectra"},
		{"ai.onnx.preview.training", "Adam", "training"}, {"", "Rulu", ""}, {"com.example", "StringJoin", ""},
	} {
		_, err := NewTable().New(&Node{Node: &onnx.Node{Op: c.op, Domain: c.domain}, Opset: 17})
		if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), c.want) || c.want == "" && strings.Contains(err.Error(), ";") {
			t.Errorf("%s.%s: %v", c.domain, c.op, err)
		}
	}
}

func TestCutAxisFollowsPython(t *testing.T) {
	for _, c := range []struct {
		start, end, step, dim int64
		first, n              int
	}{
		{0, 3, 1, 5, 0, 3}, {-2, 1 << 62, 1, 5, 3, 2}, {4, -100, -1, 5, 4, 5}, {-1, -4, -2, 5, 4, 2},
		{3, 3, 1, 5, 3, 0}, {7, 9, 1, 5, 5, 0}, {0, 5, 1 << 40, 5, 0, 1}, {1, 5, 3, 5, 1, 2}, {0, 5, 1, 0, 0, 0},
	} {
		got := cutAxis(c.start, c.end, c.step, c.dim)
		if got.n != c.n || c.n > 0 && got.first != c.first {
			t.Errorf("[%d:%d:%d] of %d is %+v, want first %d and %d elements", c.start, c.end, c.step, c.dim, got, c.first, c.n)
		}
	}
}

func TestBroadcast(t *testing.T) {
	for _, c := range []struct{ a, b, want []int }{
		{[]int{2, 3}, []int{3}, []int{2, 3}}, {[]int{2, 1}, []int{1, 4}, []int{2, 4}}, {nil, []int{5}, []int{5}},
		{[]int{0}, []int{1}, []int{0}}, {[]int{2}, []int{3}, nil},
	} {
		got, err := broadcast(nil, c.a, c.b)
		if (err != nil) != (c.want == nil) || !slices.Equal(got, c.want) {
			t.Errorf("%v and %v give %v, %v", c.a, c.b, got, err)
		}
	}
}

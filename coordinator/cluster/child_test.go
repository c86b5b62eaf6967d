package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestCoresAreShared(t *testing.T) {
	for _, c := range []struct {
		cores, workers int
		want           []int
	}{{2, 3, []int{1, 1, 1}}, {8, 3, []int{3, 3, 2}}, {4, 4, []int{1, 1, 1, 1}}, {1, 1, []int{1}}, {7, 2, []int{4, 3}}} {
		if got := split(c.cores, c.workers); !slices.Equal(got, c.want) {
			t.Errorf("%d cores over %d workers: %v, want %v", c.cores, c.workers, got, c.want)
		}
	}
}

func TestLastWords(t *testing.T) {
	for _, c := range []struct {
		tail   []string
		killed bool
		want   string
	}{
		{nil, false, ""}, {nil, true, ""},
		{[]string{"job 1: 5 batches"}, true, ""}, // it says nothing about its end
		{[]string{"job 1: 5 batches", "exit"}, false, "exit"},
		{[]string{"idunno: disk full", "See `idunno --help`."}, false, "disk full"},
		{[]string{"idunno: worse", "idunno: worst", "x"}, true, "worst"},
	} {
		if got := lastWords(c.tail, c.killed); got != c.want {
			t.Errorf("%q, killed %v: %q, want %q", c.tail, c.killed, got, c.want)
		}
	}
}

func TestLinesAreCutAndBounded(t *testing.T) {
	var got []string
	l := &lines{emit: func(s string) { got = append(got, s) }}
	for _, part := range []string{"one\ntw", "o\n", "", "\nthree"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("write %q: %d, %v", part, n, err)
		}
	}
	if want := []string{"one", "two", ""}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	for range 3 {
		fmt.Fprint(l, strings.Repeat("x", maxLine))
	}
	fmt.Fprintln(l)
	if n := len(got[3]); n != maxLine {
		t.Fatalf("a line without end is kept with %d bytes, want %d", n, maxLine)
	}
}

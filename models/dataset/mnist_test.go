package dataset

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

func TestMNISTTest(t *testing.T) {
	s, err := MNISTTest()
	if err != nil {
		t.Fatal(err)
	}
	if s.Len() != MNISTTestImages || s.Batches(100) != 210 || s.Name != "mnist" || s.DType != U8 ||
		!reflect.DeepEqual(s.Shape, []int{1, 28, 28}) || len(s.Classes) != 10 || s.Source == "" || s.Licence == "" {
		t.Fatalf("%d images, %d batches, %s %s %v %v", s.Len(), s.Batches(100), s.Name, s.DType, s.Shape, s.Classes)
	}
	// The counts of the digits in the official test file are published.
	var official, all [10]int
	for i, y := range s.Y {
		all[y]++
		if i < 10000 {
			official[y]++
		}
	}
	if want := [10]int{980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009}; official != want {
		t.Errorf("digits of the first 10,000 images: %v, expected %v", official, want)
	}
	for d, n := range all {
		if n < 1800 || n > 2500 {
			t.Errorf("%d images of digit %d", n, d)
		}
	}
	if first := s.Y[:10]; !reflect.DeepEqual(first, []int32{7, 2, 1, 0, 4, 1, 4, 9, 5, 9}) {
		t.Errorf("first labels %v", first)
	}
	last, err := s.Batch(210, 100)
	if err != nil {
		t.Fatal(err)
	}
	if err := last.Check(); err != nil || last.Len() != 100 || &last.X[0] != &s.X[20900*784] || last.Y[99] != s.Y[20999] {
		t.Errorf("last batch: %d images, %v", last.Len(), err)
	}
}

func TestSetBatches(t *testing.T) {
	s := &Set{Name: "small", X: []byte("abcdefghij"), DType: U8, Shape: []int{2}, Y: []int32{0, 1, 2, 3, 4}}
	for _, c := range []struct {
		i, size int
		x       string
		y       []int32
	}{
		{1, 2, "abcd", []int32{0, 1}},
		{3, 2, "ij", []int32{4}},
		{1, 5, "abcdefghij", []int32{0, 1, 2, 3, 4}},
		{1, 99, "abcdefghij", []int32{0, 1, 2, 3, 4}},
		{5, 1, "ij", []int32{4}},
	} {
		b, err := s.Batch(c.i, c.size)
		if err != nil {
			t.Errorf("batch %d of %d: %v", c.i, c.size, err)
			continue
		}
		if string(b.X) != c.x || !reflect.DeepEqual(b.Y, c.y) || !reflect.DeepEqual(b.Shape, []int{len(c.y), 2}) || b.Check() != nil {
			t.Errorf("batch %d of %d: %+v", c.i, c.size, b)
		}
	}
	for _, c := range [][2]int{{0, 2}, {4, 2}, {-1, 2}, {1, 0}, {1, -5}} {
		if _, err := s.Batch(c[0], c[1]); !errors.Is(err, ErrRange) {
			t.Errorf("batch %d of %d: %v", c[0], c[1], err)
		}
	}
	for name, broken := range map[string]*Set{
		"labels missing":  {X: s.X, DType: U8, Shape: s.Shape, Y: s.Y[:4]},
		"half an image":   {X: s.X[:9], DType: U8, Shape: s.Shape, Y: s.Y},
		"integer images":  {X: s.X[:8], DType: "I32", Shape: []int{1}, Y: s.Y[:2]},
		"label not named": {X: s.X, DType: U8, Shape: s.Shape, Y: s.Y, Classes: []string{"a", "b"}},
		"label negative":  {X: s.X[:2], DType: U8, Shape: s.Shape, Y: []int32{-1}},
	} {
		if err := broken.Check(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := broken.Batch(1, 5); strings.Contains(name, "label ") == (err != nil) {
			t.Errorf("%s: batch with %v", name, err)
		}
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
	s.Y = nil
	if b, err := s.Batch(2, 3); err != nil || b.Y != nil || b.Len() != 2 {
		t.Errorf("without labels: %+v, %v", b, err)
	}
	if none := (&Set{}); none.Len() != 0 || none.Batches(10) != 0 {
		t.Error("the zero set is not empty")
	}
}

func TestDamagedProgramFile(t *testing.T) {
	const limit = MNISTTestImages * 785
	head := packedHeader - 32 // of the checksum
	flip := func(i int) string { return mnistTest[:i] + string(mnistTest[i]^1) + mnistTest[i+1:] }
	for name, p := range map[string]string{
		"empty":             "",
		"another file":      strings.Repeat("x", 1000),
		"version":           flip(8),
		"count":             flip(12),
		"columns":           flip(20),
		"checksum":          flip(head),
		"first bytes":       flip(packedHeader + 2),
		"in the middle":     flip(len(mnistTest) / 2),
		"cut":               mnistTest[:len(mnistTest)/2],
		"huge announcement": mnistTest[:9] + "\x7f\xff\xff\xff\x00\x00\x00\x01\x00\x00\x00\x01" + mnistTest[21:],
		"overflow":          mnistTest[:9] + strings.Repeat("\xff", 12) + mnistTest[21:],
	} {
		if _, err := unpack(p, limit); !errors.Is(err, ErrFormat) && !errors.Is(err, ErrChecksum) && !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := unpack(mnistTest, limit-1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("one byte more than allowed: %v", err)
	}
}

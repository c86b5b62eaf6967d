package wire_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"idunno/broker/wire"
)

func TestCardTravelsInTheModel(t *testing.T) {
	card := wire.Card{Schema: wire.CardSchema, Input: []int{3, -1, 224}, Takes: []string{"U8"}, Outputs: 2, Output: "logits", Classes: []string{"cat", "dög"},
		Preprocess: &wire.Preprocess{Scale: 1.0 / 255, Mean: []float64{0.5, 0.5, 0.5}, Std: []float64{0.25}}, Metric: "accuracy", Source: "here", Licence: "MIT"}
	for name, model := range map[string][]byte{
		"a model": {8, 10, 18, 3, 'f', 'o', 'o', 58, 2, 10, 0}, "one that begins otherwise": {18, 1, 'x'}, "empty": {},
		"other metadata": append([]byte{8, 10, 14<<3 | 2, 8, 10, 1, 'k', 18, 3, 'v', 'v', 'v'}, 18, 0),
	} {
		with, err := wire.WithCard(model, card)
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.ReadCard(with)
		if err != nil || !reflect.DeepEqual(*got, card) {
			t.Errorf("%s: read %+v, %v", name, got, err)
		}
		// Another card takes the place of the first.
		other := card
		other.Classes = []string{"a", "b"}
		again, err := wire.WithCard(with, other)
		direct, err2 := wire.WithCard(model, other)
		if err != nil || err2 != nil || !bytes.Equal(again, direct) {
			t.Errorf("%s: replacing a card gives other bytes than putting it in, %v, %v", name, err, err2)
		}
		if c, err := wire.ReadCard(model); c != nil || err != nil {
			t.Errorf("%s without a card: %+v, %v", name, c, err)
		}
		if rest := len(with) - len(model); rest > 0 && !bytes.HasSuffix(with, model[min(2, len(model)):]) {
			t.Errorf("%s: the model itself was changed", name)
		}
		for n := range with {
			if c, err := wire.ReadCard(with[:n]); err == nil && c != nil && n < len(with)-len(model) {
				t.Errorf("%s: a card from %d of %d bytes", name, n, len(with))
			}
		}
	}
}

func TestCardFromReadsMoreWhenItMust(t *testing.T) {
	names := slices.Repeat([]string{strings.Repeat("n", 150)}, 1000)
	model, err := wire.WithCard([]byte{8, 10}, wire.Card{Classes: names})
	if err != nil {
		t.Fatal(err)
	}
	var asked []int
	c, err := wire.CardFrom(func(n int) ([]byte, error) {
		asked = append(asked, n)
		return model[:min(n, len(model))], nil
	})
	if err != nil || len(c.Classes) != 1000 || len(asked) != 2 || asked[1] != wire.CardHead {
		t.Errorf("%d names after %v, %v", len(c.Classes), asked, err)
	}
}

func TestBadCards(t *testing.T) {
	nan := math.NaN()
	for name, c := range map[string]wire.Card{
		"rank":         {Input: make([]int, 9)},
		"no size":      {Input: []int{0}},
		"no name":      {Classes: []string{""}},
		"two lines":    {Classes: []string{"a\nb"}},
		"no text":      {Source: "\xff"},
		"escape":       {Metric: "\x1b[2J"},
		"names":        {Outputs: 3, Classes: []string{"a", "b"}},
		"scale":        {Preprocess: &wire.Preprocess{}},
		"mean":         {Preprocess: &wire.Preprocess{Scale: 1, Mean: []float64{nan}}},
		"std":          {Preprocess: &wire.Preprocess{Scale: 1, Std: []float64{0}}},
		"channels":     {Input: []int{3, 2, 2}, Preprocess: &wire.Preprocess{Scale: 1, Mean: []float64{1, 2}}},
		"flat":         {Input: []int{784}, Preprocess: &wire.Preprocess{Scale: 1, Mean: []float64{1, 2}}},
		"many names":   {Classes: slices.Repeat([]string{"x"}, 1<<16+1)},
		"long text":    {Licence: strings.Repeat("x", 2001)},
		"many letters": {Classes: slices.Repeat([]string{strings.Repeat("x", 200)}, 1<<16)},
	} {
		if _, err := wire.WithCard(nil, c); !errors.Is(err, wire.ErrCard) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFits(t *testing.T) {
	for _, c := range []struct {
		card  wire.Card
		shape []int
		dtype string
		fits  bool
	}{
		{wire.Card{}, []int{3, 32, 32}, "U8", true},
		{wire.Card{Input: []int{784}}, []int{1, 28, 28}, "U8", true},
		{wire.Card{Input: []int{1, 28, 28}}, []int{784}, "U8", true},
		{wire.Card{Input: []int{1, 28, 28}}, []int{3, 32, 32}, "U8", false},
		{wire.Card{Input: []int{3, -1, -1}}, []int{3, 32, 48}, "U8", true},
		{wire.Card{Input: []int{3, -1, -1}}, []int{1, 32, 48}, "U8", false},
		{wire.Card{Input: []int{3, -1, -1}}, []int{3, 32}, "U8", false},
		{wire.Card{Input: []int{4}, Takes: []string{"U8"}}, []int{4}, "F32", false},
		{wire.Card{Input: []int{4}, Takes: []string{"U8", "F32"}}, []int{4}, "F32", true},
		{wire.Card{Input: []int{4}}, []int{1 << 40, 1 << 40}, "U8", false},
	} {
		if why := c.card.Fits(c.shape, c.dtype); (why == "") != c.fits {
			t.Errorf("%v of %v for %+v: %q", c.dtype, c.shape, c.card, why)
		}
	}
	why := (&wire.Card{Input: []int{3, -1, -1}, Takes: []string{"U8"}}).Fits([]int{1, 28, 28}, "U8")
	if why != "the model takes images of U8 [3 ? ?], the data set has U8 [1 28 28]" {
		t.Errorf("said %q", why)
	}
}

func FuzzReadCard(f *testing.F) {
	p, _ := wire.WithCard([]byte{8, 10}, wire.Card{Input: []int{4}, Classes: []string{"a"}})
	f.Add(p)
	f.Fuzz(func(t *testing.T, p []byte) {
		c, err := wire.ReadCard(p)
		if err != nil && !errors.Is(err, wire.ErrCard) {
			t.Fatal(err)
		}
		if c == nil {
			return
		}
		again, err := wire.WithCard(p, *c)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := wire.ReadCard(again); err != nil || !reflect.DeepEqual(c, d) {
			t.Fatalf("%+v became %+v, %v", c, d, err)
		}
	})
}

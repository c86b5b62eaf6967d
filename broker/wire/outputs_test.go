package wire_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"idunno/broker/wire"
)

// outputResult is a result with outputs: a batch with classes, one without, and one
// without images.
func outputResult() *wire.Result {
	return &wire.Result{Schema: wire.Schema, Job: 3, Task: 2, From: 5, To: 7, Node: "w1", Attempt: 1, Started: time.Unix(1700000000, 5).UTC(),
		Batches: []wire.BatchResult{
			{Batch: 5, Images: 2, Labeled: true, Correct: 1, Nanos: 1000, Class: []int32{7, 1}, Prob: []float32{0.5, 0.25}, Labels: []int32{7, 2},
				Output: &wire.Output{Kind: wire.OutputsProbs, Shape: []int{3}}, Values: []float32{1, 2, 3, 4, 5, float32(math.Inf(1))}},
			{Batch: 6, Images: 2, Output: &wire.Output{Kind: wire.OutputsRaw, Shape: []int{1, 2}, Unscored: true}, Class: []int32{},
				Values: []float32{0, -1, float32(math.Copysign(0, -1)), 0.1}},
			{Batch: 7, Class: []int32{}, Output: &wire.Output{Kind: wire.OutputsRaw}},
		}}
}

func digestOf(p []byte) string {
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

func TestOutputsKeepEveryBit(t *testing.T) {
	want := outputResult()
	got, err := wire.ParseResult(want.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) || !math.Signbit(float64(got.Batches[1].Values[2])) {
		t.Errorf("%+v became %+v", want, got)
	}
	if !bytes.HasSuffix(want.Marshal(), []byte("\xcd\xcc\xcc\x3d")) {
		t.Error("the outputs aren't the last values of a batch")
	}
}

// A result without outputs has the layout it always had: its speed is measured, and
// older results stay readable.
func TestOrdinaryResultsKeepTheirLayout(t *testing.T) {
	r := someResult()
	r.Batches = r.Batches[:1]
	r.To, r.Batches[0].Labels[1], r.Batches[0].Class[1], r.Batches[0].Prob[1] = 5, 2, 1, 0.25
	const want = `{"v":1,"job":3,"task":2,"from":5,"to":5,"node":"w1","attempt":1,"started":"2023-11-14T22:13:20.000000005Z","batches":[{"batch":5,"images":2,` +
		`"labeled":true,"correct":1,"loss_sum":0.25,"ns":1000,"probs":true,"narrow":true}]}` + "\n\a\x01\x00\x00\x00\x3f\x00\x00\x80\x3e\a\x02"
	if got := string(r.Marshal()); got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestValuesOutside(t *testing.T) {
	want := outputResult()
	whole := want.Marshal()
	message, values := want.Split(whole, digestOf)
	if want.Outside != nil || len(message) >= len(whole)+150 || !bytes.HasSuffix(whole, values) {
		t.Fatalf("split into %d and %d bytes", len(message), len(values))
	}
	o := wire.OutsideOf(message)
	if o == nil || o.Digest != digestOf(values) || o.Size != int64(len(values)) || wire.OutsideOf(whole) != nil {
		t.Fatalf("outside is %+v", o)
	}
	got, err := wire.ParseResult(message)
	if err != nil {
		t.Fatal(err)
	}
	if got.Batches[0].Class != nil || got.Batches[0].Correct != 1 || got.Batches[0].Images != 2 {
		t.Errorf("figures without values are %+v", got.Batches[0])
	}
	for _, bad := range [][]byte{nil, values[1:], append(values[:len(values):len(values)], 0)} {
		if err := got.Attach(bad); err == nil {
			t.Errorf("%d bytes were attached where %d belong", len(bad), len(values))
		}
	}
	if err := got.Attach(values); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v became %+v, %v", want, got, err)
	}
	if err := got.Attach(values); err == nil {
		t.Error("attached twice")
	}
}

func TestBadOutputsAreRefused(t *testing.T) {
	for what, change := range map[string]func(*wire.Result){
		"a value missing":              func(r *wire.Result) { r.Batches[0].Values = r.Batches[0].Values[1:] },
		"a value too many":             func(r *wire.Result) { r.Batches[1].Values = append(r.Batches[1].Values, 1) },
		"values without a shape":       func(r *wire.Result) { r.Batches[0].Output = nil },
		"an unknown kind":              func(r *wire.Result) { r.Batches[0].Output.Kind = "more" },
		"a negative dimension":         func(r *wire.Result) { r.Batches[0].Output.Shape = []int{-3} },
		"no dimension":                 func(r *wire.Result) { r.Batches[2].Output.Shape = []int{0} },
		"dimensions that overflow":     func(r *wire.Result) { r.Batches[0].Output.Shape = []int{1 << 40, 1 << 40} },
		"huge dimensions":              func(r *wire.Result) { r.Batches[0].Output.Shape = []int{1 << 20, 1 << 20, 1 << 20} },
		"many dimensions":              func(r *wire.Result) { r.Batches[0].Output.Shape = []int{1, 1, 1, 1, 1, 1, 1, 1, 3} },
		"classes without scores":       func(r *wire.Result) { r.Batches[1].Class = []int32{1, 2} },
		"probabilities without scores": func(r *wire.Result) { r.Batches[1].Prob = []float32{1, 2} },
		"labels without scores":        func(r *wire.Result) { r.Batches[1].Labeled, r.Batches[1].Labels = true, []int32{1, 2} },
	} {
		r := outputResult()
		change(r)
		if _, err := wire.ParseResult(r.Marshal()); err == nil || !strings.HasPrefix(err.Error(), "decode result: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
	whole := outputResult()
	message, _ := whole.Split(whole.Marshal(), digestOf)
	for what, change := range map[string]func(*wire.Result){
		"another size":        func(r *wire.Result) { r.Outside.Size++ },
		"no size":             func(r *wire.Result) { r.Outside.Size = 0 },
		"a huge size":         func(r *wire.Result) { r.Outside.Size = 1 << 40 },
		"no digest":           func(r *wire.Result) { r.Outside.Digest = "" },
		"a path as digest":    func(r *wire.Result) { r.Outside.Digest = strings.Repeat("../", 21) + "x" },
		"more images":         func(r *wire.Result) { r.Batches[0].Images = 1 << 60 },
		"a batch less":        func(r *wire.Result) { r.Batches, r.To = r.Batches[:2], 6; r.Batches[1].Images = 1 },
		"values beside":       func(r *wire.Result) { r.Batches[2].Values = []float32{1} },
		"an error beside":     func(r *wire.Result) { r.Error, r.Batches = "failed", nil },
		"a model beside":      func(r *wire.Result) { r.Trained, r.Batches = &wire.Trained{}, nil },
		"outputs that differ": func(r *wire.Result) { r.Batches[0].Output.Shape = []int{4} },
	} {
		r, err := wire.ParseResult(message)
		if err != nil {
			t.Fatal(err)
		}
		change(r)
		p := r.Marshal()
		// Marshal finds out by itself what values there are; here they lie outside.
		p = bytes.Replace(p, []byte(`"ns":1000,`), []byte(`"ns":1000,"probs":true,"narrow":true,`), 1)
		if _, err := wire.ParseResult(p); err == nil || !strings.HasPrefix(err.Error(), "decode result: ") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzOutputs(f *testing.F) {
	whole := outputResult()
	message, values := whole.Split(whole.Marshal(), digestOf)
	f.Add(whole.Marshal(), values)
	f.Add(message, values)
	f.Add([]byte(`{"v":1,"job":1,"task":1,"from":1,"to":1,"node":"n","batches":[{"batch":1,"images":1,"output":{"kind":"raw","shape":[1],"unscored":true}}],`+
		`"outside":{"digest":"`+digestOf(nil)+`","size":4}}`+"\n"), []byte("abcd"))
	f.Fuzz(func(t *testing.T, p, values []byte) {
		r, err := wire.ParseResult(p)
		if err != nil {
			return
		}
		if r.Outside != nil && r.Attach(values) != nil {
			return
		}
		again, err := wire.ParseResult(r.Marshal())
		if err != nil || !bytes.Equal(again.Marshal(), r.Marshal()) {
			t.Fatalf("%q became %+v, %v", p, again, err)
		}
		for i := range r.Batches {
			b := &r.Batches[i]
			if b.Output != nil && b.Images > 0 && len(b.Values)%b.Images != 0 {
				t.Fatalf("%d values of %d images", len(b.Values), b.Images)
			}
		}
	})
}

package sched

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"

	"idunno/broker/wire"
)

// filled is a tally of batches whose times are spread over the whole range.
func filled(rng *rand.Rand, batches int) *Tally {
	t := NewTally()
	for range batches {
		span := int64(1) << rng.IntN(44)
		t.Batch(&wire.BatchResult{Images: rng.IntN(9), Nanos: rng.Int64N(span)})
	}
	return t
}

// restoreTally is the inverse of [Tally.Raw], the way the library has it.
func restoreTally(raw *wire.RawStats) (*Tally, error) {
	h, err := hdrhistogram.Decode(raw.Times)
	if err != nil {
		return nil, fmt.Errorf("decode histogram: %w", err)
	}
	t := NewTally()
	for place, count := range h.Export().Counts {
		if count > 0 {
			t.times.add(uint16(place), count)
		}
	}
	t.raw = *raw
	t.raw.Times = nil
	return t, nil
}

func TestStoredTalliesAreAddedAsTheyWere(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	whole, quick := NewTally(), NewTally()
	for i := range 200 {
		raw, err := filled(rng, rng.IntN(1+i*i)).Raw()
		if err != nil {
			t.Fatal(err)
		}
		slow, err := restoreTally(raw)
		if err != nil {
			t.Fatal(err)
		}
		whole.Merge(slow)
		if err := quick.MergeRaw(raw); err != nil {
			t.Fatal(err)
		}
	}
	if !reflect.DeepEqual(whole.raw, quick.raw) {
		t.Errorf("sums %+v, want %+v", quick.raw, whole.raw)
	}
	if !reflect.DeepEqual(whole.times, quick.times) {
		t.Error("the histograms differ")
	}
	if whole.raw.Batches < 100_000 {
		t.Errorf("only %d batches", whole.raw.Batches)
	}
}

func TestStoredTalliesAreCheap(t *testing.T) {
	raw, err := filled(rand.New(rand.NewPCG(1, 2)), 20).Raw()
	if err != nil {
		t.Fatal(err)
	}
	into := NewTally()
	if n := testing.AllocsPerRun(100, func() {
		if err := into.MergeRaw(raw); err != nil {
			t.Fatal(err)
		}
	}); n > 50 {
		t.Errorf("%v allocations", n)
	}
	bytes := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for range b.N {
			_ = into.MergeRaw(raw)
		}
	}).AllocedBytesPerOp()
	if bytes > 100<<10 {
		t.Errorf("%d bytes", bytes)
	}
}

func TestBrokenStoredTallies(t *testing.T) {
	good, err := filled(rand.New(rand.NewPCG(3, 4)), 50).Raw()
	if err != nil {
		t.Fatal(err)
	}
	for i := range len(good.Times) {
		bad := *good
		bad.Times = append([]byte(nil), good.Times[:i]...)
		if err := NewTally().MergeRaw(&bad); err == nil {
			t.Fatalf("the first %d bytes of %d are accepted", i, len(good.Times))
		}
		bad.Times = append([]byte(nil), good.Times...)
		bad.Times[i] ^= 0x15
		_ = NewTally().MergeRaw(&bad) // may be another histogram; must not panic
	}
}

func FuzzStoredCounts(f *testing.F) {
	f.Add([]byte{2, 4, 1, 6})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, p []byte) {
		values, err := decodeCounts(p)
		if err != nil {
			return
		}
		last := int64(-1)
		for _, v := range values {
			if v.value <= last || v.count <= 0 {
				t.Fatalf("%v after %d", v, last)
			}
			last = v.value
		}
		if len(values) > places || last >= valueAt(places) {
			t.Fatalf("%d values up to %d", len(values), last)
		}
	})
}

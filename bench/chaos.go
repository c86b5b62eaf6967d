package bench

import (
	"context"
	"io"
	"slices"

	"idunno/bench/chaos"
)

// Chaos hurts a cluster of processes according to a schedule that the seed decides,
// and proves from the history whether anything was lost by it; see package chaos.
// Results are the longest pauses without any result in the wake of each kind of
// fault.
func Chaos(ctx context.Context, c chaos.Config) (*Document, error) {
	v, err := chaos.Run(ctx, c)
	if err != nil {
		return nil, err
	}
	return chaosDocument(v), nil
}

// JudgeChaos makes the document of [Chaos] from the history of an earlier run.
func JudgeChaos(ctx context.Context, history io.Reader, progress Progress) (*Document, error) {
	v, err := chaos.Judge(ctx, history, progress)
	if err != nil {
		return nil, err
	}
	return chaosDocument(v), nil
}

func chaosDocument(v *chaos.Verdict) *Document {
	d := newDocument("chaos")
	d.Chaos, d.OK = v, v.OK()
	d.Counts = Counts{Faults: v.Total(), Lost: v.Lost(), Duplicates: v.Doubled(), Differing: v.Differ()}
	kinds := chaos.Kinds()
	slices.Sort(kinds)
	for _, kind := range kinds {
		if len(v.After[kind]) == 0 {
			continue
		}
		s := newSample("pause_after/"+string(kind), "ms", 10)
		for _, pause := range v.After[kind] {
			s.add(float64(pause.Microseconds()) / 1000)
		}
		d.Results = append(d.Results, s.result())
	}
	return d
}

package chaos_test

import (
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"idunno/bench/chaos"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func plan(seed uint64) chaos.Plan {
	return chaos.Plan{Seed: seed, Duration: 30 * time.Minute, Kinds: chaos.Kinds(), Servers: []string{"broker"},
		Workers: chaos.Numbered("worker", 4), Coordinators: chaos.Numbered("coordinator", 3)}
}

func schedule(t *testing.T, p chaos.Plan) []chaos.Fault {
	t.Helper()
	faults, err := p.Schedule()
	if err != nil {
		t.Fatal(err)
	}
	return faults
}

func TestASeedIsASchedule(t *testing.T) {
	for seed := range uint64(20) {
		faults := schedule(t, plan(seed))
		if !reflect.DeepEqual(faults, schedule(t, plan(seed))) {
			t.Fatalf("seed %d gives two schedules", seed)
		}
		if reflect.DeepEqual(faults, schedule(t, plan(seed+1))) {
			t.Fatalf("seeds %d and %d give the same schedule", seed, seed+1)
		}
		if len(faults) < 550 {
			t.Errorf("seed %d: %d faults in half an hour", seed, len(faults))
		}
		kinds := map[chaos.Kind]int{}
		cuts := map[chaos.Cut]int{}
		last := time.Duration(0)
		for i, f := range faults {
			if f.Number != i+1 || f.At < last || f.At >= 30*time.Minute || f.For > 4*time.Second || (len(f.Targets) == 0) != (f.Kind == chaos.Poison) {
				t.Fatalf("seed %d: %+v", seed, f)
			}
			last = f.At
			kinds[f.Kind]++
			cuts[f.Cut]++
		}
		for _, k := range chaos.Kinds() {
			if kinds[k] < 10 {
				t.Errorf("seed %d: %d of %s", seed, kinds[k], k)
			}
		}
		for _, cut := range chaos.Cuts() {
			if cuts[cut] < 5 {
				t.Errorf("seed %d: %d cuts %s", seed, cuts[cut], cut)
			}
		}
	}
}

// The schedule of a seed stays what it is: a run that was published can be repeated.
func TestAScheduleStays(t *testing.T) {
	p := plan(7)
	p.Duration = 8 * time.Second
	var got []string
	for _, f := range schedule(t, p) {
		got = append(got, f.String())
	}
	want := []string{
		"   1.000s  poison            broken-model",
		"   1.547s  kill-worker       worker-3 worker-4 for 1.744s",
		"   1.698s  kill-server       broker for 1.250s",
		"   6.048s  kill-coordinator  leader for 1.218s",
		"   7.758s  kill-worker       worker-3 for 0.228s",
	}
	if !slices.Equal(got, want) {
		t.Errorf("seed 7:\n%q\nwant\n%q", got, want)
	}
}

// What is killed isn't killed again before it has been started anew.
func TestFaultsOfAProcessDontOverlap(t *testing.T) {
	p := plan(3)
	p.Servers = chaos.Numbered("broker", 3)
	busy := map[string]time.Duration{}
	servers := time.Duration(0)
	several := 0
	for _, f := range schedule(t, p) {
		for _, name := range f.Targets {
			if busy[name] > f.At {
				t.Errorf("%v hits %s, which is busy until %v", f, name, busy[name])
			}
			busy[name] = f.At + f.For
		}
		if f.Kind == chaos.KillServer {
			if servers > f.At {
				t.Errorf("%v while another server is away", f)
			}
			servers = f.At + f.For
		}
		if len(f.Targets) > 1 {
			several++
		}
	}
	if several == 0 {
		t.Error("workers are never killed together")
	}
}

func TestPlansAreChecked(t *testing.T) {
	for _, p := range []chaos.Plan{{}, {Duration: time.Second, Kinds: chaos.Kinds()}, func() chaos.Plan { p := plan(1); p.Mean = -1; return p }()} {
		if _, err := p.Schedule(); !errors.Is(err, chaos.ErrPlan) {
			t.Errorf("%+v: %v", p, err)
		}
	}
	for _, list := range [][]string{nil, {""}, {"kill-worker", "kill-user"}} {
		if _, err := chaos.ParseKinds(list); !errors.Is(err, chaos.ErrPlan) {
			t.Errorf("%q: %v", list, err)
		}
	}
	kinds, err := chaos.ParseKinds([]string{"stop", " poison", "stop"})
	if err != nil || !slices.Equal(kinds, []chaos.Kind{chaos.Stop, chaos.Poison}) {
		t.Errorf("%v, %v", kinds, err)
	}
}

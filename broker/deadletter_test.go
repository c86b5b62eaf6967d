package broker_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
)

func TestTriesAreKeptUntilTheJobEnds(t *testing.T) {
	b, ctx := brokertest.New(t), testContext(t)
	if _, err := b.OpenQueue(ctx, 3, 0); err != nil {
		t.Fatal(err)
	}
	crash := &wire.Attempt{Schema: wire.Schema, Cause: wire.CauseCrash, Node: "a", Incarnation: 7, Time: time.Now()}
	failed := &wire.Attempt{Schema: wire.Schema, Cause: wire.CauseError, Node: "b", Delivery: 2, Time: time.Now(), Error: "no"}
	for _, a := range []*wire.Attempt{crash, failed, crash} {
		if err := b.StoreAttempt(ctx, 3, 14, a); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.JS.Publish(ctx, broker.SubjectTries(3, 14), []byte("garbage")); err != nil {
		t.Fatal(err)
	}
	tried, err := b.Attempts(ctx, 3, 14)
	if err != nil || len(tried) != 2 || tried[0].Cause != wire.CauseCrash || tried[1].Error != "no" {
		t.Fatalf("%+v, %v", tried, err)
	}
	if other, err := b.Attempts(ctx, 3, 1); err != nil || other != nil {
		t.Fatalf("tries of another task: %+v, %v", other, err)
	}
	if err := b.CloseQueue(ctx, 3); err != nil {
		t.Fatal(err)
	}
	if tried, err := b.Attempts(ctx, 3, 14); err != nil || tried != nil {
		t.Fatalf("left of an ended job: %+v, %v", tried, err)
	}
}

func TestDeadLettersAreFiledOnce(t *testing.T) {
	b, ctx := brokertest.New(t), testContext(t)
	var letters []*wire.DeadLetter
	for job := uint64(1); job <= 2; job++ {
		for task := 1; task <= 5; task++ {
			letters = append(letters, &wire.DeadLetter{Schema: wire.Schema, Job: job, Task: 3 * task, Error: fmt.Sprint("first of ", job, task)})
		}
	}
	for _, text := range []string{"", "second"} {
		for _, l := range letters {
			l.Error += text
		}
		if left := b.StoreDeadLetters(ctx, letters); len(left) != 0 {
			t.Fatalf("%d letters not stored", len(left))
		}
	}
	tasks, err := b.DeadTasks(ctx, 2)
	if err != nil || !slices.Equal(tasks, []int{3, 6, 9, 12, 15}) {
		t.Fatalf("%v, %v", tasks, err)
	}
	for job, want := range map[uint64]int{0: 10, 2: 5, 9: 0} {
		var after uint64
		seen := 0
		for more := true; more; {
			var page []wire.DeadLetter
			if page, more, err = b.DeadLetters(ctx, job, after, 2); err != nil {
				t.Fatal(err)
			}
			for _, l := range page {
				if l.Seq <= after || l.Error != fmt.Sprint("first of ", l.Job, l.Task/3) || job != 0 && l.Job != job {
					t.Errorf("%+v behind %d", l, after)
				}
				after = l.Seq
				seen++
			}
		}
		if seen != want {
			t.Errorf("%d letters of job %d, want %d", seen, job, want)
		}
	}
	if l, err := b.DeadLetter(ctx, 1, 6); err != nil || l == nil || l.Task != 6 || l.Seq == 0 {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err := b.DeadLetter(ctx, 1, 5); err != nil || l != nil {
		t.Errorf("%+v, %v", l, err)
	}
}

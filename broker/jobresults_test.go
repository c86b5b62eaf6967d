package broker_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"idunno/broker"
	"idunno/broker/brokertest"
)

// The results of one job are removed, all of them and no other's, from among others;
// the stream counts on, and takes a result for the subject again.
func TestResultsAreDropped(t *testing.T) {
	b, ctx := brokertest.New(t), testContext(t)
	const tasks = 40
	for task := 1; task <= tasks; task++ {
		for job := uint64(1); job <= 12; job += 11 { // 1 and 12: no prefix is taken for the other
			if err := b.StoreResult(ctx, job, task, fmt.Appendf(nil, "%d of %d", task, job)); err != nil {
				t.Fatal(err)
			}
		}
	}
	m, err := b.Result(ctx, 1, 7)
	if err != nil || m == nil || string(m.Data) != "7 of 1" || m.Seq != 13 || m.At.IsZero() {
		t.Fatalf("%+v, %v", m, err)
	}
	last, err := b.LastResult(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// Those before a place: task 7's result and all behind it stay.
	if err := b.DropResults(ctx, 1, m.Seq); err != nil {
		t.Fatal(err)
	}
	for task, there := range map[int]bool{1: false, 6: false, 7: true, tasks: true} {
		if m, err := b.Result(ctx, 1, task); err != nil || (m != nil) != there {
			t.Errorf("task %d: %+v, %v", task, m, err)
		}
	}
	for range 2 { // the second time there is nothing to do
		if err := b.DropResults(ctx, 1, 0); err != nil {
			t.Fatal(err)
		}
	}
	if m, err := b.Result(ctx, 1, 7); err != nil || m != nil {
		t.Errorf("a result that was removed: %+v, %v", m, err)
	}
	count := func(job uint64) (n int) {
		t.Helper()
		err := b.JobResults(ctx, job, func(m *broker.Stored) (bool, error) { n++; return true, nil })
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if gone, left := count(1), count(12); gone != 0 || left != tasks {
		t.Errorf("%d and %d results are left, want 0 and %d", gone, left, tasks)
	}
	if now, err := b.LastResult(ctx); err != nil || now != last {
		t.Errorf("the last place was %d and is %d, %v", last, now, err)
	}
	if err := b.StoreResult(ctx, 1, 7, []byte("late")); err != nil {
		t.Error(err)
	}
}

// Readers pass over what was removed, also when it was the end of the stream, and go
// on with what comes: nothing twice, nothing left out.
func TestReadersPassOverWhatWasDropped(t *testing.T) {
	b, ctx := brokertest.New(t), testContext(t)
	store := func(job uint64, task int) {
		t.Helper()
		if err := b.StoreResult(ctx, job, task, fmt.Appendf(nil, "%d", task)); err != nil {
			t.Fatal(err)
		}
	}
	for task := 1; task <= 10; task++ {
		store(1, task)
		store(2, task)
	}
	if err := b.DropResults(ctx, 2, 0); err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 100)
	take := func(_ context.Context, m *broker.Stored) {
		if m == nil {
			got <- "through"
		} else {
			got <- m.Subject + " " + string(m.Data)
		}
	}
	expect := func(want string) {
		t.Helper()
		select {
		case text := <-got:
			if text != want {
				t.Fatalf("read %q, want %q", text, want)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%q never came", want)
		}
	}
	stop, err := b.FollowJobResults(ctx, 1, 1, take)
	if err != nil {
		t.Fatal(err)
	}
	for task := 1; task <= 10; task++ {
		expect(fmt.Sprintf("%s %d", broker.SubjectResult(1, task), task))
	}
	expect("through")
	store(2, 11)
	store(1, 11)
	expect(fmt.Sprintf("%s 11", broker.SubjectResult(1, 11)))
	stop()

	// All that is left is removed before somebody reads.
	if err := b.DropResults(ctx, 2, 0); err != nil {
		t.Fatal(err)
	}
	if err := b.DropResults(ctx, 1, 0); err != nil {
		t.Fatal(err)
	}
	stop, err = b.FollowResults(ctx, 5, take)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	expect("through")
	store(3, 1)
	expect(broker.SubjectResult(3, 1) + " 1")
	if len(got) != 0 {
		t.Errorf("%d messages too many", len(got))
	}
}

// Reading ends with what there was at its beginning, however many results come
// meanwhile.
func TestReadingARunningJobEnds(t *testing.T) {
	b, ctx := brokertest.New(t), testContext(t)
	stored := 0
	store := func() error {
		stored++
		return b.StoreResult(ctx, 1, stored, []byte("x"))
	}
	for range 20 {
		if err := store(); err != nil {
			t.Fatal(err)
		}
	}
	read := 0
	err := b.JobResults(ctx, 1, func(*broker.Stored) (bool, error) {
		if read++; read > 200 {
			return false, errors.New("it goes on for ever")
		}
		return true, store()
	})
	if err != nil || read < 20 {
		t.Errorf("%d results read of %d: %v", read, stored, err)
	}
}

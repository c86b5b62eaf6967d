package wire_test

import (
	"errors"
	"testing"
	"time"

	"idunno/broker/wire"
)

func TestTermsAreRead(t *testing.T) {
	doc := `{"model":"mlp","from":1,"to":2,"weight":2.5,"priority":-3,"max_nodes":2,"max_in_flight":4,"rounds":7,` +
		`"batch_size":16,"deadline":"90m","after":3,"id":"a-1","outputs":"probs"}`
	d, err := wire.ParseJobDoc([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	want := wire.Terms{Weight: 2.5, Priority: -3, MaxNodes: 2, MaxInFlight: 4, Rounds: 7, BatchSize: 16, Deadline: "90m", After: 3, ID: "a-1", Outputs: "probs"}
	if d.Terms != want {
		t.Errorf("got %+v\nwant %+v", d.Terms, want)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	if got := d.DeadlineAt(at); !got.Equal(at.Add(90 * time.Minute)) {
		t.Errorf("deadline %v", got)
	}
	if d, err = wire.ParseJobDoc([]byte(`{"train":"mlp","deadline":"2030-12-31T18:00:00Z","forever":false}`)); err == nil {
		t.Error("a training job has no forever")
	}
	if d, err = wire.ParseJobDoc([]byte(`{"train":"mlp","deadline":"2030-12-31T18:00:00Z"}`)); err != nil || d.DeadlineAt(at).Year() != 2030 {
		t.Errorf("%+v %v", d, err)
	}
	if d, err = wire.ParseJobDoc([]byte(`{"model":"mlp","from":1,"to":2}`)); err != nil || d.Share() != 1 || !d.DeadlineAt(at).IsZero() {
		t.Errorf("%+v %v", d, err)
	}
}

func TestTermsAreChecked(t *testing.T) {
	for _, c := range []struct{ field, member string }{
		{"weight", `"weight":0`}, {"weight", `"weight":1e9`}, {"weight", `"weight":"2"`}, {"weight", `"weight":NaN`},
		{"priority", `"priority":101`}, {"max_nodes", `"max_nodes":0`}, {"max_in_flight", `"max_in_flight":-1`},
		{"rounds", `"rounds":0`}, {"rounds", `"rounds":2,"forever":true`}, {"forever", `"forever":1`}, {"forever", `"forever":null`},
		{"batch_size", `"batch_size":0`}, {"deadline", `"deadline":"soon"`}, {"deadline", `"deadline":"-5m"`}, {"deadline", `"deadline":7`},
		{"after", `"after":0`}, {"id", `"id":""`}, {"id", `"id":"a b"`}, {"outputs", `"outputs":"everything"`},
	} {
		_, err := wire.ParseJobDoc([]byte(`{"model":"mlp","from":1,"to":2,` + c.member + `}`))
		var refusal *wire.Error
		if !errors.As(err, &refusal) || refusal.Field != c.field && refusal.Field != "document" {
			t.Errorf("%s: %v", c.member, err)
		}
	}
}

func TestSettingsAreChecked(t *testing.T) {
	s := &wire.Settings{Schema: wire.Schema, Fair: wire.FairImages, Phase: wire.PhaseTrain, BatchSizes: map[string]int{"mlp": 32}, ResultRetention: time.Hour}
	got, err := wire.ParseSettings(s.Marshal())
	if err != nil || got.Fair != s.Fair || got.BatchSizes["mlp"] != 32 || got.Runs(false) || !got.Runs(true) {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{`{"fair":"luck"}`, `{"phase":"rest"}`, `{"batch_sizes":{"mlp":0}}`, `{"batch_sizes":{"mlp@2":3}}`, `{"result_retention_ns":-1}`, `[]`} {
		var refusal *wire.Error
		if _, err := wire.ParseSettings([]byte(bad)); !errors.As(err, &refusal) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

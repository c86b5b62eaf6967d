package wire_test

import (
	"testing"

	"idunno/broker/wire"
)

func TestLeadsAreChecked(t *testing.T) {
	l := wire.Leads{Schema: wire.Schema, Fair: wire.FairTime, Jobs: []wire.Lead{{Job: 7, Lead: -2.5}}}
	got, err := wire.ParseLeads(l.Marshal())
	if err != nil || got.Fair != l.Fair || len(got.Jobs) != 1 || got.Jobs[0] != l.Jobs[0] {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "[]", `{"v":2}`, `{"v":1,"jobs":[{"job":1,"lead":1e16}]}`, `{"v":1,"jobs":[{"job":1,"lead":-1e300}]}`} {
		if _, err := wire.ParseLeads([]byte(bad)); err == nil {
			t.Errorf("accepted %s", bad)
		}
	}
}

func TestCopyIsARescueWithoutADelivery(t *testing.T) {
	task := &wire.Task{Schema: wire.Schema, Job: 1, Task: 2, Model: "m", DataDigest: "d", From: 1, To: 1}
	for reply, ok := range map[string]bool{"": true, "some.subject": false} {
		r := wire.Rescue{Schema: wire.Schema, Task: task, Reply: reply, Copy: true}
		if got, err := wire.ParseRescue(r.Marshal()); (err == nil) != ok || ok && !got.Copy {
			t.Errorf("a copy with reply %q: %v", reply, err)
		}
		r.Copy = false
		if _, err := wire.ParseRescue(r.Marshal()); (err == nil) == ok {
			t.Errorf("a rescue with reply %q: %v", reply, err)
		}
	}
}

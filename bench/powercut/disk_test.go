package powercut

import "testing"

// Of two syncs that overlap, the one that began later knows more, whichever ends first.
func TestOverlappingSyncs(t *testing.T) {
	d := newDisk(t.TempDir())
	one, two := inode{1, 1}, inode{1, 2}
	old := map[string]entry{"one": {id: one, size: 3}}
	now := map[string]entry{"one": {id: one, size: 6}, "two": {id: two, size: 3}}
	d.commit(now, 2)
	d.put(two, []byte("two"), 2)
	d.put(one, []byte("oneone"), 2)
	d.commit(old, 1)
	d.put(one, []byte("one"), 1)
	if len(d.names) != 2 || string(d.files[one]) != "oneone" || string(d.files[two]) != "two" {
		t.Errorf("names %v, files %v", d.names, d.files)
	}
	d.commit(map[string]entry{"one": {id: one, size: 2}}, 3)
	if len(d.files) != 1 || string(d.files[one]) != "on" {
		t.Errorf("cut and removed: %v", d.files)
	}
}

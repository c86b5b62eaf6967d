package archive

import (
	"testing"
)

// FuzzArchive reads manifests and parts that others have written.
func FuzzArchive(f *testing.F) {
	frame := []byte("\x01\x00\x00\x00" + "\x01\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x00\x00" + "{}")
	const objects = `,"objects":[{"digest":"x","size":18},{"digest":"y","size":18}]}`
	f.Add([]byte(`{"schema_version":1,"job":7,"parts":[{"first":1,"last":1,"tasks":1}]`+objects), frame)
	f.Add([]byte(`{"schema_version":1,"job":7,"parts":[{"first":1,"last":9,"tasks":2}]`+objects), append(frame, frame...))
	f.Add([]byte(`{"schema_version":1,"job":7,"parts":[{"first":1,"last":1,"tasks":1},{"first":1,"last":1,"tasks":1}]`+objects), frame[:9])
	f.Add([]byte(`{"schema_version":1,"job":7,"parts":[{"first":-1,"last":4611686018427387904,"tasks":9}]`+objects), []byte{})
	f.Add([]byte(`{"schema_version":1,"job":7,"parts":[{"first":2,"last":3,"tasks":1}]}`), frame)
	f.Fuzz(func(t *testing.T, list, body []byte) {
		var m manifest
		if m.parse(list, 7) != nil {
			return
		}
		before := 0
		for i, want := range m.Parts {
			if want.First <= before || want.Last < want.First || m.Objects[i].Size > maxPart {
				t.Fatalf("accepted part %+v after task %d", want, before)
			}
			before = want.Last
			messages, err := parsePart(body, want)
			if err != nil {
				continue
			}
			size, last := 0, want.First-1
			for _, got := range messages {
				if got.Task <= last || got.Task > want.Last {
					t.Fatalf("task %d after %d in part %+v", got.Task, last, want)
				}
				last, size = got.Task, size+frameHeader+len(got.Data)
			}
			if len(messages) != want.Tasks || size != len(body) {
				t.Fatalf("%d messages of %d bytes in %d bytes of part %+v", len(messages), size, len(body), want)
			}
		}
	})
}

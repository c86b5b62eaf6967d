package dataset

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// mirror serves files by their path and counts requests.
func mirror(t *testing.T, files map[string]string) (url string, asked *atomic.Int32) {
	asked = &atomic.Int32{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		body, ok := files[strings.TrimPrefix(r.URL.Path, "/mnist/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(body))
	}))
	t.Cleanup(srv.Close)
	return srv.URL + "/mnist/", asked
}

func remote(name, body string) RemoteFile {
	sum := sha256.Sum256([]byte(body))
	return RemoteFile{Name: name, Size: int64(len(body)), SHA256: hex.EncodeToString(sum[:])}
}

// onlyFiles fails unless dir holds exactly the named files with these contents.
func onlyFiles(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		p, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if body, ok := want[e.Name()]; err != nil || !ok || body != string(p) {
			t.Errorf("%s holds %q, %v", e.Name(), p, err)
		}
	}
	if len(entries) != len(want) {
		t.Errorf("%d files, expected %d", len(entries), len(want))
	}
}

func TestFetch(t *testing.T) {
	files := map[string]string{"a.gz": "first file", "b.gz": "second"}
	// Everything that can be wrong with a mirror, then a good one.
	wrong, _ := mirror(t, map[string]string{"a.gz": "first fil!", "b.gz": "second and more"})
	short, _ := mirror(t, map[string]string{"a.gz": "first", "b.gz": ""})
	empty, _ := mirror(t, nil)
	good, asked := mirror(t, files)
	dir := filepath.Join(t.TempDir(), "new", "folder")
	seen := map[string]int64{}
	c := FetchConfig{
		Client:   &http.Client{},
		Mirrors:  []string{wrong, short, empty, good},
		Files:    []RemoteFile{remote("a.gz", "first file"), remote("b.gz", "second")},
		Progress: func(file string, done, _ int64) { seen[file] = done },
	}
	if err := Fetch(t.Context(), dir, c); err != nil {
		t.Fatal(err)
	}
	onlyFiles(t, dir, files)
	if seen["a.gz"] != 10 || seen["b.gz"] != 6 {
		t.Errorf("progress ended at %v", seen)
	}

	// What is there and right is left alone; what is damaged is fetched again.
	if err := os.WriteFile(filepath.Join(dir, "b.gz"), []byte("damage"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := asked.Load()
	c.Mirrors = []string{good}
	if err := Fetch(t.Context(), dir, c); err != nil {
		t.Fatal(err)
	}
	onlyFiles(t, dir, files)
	if n := asked.Load() - before; n != 1 {
		t.Errorf("%d requests for one damaged file", n)
	}
}

func TestFetchErrors(t *testing.T) {
	file := remote("a.gz", "first file")
	wrong, _ := mirror(t, map[string]string{"a.gz": "other file"})
	long, _ := mirror(t, map[string]string{"a.gz": strings.Repeat("first file", 1000)})
	empty, _ := mirror(t, nil)
	for _, c := range []struct {
		name, url string
		want      error
		text      string
	}{
		{"wrong content", wrong, ErrChecksum, "SHA-256"},
		{"too long", long, ErrTooLarge, "10 bytes"},
		{"missing", empty, nil, "404"},
		{"no server", "http://127.0.0.1:1", nil, "127.0.0.1:1"},
		{"no URL", "::", nil, "missing protocol scheme"},
	} {
		dir := t.TempDir()
		err := Fetch(t.Context(), dir, FetchConfig{Client: &http.Client{}, Mirrors: []string{c.url}, Files: []RemoteFile{file}})
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.name, err)
		}
		onlyFiles(t, dir, nil)
	}
}

func TestFetchCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("first"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer srv.Close()
	dir := t.TempDir()
	err := Fetch(ctx, dir, FetchConfig{Client: &http.Client{}, Mirrors: []string{srv.URL, srv.URL}, Files: []RemoteFile{remote("a.gz", "first file")},
		Progress: func(string, int64, int64) { cancel() }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	onlyFiles(t, dir, nil)
}

// TestOfficialFiles guards the list against slips: names as LoadIDXDir looks for
// them, sums of the right form, secure mirrors.
func TestOfficialFiles(t *testing.T) {
	for _, f := range MNISTFiles() {
		if !isDigest(f.SHA256) || f.Size < 1000 || !strings.HasSuffix(f.Name, "-ubyte.gz") {
			t.Errorf("%+v", f)
		}
	}
	for _, m := range MNISTMirrors() {
		if !strings.HasPrefix(m, "https://") || !strings.HasSuffix(m, "/") {
			t.Error(m)
		}
	}
}

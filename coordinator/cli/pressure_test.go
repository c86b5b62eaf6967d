package cli_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"idunno/coordinator/cli"
	"idunno/coordinator/cluster"
	"idunno/models/zoo"
)

// What finds no room is refused with exit code 1 and a hint, and goes on when files
// have been removed, as the hint says.
func TestFullStoreAtTheCommandLine(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l, err := cluster.Start(ctx, cluster.Config{Program: program, Store: filepath.Join(dir, "store"), Port: -1, Workers: 1, MaxStore: 48 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Stop()
	idunno := func(want int, stdin []byte, args ...string) (stderr string) {
		t.Helper()
		var out, errs bytes.Buffer
		args = append(args, "--server", l.URL())
		if code := cli.Main(args, bytes.NewReader(stdin), &out, &errs, os.Getenv); code != want {
			t.Fatalf("%v: exit code %d, want %d: %s", args, code, want, errs.String())
		}
		return errs.String()
	}
	model := filepath.Join(dir, "mlp.onnx")
	if err := os.WriteFile(model, zoo.MLP(), 0o600); err != nil {
		t.Fatal(err)
	}
	idunno(0, nil, "model", "add", "mlp", model)
	file := make([]byte, 15<<20)
	if _, err := rand.Read(file); err != nil {
		t.Fatal(err)
	}
	const hint = "the store is full: remove files with `idunno sdfs rm`, or give the servers more room with --max-store"
	idunno(0, file, "sdfs", "put", "-", "one")
	file[0]++
	idunno(0, file, "sdfs", "put", "-", "two")
	file[0]++
	if said := idunno(1, file, "sdfs", "put", "-", "three"); !strings.Contains(said, hint) {
		t.Errorf("a file without room: %q", said)
	}
	idunno(0, nil, "sdfs", "get", "one", filepath.Join(dir, "one"))
	idunno(0, nil, "sdfs", "rm", "two")
	idunno(0, file, "sdfs", "put", "-", "three")
}

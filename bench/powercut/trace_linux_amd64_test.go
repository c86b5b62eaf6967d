package powercut

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestMain makes the test binary the program whose power is cut.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "write-to" {
		if err := writeFiles(os.Args[2]); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("written")
		_ = syscall.Pause() // until it is killed
	}
	os.Exit(m.Run())
}

// writeFiles writes files of which some are synced, some not, and some in part.
func writeFiles(dir string) error {
	at := func(name string) string { return filepath.Join(dir, name) }
	var failed []error
	must := func(err error) { failed = append(failed, err) }
	file := func(name string, flags int) *os.File {
		f, err := os.OpenFile(at(name), os.O_CREATE|os.O_RDWR|flags, 0o600)
		must(err)
		return f
	}
	say := func(f *os.File, text string) {
		_, err := f.WriteString(text)
		must(err)
	}
	must(os.Mkdir(at("inside"), 0o700))
	never := file("never", 0)
	say(never, "never synced")
	part := file("part", 0)
	say(part, "first ")
	must(part.Sync())
	say(part, "second")
	data := file("inside/data", 0)
	say(data, "by fdatasync")
	must(syscall.Fdatasync(int(data.Fd())))
	say(data, " and more")
	direct := file("direct", syscall.O_SYNC)
	say(direct, "at once")
	_, err := direct.WriteAt([]byte("AT"), 0)
	must(err)
	old := file("old", 0)
	say(old, "old contents")
	must(old.Sync())
	moved := file("new", 0)
	say(moved, "new contents")
	must(moved.Sync())
	must(os.Rename(at("new"), at("old")))
	gone := file("gone", 0)
	say(gone, "gone")
	must(gone.Sync())
	must(os.Remove(at("gone")))
	short := file("short", 0)
	say(short, "long contents")
	must(short.Sync()) // and with it what has been renamed and removed
	must(short.Truncate(4))
	d, err := os.Open(dir)
	must(err)
	must(d.Sync()) // and with it the new length
	must(os.Rename(at("part"), at("late")))
	late := file("created-late", 0)
	say(late, "late")
	return errors.Join(failed...)
}

func TestWhatIsLeft(t *testing.T) {
	dir, left := t.TempDir(), filepath.Join(t.TempDir(), "left")
	if err := os.WriteFile(filepath.Join(dir, "before"), []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	said, out := io.Pipe()
	p, err := Start(Config{Program: program, Args: []string{"test", "write-to", dir}, Env: os.Environ(), Dir: dir}, out, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, err := said.Read(line)
	go func() { _, _ = io.Copy(io.Discard, said) }()
	if err != nil || strings.TrimSpace(string(line[:n])) != "written" {
		t.Fatalf("the program said %q, %v", line[:n], err)
	}
	if s := p.Stats(); s.Syncs != 9 {
		t.Errorf("%d syncs seen, want 9", s.Syncs)
	}
	if err := p.Cut(left); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"before": "before", "never": "", "part": "first ", "inside/data": "by fdatasync", "direct": "AT once",
		"old": "new contents", "short": "long"}
	got := make(map[string]string)
	err = filepath.WalkDir(left, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		rel, _ := filepath.Rel(left, path)
		got[rel] = string(bytes.TrimSpace(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want["part"] = strings.TrimSpace(want["part"])
	for name, content := range want {
		if c, ok := got[name]; !ok || c != content {
			t.Errorf("%s is %q (there: %v), want %q", name, c, ok, content)
		}
		delete(got, name)
	}
	for name, content := range got {
		t.Errorf("%s is left with %q", name, content)
	}
	if err := p.Cut(left); !errors.Is(err, ErrTrace) {
		t.Errorf("a second cut: %v", err)
	}
}

func TestProgramThatDoesNotStart(t *testing.T) {
	if _, err := Start(Config{Program: "/nonexistent", Args: []string{"x"}, Dir: t.TempDir()}, io.Discard, io.Discard); !errors.Is(err, ErrTrace) {
		t.Errorf("no program: %v", err)
	}
}

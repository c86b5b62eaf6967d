package objectstore_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"idunno/broker"
	"idunno/objectstore"
)

// childEnv makes the test program act as a client of the store in a process of
// its own, so that it can be killed and its memory be told from the server's.
const childEnv = "OBJECTSTORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if task := os.Getenv(childEnv); task != "" {
		if err := child(task, os.Args[1], os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(task, url string, args []string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	b, err := broker.Connect(ctx, broker.Config{Servers: url, Name: "child"})
	if err != nil {
		return err
	}
	defer b.Close()
	objects, index, err := b.Files(ctx)
	if err != nil {
		return err
	}
	s := objectstore.Open(objects, index)
	switch task {
	case "put":
		size, err := strconv.ParseInt(args[1], 10, 64)
		if err != nil {
			return err
		}
		_, err = s.Put(ctx, args[0], stream(1, size))
		return tell(err)
	case "get":
		h := sha256.New()
		if _, err := s.Get(ctx, args[0], h); err != nil {
			return err
		}
		return tell(nil)
	case "cache":
		return childCache(ctx, s, args)
	}
	return fmt.Errorf("unknown task %q", task)
}

// tell prints how much memory the process has had from the system.
func tell(err error) error {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Println(m.Sys)
	return err
}

// command runs a task in a child process.
func command(tb testing.TB, ctx context.Context, task, url string, args ...string) *exec.Cmd {
	tb.Helper()
	exe, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, exe, append([]string{url}, args...)...)
	cmd.Env = append(os.Environ(), childEnv+"="+task)
	return cmd
}

func memoryOf(tb testing.TB, ctx context.Context, task, url string, args ...string) int64 {
	tb.Helper()
	cmd := command(tb, ctx, task, url, args...)
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		tb.Fatalf("%s: %v: %s", task, err, talk.Bytes())
	}
	sys, err := strconv.ParseInt(string(bytes.TrimSpace(out)), 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return sys
}

// stream is n bytes of noise that are never all in memory.
func stream(seed uint64, n int64) io.Reader {
	return io.LimitReader(&repeat{block: noise(seed, 1<<20)}, n)
}

// repeat yields a block for ever, changed a little each time round.
type repeat struct {
	block []byte
	at    int
}

func (r *repeat) Read(p []byte) (int, error) {
	if r.at == len(r.block) {
		r.at = 0
		for i := range 8 {
			if r.block[i]++; r.block[i] != 0 {
				break
			}
		}
	}
	n := copy(p, r.block[r.at:])
	r.at += n
	return n, nil
}

func TestLargeFileInBoundedMemory(t *testing.T) {
	s, b, ctx := open(t)
	const size, most = 128 << 20, 96 << 20
	url := b.NC.ConnectedUrl()
	start := time.Now()
	up := memoryOf(t, ctx, "put", url, "big", strconv.Itoa(size))
	half := time.Now()
	down := memoryOf(t, ctx, "get", url, "big")
	t.Logf("%d MiB: up in %v with %d MiB of memory, down in %v with %d MiB", size>>20,
		half.Sub(start).Round(time.Millisecond), up>>20, time.Since(half).Round(time.Millisecond), down>>20)
	if up > most || down > most {
		t.Fatalf("%d bytes of memory to store %d, %d to read them", up, size, down)
	}
	want := sha256.New()
	_, _ = io.Copy(want, stream(1, size))
	v, err := s.Resolve(ctx, "big")
	if err != nil || v.Size != size || v.Digest != fmt.Sprintf("%x", want.Sum(nil)) {
		t.Fatalf("stored %+v, %v", v, err)
	}
}

func childCache(ctx context.Context, s *objectstore.Store, args []string) error {
	c, err := objectstore.OpenCache(s, args[0], 1<<20)
	if err != nil {
		return err
	}
	for round := range 20 {
		for _, digest := range args[1:] {
			data, err := c.Fetch(ctx, digest, 1<<20)
			if err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
			if got := fmt.Sprintf("%x", sha256.Sum256(data)); got != digest {
				return fmt.Errorf("round %d: got the bytes of %s, want %s", round, got, digest)
			}
		}
	}
	return nil
}

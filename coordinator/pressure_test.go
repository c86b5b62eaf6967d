package coordinator_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"idunno/broker"
	"idunno/broker/brokertest"
	"idunno/broker/wire"
	"idunno/coordinator"
	"idunno/objectstore"
)

// maxStore is a store that is quickly full.
const maxStore = 64 << 20

func code(err error) string {
	var refusal *wire.Error
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return ""
}

func (r *rig) files() *objectstore.Store {
	r.t.Helper()
	objects, index, err := r.b.Files(r.ctx)
	r.must(err)
	return objectstore.Open(objects, index)
}

// fill stores files until there is no room for more and returns their names.
func (r *rig) fill(files *objectstore.Store) (names []string) {
	r.t.Helper()
	for i := range 20 {
		name := fmt.Sprintf("files/%d", i)
		_, err := files.Put(r.ctx, name, io.LimitReader(rand.Reader, 7<<20))
		if errors.Is(err, objectstore.ErrFull) {
			if !strings.Contains(err.Error(), "idunno sdfs rm") {
				r.t.Errorf("%q doesn't say what to do", err)
			}
			return names
		}
		r.must(err)
		names = append(names, name)
	}
	r.t.Fatal("the store takes more than it may")
	return nil
}

// Uploads fill the store; what is accepted goes on in the part that is kept from
// them. When that is short too, submissions are refused, results wait, and both go
// on when there is room.
func TestFullStore(t *testing.T) {
	r := newRigOn(t, brokertest.StartLimited(t, maxStore))
	r.coordinator("one")
	r.until(func() bool { // the leader has seen how much there is
		info, err := r.b.JS.Stream(r.ctx, "OBJ_idunno_objects")
		return err == nil && info.CachedInfo().Config.MaxBytes > 0
	})
	files := r.files()
	stored := r.fill(files)
	before := r.submit(1, 10)
	r.work(before, 10, "node")
	r.wait(before, ended)

	waiting := r.submit(1, 10)
	r.until(func() bool { return r.queueOf(waiting) != "" })
	// The results of another job take the rest.
	const other = 900_000
	full := func() error {
		for i := 1; ; i++ {
			if err := r.b.StoreResult(r.ctx, other, i, make([]byte, 512<<10)); err != nil && !errors.Is(err, broker.ErrExists) {
				return err
			}
		}
	}
	if err := full(); !errors.Is(err, broker.ErrFull) {
		t.Fatalf("results beyond all room: %v", err)
	}
	msg, task := r.pull(waiting)
	if err := r.answer(task, "node"); err != nil && !errors.Is(err, broker.ErrFull) {
		t.Fatalf("a result without room: %v", err)
	}
	submit := func() error {
		_, err := r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":1}`))
		return err
	}
	r.until(func() bool { // they may take only so much until the leader looks again
		if err := full(); !errors.Is(err, broker.ErrFull) {
			t.Fatalf("results beyond all room: %v", err)
		}
		return code(submit()) == wire.CodeStorageFull
	})
	if err := submit(); !strings.Contains(err.Error(), "idunno sdfs rm") {
		t.Errorf("%q doesn't say what to do", err)
	}
	if _, err := files.Put(r.ctx, "files/more", io.LimitReader(rand.Reader, 7<<20)); !errors.Is(err, objectstore.ErrFull) {
		t.Errorf("an upload without room: %v", err)
	}

	// Removing files makes room, although removing takes some itself.
	for _, name := range stored[:3] {
		r.must(files.Remove(r.ctx, name))
	}
	r.until(func() bool { return r.answer(task, "node") == nil || hasResult(r, task) })
	r.must(msg.Ack())
	reply, err := r.c.Job(r.ctx, waiting)
	r.must(err)
	for left := reply.Record.Tasks() - 1; left > 0; {
		msg, task := r.pull(waiting)
		// The task from before may come again: its deadline passed while it waited.
		if err := r.answer(task, "node"); err == nil {
			left--
		} else if !errors.Is(err, broker.ErrExists) {
			t.Fatal(err)
		}
		r.must(msg.Ack())
	}
	if s := r.wait(waiting, ended); s.State != wire.StateDone || s.Batches != 10 {
		t.Errorf("the job that waited: %+v", s)
	}
	r.until(func() bool { return submit() == nil })
	r.until(func() bool {
		_, err := files.Put(r.ctx, "files/small", io.LimitReader(rand.Reader, 1<<20))
		return err == nil
	})
}

func hasResult(r *rig, task *wire.Task) bool {
	has, err := r.b.HasResult(r.ctx, task.Job, task.Task)
	return err == nil && has
}

// More jobs than may wait are refused, until some have ended.
func TestFullQueue(t *testing.T) {
	r := newRig(t)
	b := brokertest.Connect(t, r.url)
	ctx, cancel := context.WithCancel(r.ctx)
	done := make(chan error, 1)
	go func() { done <- coordinator.Run(ctx, coordinator.Config{Broker: b, Name: "one", MaxQueued: 2}) }()
	defer func() {
		cancel()
		r.must(<-done)
	}()
	var jobs []uint64
	var refused error
	for range 30 {
		s, err := r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":1}`))
		if err != nil {
			refused = err
			break
		}
		jobs = append(jobs, s.Job)
		// Until it is admitted it doesn't count.
		r.until(func() bool { _, err := r.c.Job(r.ctx, s.Job); return err == nil })
	}
	if code(refused) != wire.CodeBusy || !strings.Contains(refused.Error(), "submit again") {
		t.Fatalf("after %d jobs: %v", len(jobs), refused)
	}
	if len(jobs) != 18 {
		t.Errorf("%d jobs taken, want 16 active ones and 2 that wait", len(jobs))
	}
	r.work(jobs[0], 1, "node")
	r.until(func() bool {
		s, err := r.c.Submit(r.ctx, []byte(`{"model":"net","data":"set","from":1,"to":1}`))
		jobs = append(jobs, s.Job)
		return err == nil
	})
	for _, job := range jobs[1:] {
		if job != 0 {
			r.work(job, 1, "node")
			r.wait(job, ended)
		}
	}
}

// A document that no message holds is refused with a reason, and changes nothing.
func TestMessageTooLarge(t *testing.T) {
	r := newRig(t)
	r.coordinator("one")
	doc := []byte(`{"model":"` + strings.Repeat("x", 2<<20) + `","from":1,"to":1}`)
	if _, err := r.c.Submit(r.ctx, doc); code(err) != wire.CodeBadDocument {
		t.Errorf("a document of 2 MiB: %v", err)
	}
	if _, err := r.b.JS.Publish(r.ctx, broker.SubjectJobs, doc); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("published past the service: %v", err)
	}
	job := r.submit(1, 3)
	r.work(job, 3, "node")
	r.wait(job, ended)
}

// A client that doesn't read what it asked for is cut off, and holds nobody up.
func TestSlowConsumer(t *testing.T) {
	r := newRig(t)
	r.coordinator("one")
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "nats://"))
	r.must(err)
	defer conn.Close()
	_, err = io.WriteString(conn, "CONNECT {\"verbose\":false,\"name\":\"slow\"}\r\nSUB > 1\r\nPING\r\n")
	r.must(err)
	job := r.submit(1, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.work(job, 10, "node")
		r.wait(job, ended)
	}()
	// What the others say goes to the client as well: more than the server, the
	// kernel and the client's patience hold.
	sent := 0
	big := make([]byte, 512<<10)
	r.until(func() bool {
		r.must(r.b.NC.Publish("elsewhere", big))
		sent++
		if sent%64 == 0 {
			r.must(r.b.NC.FlushTimeout(10 * time.Second))
		}
		return sent >= 1024
	})
	<-done
	// The rest of what was sent comes, and then the end.
	r.must(conn.SetReadDeadline(time.Now().Add(time.Minute)))
	n, err := io.Copy(io.Discard, conn)
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		t.Fatalf("the client that doesn't read is still served after %d bytes", n)
	}
	if n >= int64(sent*len(big)) {
		t.Errorf("it got all %d bytes", n)
	}
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What queues are asked for tasks that are there. One whose tasks in flight are limited
// leaves a question at the limit unanswered until it has expired.
const (
	nextSome      = `{"batch":%d,"no_wait":true}`
	nextOfLimited = `{"batch":%d,"no_wait":true,"expires":10000000}`
)

// What a server says in the header of a message that is no task.
const (
	headerStatus = "Status"
	headerReason = "Description"
	statusNone   = "404"
	statusLate   = "408"
	statusNobody = "503"
)

// more is how long a queue is waited for that has sent some of the tasks it was asked
// for: what comes later is the first of the next answer.
const more = 5 * time.Millisecond

// puller asks queues for tasks, one question at a time. All questions of a connection
// have one subscription for their answers: the client's own way makes one for each, and
// takes the server more time than the task. They come to a subject of the node's, where
// coordinators listen too: what was on its way to a node that died is known so.
type puller struct {
	nc *nats.Conn
	mu sync.Mutex
	// sub is where answers come, each question under a number of its own; nil after one
	// that got no answer: it might still come, for a task that somebody else has by then.
	sub   *nats.Subscription
	inbox string
	asked uint64
	// node is whom the answers are for.
	node string
}

// taskQueue is a [TaskQueue] on a consumer.
type taskQueue struct {
	*puller
	node, name string
	// question is what it is asked, for a number of tasks.
	question string
}

// Next asks for one task that is there.
func (q taskQueue) Next(ctx context.Context) (Delivery, error) {
	list, err := q.NextSome(ctx, 1)
	if len(list) == 0 {
		return nil, err
	}
	return list[0], nil
}

// NextSome asks for at most so many tasks that are there. An error comes with none.
// A server tells its queues of a new task after it has confirmed it, so one that was
// published a moment ago may not be there yet.
func (q taskQueue) NextSome(ctx context.Context, most int) ([]Delivery, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	list, err := q.some(ctx, most)
	if err != nil && !errors.Is(err, errNoTask) && q.sub != nil {
		go handBackLate(q.nc, q.sub)
		q.puller.sub = nil
	}
	if len(list) > 0 {
		return list, nil
	}
	if err != nil {
		err = fmt.Errorf("ask queue %s: %w", q.name, err)
	}
	return nil, err
}

// handBackLate hands back what still comes in answer to questions that were given up,
// until the queue has it back anyway. The server sends it although nobody waits for it:
// coordinators listen.
func handBackLate(nc *nats.Conn, sub *nats.Subscription) {
	ctx, cancel := context.WithTimeout(context.Background(), AckWait)
	defer cancel()
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			_ = sub.Unsubscribe()
			return
		}
		if m.Header.Get(headerStatus) == "" {
			_ = nc.Publish(m.Reply, []byte(nak))
		}
	}
}

func (q taskQueue) some(ctx context.Context, most int) (list []Delivery, err error) {
	if q.sub != nil && q.puller.node != q.node {
		_ = q.sub.Unsubscribe()
		q.puller.sub = nil
	}
	if q.sub == nil {
		inbox := q.nc.NewInbox()
		q.puller.node, q.puller.inbox = q.node, prefixGiven+q.node+inbox[strings.LastIndexByte(inbox, '.'):]
		if q.puller.sub, err = q.nc.SubscribeSync(q.inbox + ".*"); err != nil {
			return nil, err
		}
	}
	// Nothing waits for what came too late for the answer before.
	for pending, _, _ := q.sub.Pending(); pending > 0 && len(list) < most; pending-- {
		if m, err := q.sub.NextMsg(more); err == nil && m.Header.Get(headerStatus) == "" {
			list = append(list, q.delivery(m))
		}
	}
	if len(list) > 0 {
		return list, nil
	}
	q.puller.asked++
	reply := q.inbox + "." + strconv.FormatUint(q.asked, 10)
	if err := q.nc.PublishRequest(apiNext+streamTasks+"."+q.name, reply, fmt.Appendf(nil, q.question, most)); err != nil {
		return nil, err
	}
	for len(list) < most {
		m, err := q.await(ctx, len(list) > 0)
		switch {
		case errors.Is(err, nats.ErrTimeout) && len(list) > 0:
			return list, nil
		case errors.Is(err, nats.ErrNoResponders):
			return list, jetstream.ErrConsumerNotFound
		case err != nil:
			return list, err
		}
		status := m.Header.Get(headerStatus)
		if status == "" {
			list = append(list, q.delivery(m))
			continue
		}
		if m.Subject != reply {
			continue // the answer to another question
		}
		switch status {
		case statusNone, statusLate:
			return list, nil
		case statusNobody:
			return list, jetstream.ErrConsumerNotFound
		}
		return list, fmt.Errorf("%w: %s %s", errNoTask, status, m.Header.Get(headerReason))
	}
	return list, nil
}

// await waits for the next message: until ctx ends, or a moment after others have come.
func (q taskQueue) await(ctx context.Context, some bool) (*nats.Msg, error) {
	if some {
		return q.sub.NextMsg(more)
	}
	m, err := q.sub.NextMsgWithContext(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return m, err
}

func (q taskQueue) delivery(m *nats.Msg) Delivery {
	n, ok := deliveries(m.Reply)
	if !ok {
		n = 1 // it doesn't tell
	}
	return delivery{q.nc, m.Subject, m.Reply, m.Data, n}
}

// errNoTask is returned when a queue answers with something else than a task.
var errNoTask = errors.New("the queue can't answer now")

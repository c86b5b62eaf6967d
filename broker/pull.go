package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// nextOne asks a queue for one task that is there.
const nextOne = `{"batch":1,"no_wait":true}`

// What a server says in the header of a message that is no task.
const (
	headerStatus = "Status"
	headerReason = "Description"
	statusNone   = "404"
	statusLate   = "408"
	statusNobody = "503"
)

// puller asks queues for tasks, one at a time. All questions of a connection have
// one subscription for their answers: the client's own way makes one for each, and
// takes the server more time than the task.
type puller struct {
	nc *nats.Conn
	mu sync.Mutex
	// sub is where answers come, nil after one that did not: it might still come, and
	// would be taken for the next one's.
	sub *nats.Subscription
}

// taskQueue is a [TaskQueue] on a consumer.
type taskQueue struct {
	*puller
	name string
}

// Next asks for one task that is there.
func (q taskQueue) Next(ctx context.Context) (Delivery, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sub == nil {
		sub, err := q.nc.SubscribeSync(q.nc.NewInbox())
		if err != nil {
			return nil, fmt.Errorf("ask queue %s: %w", q.name, err)
		}
		q.puller.sub = sub
	}
	m, err := q.ask(ctx)
	if err != nil {
		_ = q.sub.Unsubscribe()
		q.puller.sub = nil
		return nil, fmt.Errorf("ask queue %s: %w", q.name, err)
	}
	if len(m.Data) > 0 || m.Header.Get(headerStatus) == "" {
		n, ok := deliveries(m.Reply)
		if !ok {
			n = 1 // it doesn't tell
		}
		return delivery{q.nc, m.Subject, m.Reply, m.Data, n}, nil
	}
	switch status := m.Header.Get(headerStatus); status {
	case statusNone, statusLate:
		return nil, nil
	case statusNobody:
		return nil, fmt.Errorf("ask queue %s: %w", q.name, jetstream.ErrConsumerNotFound)
	default:
		return nil, fmt.Errorf("ask queue %s: %w: %s %s", q.name, errNoTask, status, m.Header.Get(headerReason))
	}
}

// errNoTask is returned when a queue answers with something else than a task.
var errNoTask = errors.New("the queue can't answer now")

func (q taskQueue) ask(ctx context.Context) (*nats.Msg, error) {
	if err := q.nc.PublishRequest(apiNext+streamTasks+"."+q.name, q.sub.Subject, []byte(nextOne)); err != nil {
		return nil, err
	}
	m, err := q.sub.NextMsgWithContext(ctx)
	if errors.Is(err, nats.ErrNoResponders) {
		return nil, jetstream.ErrConsumerNotFound
	}
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return m, err
}

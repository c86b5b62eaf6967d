package worker

import (
	"cmp"
	"sync"
)

// line holds the tasks that are ready to be computed, and gives them out in the
// order of service: by priority, then by the place that a task has among those of all
// jobs, see [table], copies of others' tasks last. A task that was pulled late but is
// due early goes first.
type line struct {
	// some has one for each task in the line; closed when there will be no more.
	some  chan struct{}
	mu    sync.Mutex
	tasks []*held
}

func newLine(most int) *line { return &line{some: make(chan struct{}, most)} }

// put adds a task. There must be room for it.
func (l *line) put(t *held) {
	l.mu.Lock()
	l.tasks = append(l.tasks, t)
	l.mu.Unlock()
	l.some <- struct{}{}
}

// take removes the task that is due. The caller has received from some.
func (l *line) take() *held {
	l.mu.Lock()
	defer l.mu.Unlock()
	best := 0
	for i, t := range l.tasks {
		if t.before(l.tasks[best]) {
			best = i
		}
	}
	t := l.tasks[best]
	l.tasks = append(l.tasks[:best], l.tasks[best+1:]...)
	return t
}

// end closes the line and returns what is left.
func (l *line) end() (left []*held) {
	close(l.some)
	for range l.some {
		left = append(left, l.take())
	}
	return left
}

// before reports whether a task is to be computed before another one.
func (t *held) before(o *held) bool {
	if t.copied != o.copied {
		return o.copied
	}
	return cmp.Or(cmp.Compare(o.priority, t.priority), cmp.Compare(t.place, o.place)) < 0
}

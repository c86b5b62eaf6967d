package worker

import (
	"container/list"
	"context"
	"errors"
	"sync"
)

// shelf keeps values by digest, those used last, as far as their costs fit, and
// makes each one once, however many ask at the same time. Values are shared: they
// must not be changed.
type shelf[V any] struct {
	most int64
	// cost of a value, in the unit of most; nil means 1 each.
	cost func(V) int64

	mu    sync.Mutex
	items map[string]*list.Element // of *item[V]
	order list.List                // the one used last is in front
	total int64
}

type item[V any] struct {
	key   string
	done  chan struct{}
	value V
	err   error
	cost  int64 // 0 while it is being made
}

// get returns the value of key. Whoever comes first makes it; should that one be
// cancelled, the next in line does. A panic in load becomes an error.
func (s *shelf[V]) get(ctx context.Context, key string, load func() (V, error)) (V, error) {
	for {
		v, err := s.try(ctx, key, load)
		if !errors.Is(err, context.Canceled) || ctx.Err() != nil {
			return v, err
		}
	}
}

func (s *shelf[V]) try(ctx context.Context, key string, load func() (V, error)) (V, error) {
	s.mu.Lock()
	if e := s.items[key]; e != nil {
		s.order.MoveToFront(e)
		s.mu.Unlock()
		it := e.Value.(*item[V])
		select {
		case <-it.done:
			return it.value, it.err
		case <-ctx.Done():
			var none V
			return none, ctx.Err()
		}
	}
	if s.items == nil {
		s.items = map[string]*list.Element{}
	}
	it := &item[V]{key: key, done: make(chan struct{})}
	e := s.order.PushFront(it)
	s.items[key] = e
	s.mu.Unlock()
	s.fill(e, it, load)
	return it.value, it.err
}

// fill makes the value of an empty place. A failed one is removed, so that the
// next to ask tries again.
func (s *shelf[V]) fill(e *list.Element, it *item[V], load func() (V, error)) {
	defer close(it.done)
	defer func() {
		if p := recover(); p != nil {
			it.err = panicked("load "+it.key, p)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if it.err != nil {
			s.remove(e)
			return
		}
		it.cost = 1
		if s.cost != nil {
			it.cost = s.cost(it.value)
		}
		s.total += it.cost
		s.trim()
	}()
	it.value, it.err = load()
}

// trim drops what was unused longest until the rest fits. What is being made
// costs nothing yet and stays, so that it is made once.
func (s *shelf[V]) trim() {
	for e := s.order.Back(); e != nil && s.total > s.most; {
		before := e.Prev()
		if e.Value.(*item[V]).cost > 0 {
			s.remove(e)
		}
		e = before
	}
}

func (s *shelf[V]) remove(e *list.Element) {
	it := s.order.Remove(e).(*item[V])
	s.total -= it.cost
	delete(s.items, it.key)
}

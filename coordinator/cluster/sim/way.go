package sim

import (
	"context"
	"time"
)

// chance is true with probability p, under the lock.
func (c *Conn) chance(p float64) bool { return p > 0 && c.rng.Float64() < p }

// fate is what becomes of a message.
type fate struct {
	delay               time.Duration
	lost, twice, resent bool
}

func (c *Conn) fate() fate {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	f := fate{delay: minDelay + time.Duration(c.rng.Int64N(int64(usualDelay))), lost: c.chance(c.w.weather.Lost),
		twice: c.chance(c.w.weather.Twice), resent: c.chance(c.w.weather.Resent)}
	if c.chance(c.w.weather.Slow) {
		f.delay += time.Duration(c.rng.Int64N(int64(c.w.weather.MaxDelay)))
	}
	return f
}

func (c *Conn) delay() time.Duration { return c.fate().delay }

// sleep waits; false when ctx or the process ended first.
func (c *Conn) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-c.dead:
	case <-c.w.over:
	}
	return false
}

// ready waits until messages pass; false when that is over.
func (c *Conn) ready(ctx context.Context) bool {
	for {
		c.w.mu.Lock()
		frozen, changed, ok := c.frozen, c.w.changed, c.connected && !c.cut && c.frozen == nil
		c.w.mu.Unlock()
		select {
		case <-c.dead:
			return false
		case <-c.w.over:
			return false
		case <-ctx.Done():
			return false
		default:
		}
		if ok {
			return true
		}
		select {
		case <-frozen: // for ever, if there is none
		case <-changed:
		case <-ctx.Done():
		case <-c.dead:
		case <-c.w.over:
		}
	}
}

// travel takes a message to the server or back; false when it got lost. It goes
// on when the sender no longer waits. What is sent without a connection waits for the
// next one; what is sent over one that is cut off, for the end of that, or is lost with
// the connection.
func (c *Conn) travel(f fate) bool {
	c.w.mu.Lock()
	life, connected := c.life, c.connected
	c.w.mu.Unlock()
	if f.lost || !c.ready(context.Background()) {
		return false
	}
	c.w.mu.Lock()
	same := c.life == life
	life = c.life
	c.w.mu.Unlock()
	if connected && !same {
		return false
	}
	t := time.NewTimer(f.delay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.w.over:
		return false
	case <-life:
		if !f.resent {
			return false
		}
	}
	select {
	case <-c.dead:
		return !f.lost && f.resent // what a killed process had sent may still arrive
	default:
	}
	return c.ready(context.Background())
}

// receive takes a message from the server over the connection with the given life;
// false when it got lost.
func (c *Conn) receive(life chan struct{}, f fate) bool {
	if f.lost || !c.sleep(context.Background(), f.delay) || !c.ready(context.Background()) {
		return false
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.life == life
}

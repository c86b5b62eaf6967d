package render

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// plainEvery is how often progress is told where no terminal can redraw it.
const plainEvery = 2 * time.Second

// Progress shows bars on a terminal and plain lines elsewhere.
type Progress struct {
	w    io.Writer
	bars *mpb.Progress // nil when w is no terminal

	mu    sync.Mutex
	plain []*Bar
	told  time.Time
}

// Bar is one line of progress.
type Bar struct {
	p     *Progress
	name  string
	total int64
	share bool // total says nothing to people
	bar   *mpb.Bar

	mu   sync.Mutex
	done int64
	note string
	told int64 // done when a plain line was printed last
}

// home begins a line on a terminal. The cursor isn't at its beginning when the
// terminal has echoed a key, such as the ^C of an interrupt.
const home = "\r"

// NewProgress starts showing progress on w. Close ends it.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{w: w, told: time.Now()}
	if IsTerminal(w) {
		p.bars = mpb.New(mpb.WithOutput(w), mpb.WithWidth(40), mpb.WithRefreshRate(100*time.Millisecond))
	}
	return p
}

// shareUnits is how finely a share is shown.
const shareUnits = 1000

// Bar adds a bar of total units.
func (p *Progress) Bar(name string, total int64) *Bar { return p.add(name, total, false) }

// Share adds a bar that shows a share of a whole.
func (p *Progress) Share(name string) *Bar { return p.add(name, shareUnits, true) }

func (p *Progress) add(name string, total int64, share bool) *Bar {
	b := &Bar{p: p, name: name, total: max(total, 1), share: share, told: -1}
	if p.bars == nil {
		p.mu.Lock()
		p.plain = append(p.plain, b)
		p.mu.Unlock()
		return b
	}
	columns := []decor.Decorator{decor.Percentage(decor.WCSyncSpace), decor.Any(func(decor.Statistics) string { return "  " + b.text() })}
	if !share {
		columns = append([]decor.Decorator{decor.CountersNoUnit("%d/%d", decor.WCSyncSpace)}, columns...)
	}
	b.bar = p.bars.New(b.total, mpb.BarStyle().Tip("="),
		mpb.PrependDecorators(decor.Name(home+name, decor.WCSyncSpaceR)), mpb.AppendDecorators(columns...))
	return b
}

func (b *Bar) text() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.note
}

// Set says how much is done, with a note such as the rate.
func (b *Bar) Set(done int64, note string) {
	b.mu.Lock()
	b.done, b.note = min(max(done, 0), b.total), note
	b.mu.Unlock()
	if b.bar != nil {
		b.bar.SetCurrent(b.done)
		return
	}
	b.p.tell(false)
}

// SetShare is Set for a bar made by Share; done goes from 0 to 1.
func (b *Bar) SetShare(done float64, note string) { b.Set(int64(done*shareUnits), note) }

// line is the bar as plain text.
func (b *Bar) line() string {
	if b.share {
		return fmt.Sprintf("%s  %d %%  %s\n", b.name, 100*b.done/b.total, b.note)
	}
	return fmt.Sprintf("%s  %d/%d  %d %%  %s\n", b.name, b.done, b.total, 100*b.done/b.total, b.note)
}

// tell prints a plain line for every bar that moved, not too often.
func (p *Progress) tell(last bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	due := last || time.Since(p.told) >= plainEvery
	for _, b := range p.plain {
		b.mu.Lock()
		if b.done != b.told && (due && b.done > 0 || b.done == b.total) {
			io.WriteString(p.w, b.line())
			b.told = b.done
		}
		b.mu.Unlock()
	}
	if due {
		p.told = time.Now()
	}
}

// Line prints a line of its own, above the bars where there are any.
func (p *Progress) Line(format string, args ...any) {
	line := fmt.Sprintf(format, args...) + "\n"
	if p.bars != nil {
		if _, err := p.bars.Write([]byte(home + line)); err == nil {
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	io.WriteString(p.w, line)
}

// Close shows the last state and leaves it on the screen. It may be called again.
func (p *Progress) Close() {
	if p.bars == nil {
		p.tell(true)
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bars.Shutdown()
}

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// progress shows how far something is, on standard error: a bar that is drawn over on a terminal, a
// line now and then elsewhere. It belongs to one goroutine.
type progress struct {
	w        io.Writer
	what     string
	total    int // 0: not known
	done     int
	note     string
	terminal bool
	drawn    time.Time
	began    time.Time
	open     bool // the bar stands on the current line
}

func newProgress(w io.Writer, what string, total int) *progress {
	p := &progress{w: w, what: what, total: total, began: time.Now()}
	if f, ok := w.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	p.drawn = p.began
	return p
}

// set says how far it is.
func (p *progress) set(done int) {
	p.done = done
	every := 100 * time.Millisecond
	if !p.terminal {
		every = 2 * time.Second
	}
	if time.Since(p.drawn) >= every {
		p.draw()
	}
}

func (p *progress) draw() {
	p.drawn = time.Now()
	rate := float64(p.done) / max(time.Since(p.began).Seconds(), 1e-3)
	text := fmt.Sprintf("%d %s, %.0f/s", p.done, p.what, rate)
	if p.total > 0 {
		const width = 30
		full := min(width, width*p.done/p.total)
		text = fmt.Sprintf("[%s%s] %3d%% %d/%d %s, %.0f/s", strings.Repeat("#", full), strings.Repeat(".", width-full), 100*p.done/p.total, p.done, p.total, p.what, rate)
	}
	if p.note != "" {
		text += "  " + p.note
	}
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", text)
		p.open = true
		return
	}
	fmt.Fprintln(p.w, text)
}

// say prints a line above the bar.
func (p *progress) say(format string, args ...any) {
	p.clear()
	fmt.Fprintf(p.w, format+"\n", args...)
	if p.terminal && p.done > 0 && p.done < p.total {
		p.draw()
	}
}

func (p *progress) clear() {
	if p.open {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.open = false
	}
}

// end leaves the bar behind.
func (p *progress) end() {
	if p.open {
		p.draw()
		fmt.Fprintln(p.w)
		p.open = false
	}
}

package itest

import (
	"math/rand/v2"
	"sync"
	"time"
)

// Weather is what happens to the bytes that go one way between two ends. The zero value is a perfect
// network.
type Weather struct {
	Cut        bool          // nothing arrives; what was sent before arrives after the cut, as with TCP
	Delay      time.Duration // of every piece
	Jitter     time.Duration // up to so much more
	Stall      float64       // share of the pieces that arrive only after StallFor: a packet lost and sent again
	StallFor   time.Duration
	Reset      float64 // share of the pieces at which the connection breaks
	BytesPerMs int     // bandwidth; 0: no limit
}

// path is one way between two ends, over all connections between them. It is safe for concurrent use.
type path struct {
	mu      sync.Mutex
	weather Weather       // guarded by mu
	free    time.Time     // guarded by mu: when the bandwidth is free again
	changed chan struct{} // guarded by mu: closed when weather changes
}

func newPath() *path { return &path{changed: make(chan struct{})} }

func (p *path) set(w Weather) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.weather = w
	close(p.changed)
	p.changed = make(chan struct{})
}

// send returns when a piece of n bytes that is sent now arrives, and whether the connection breaks
// instead.
func (p *path) send(n int, now time.Time) (at time.Time, breaks bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w := &p.weather
	at = now
	if w.BytesPerMs > 0 {
		if p.free.Before(now) {
			p.free = now
		}
		p.free = p.free.Add(time.Duration(n) * time.Millisecond / time.Duration(w.BytesPerMs))
		at = p.free
	}
	at = at.Add(w.Delay)
	if w.Jitter > 0 {
		at = at.Add(rand.N(w.Jitter))
	}
	if w.Stall > 0 && rand.Float64() < w.Stall {
		at = at.Add(w.StallFor)
	}
	return at, w.Reset > 0 && rand.Float64() < w.Reset
}

// awaitOpen waits until the path is not cut; false if end came first.
func (p *path) awaitOpen(end <-chan struct{}) bool {
	for {
		p.mu.Lock()
		cut, changed := p.weather.Cut, p.changed
		p.mu.Unlock()
		if !cut {
			return true
		}
		select {
		case <-changed:
		case <-end:
			return false
		}
	}
}

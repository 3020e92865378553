package sim

import (
	"slices"
	"time"

	"github.com/atlas-smr/smr/internal/engine"
)

// wallClock is how a replica's clock differs from virtual time. A replica's timers run by it, too.
type wallClock struct {
	skew   time.Duration // for good
	jump   time.Duration // of the moment
	frozen bool
	at     time.Duration // virtual time at which it froze
}

// wrong reports whether the clock is off by more than its skew.
func (w *wallClock) wrong() bool { return w.frozen || w.jump != 0 }

// now is the replica's clock.
func (n *node) now() time.Time {
	t := n.c.clk.now
	if n.clock.frozen {
		t = n.clock.at
	}
	return start.Add(t + n.clock.skew + n.clock.jump)
}

// jumpClock sets the clock off by d.
func (n *node) jumpClock(d time.Duration) {
	n.c.trace.event("clock-jump", uint64(n.id), uint64(d))
	n.clock.jump = d
	n.rearm()
}

// freezeClock stops the clock, and with it the replica's timers, or lets it go on.
func (n *node) freezeClock(stop bool) {
	n.c.trace.event("clock-freeze", uint64(n.id))
	n.clock.frozen, n.clock.at = stop, n.c.clk.now
	n.rearm()
}

// alarm is a timer that is set.
type alarm struct {
	due time.Time // on the replica's clock
	gen uint64    // of what is scheduled for it; older ones are void
}

func (n *node) setTimer(t engine.Timer) {
	n.timers[t.ID] = alarm{due: n.now().Add(t.After)}
	n.arm(t.ID)
}

// rearm schedules every timer anew, after the clock was set.
func (n *node) rearm() {
	if !n.up {
		return
	}
	ids := make([]engine.TimerID, 0, len(n.timers))
	for id := range n.timers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		n.arm(id)
	}
}

func (n *node) arm(id engine.TimerID) {
	n.timerGen++
	gen, a := n.timerGen, n.timers[id]
	a.gen = gen
	n.timers[id] = a
	n.after(a.due.Sub(n.now()), func() {
		switch a, ok := n.timers[id]; {
		case !ok || a.gen != gen || n.clock.frozen:
		case n.now().Before(a.due):
			n.arm(id)
		default:
			delete(n.timers, id)
			n.c.trace.event("timer", uint64(n.id), uint64(id))
			n.input(func(now time.Time) { n.engine.Expire(now, id, &n.out) })
		}
	})
}

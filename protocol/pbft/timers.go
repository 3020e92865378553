package pbft

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol"
)

// The timers.
const (
	timerProgress protocol.TimerID = 1 // known work must be decided within the view's timeout
	timerIdle     protocol.TimerID = 2 // primary: next heartbeat; others: is it alive
	timerResend   protocol.TimerID = 3 // nothing is sent once
	timerClock    protocol.TimerID = 4 // a proposal ahead of the clock
	timerTail     protocol.TimerID = 5 // primary: nothing came to carry the certified tail
)

// timerState is what the timers need.
type timerState struct {
	timeout    time.Duration // the view's: doubled by a failed view, shortened by each decision
	failures   int           // failed views in a row
	waiting    bool          // Pending
	progressed bool          // the progress timer starts anew
	progress   bool          // the progress timer runs
	idle       bool          // the idle timer runs
	clock      bool          // the clock timer runs
	tail       bool          // the tail timer runs
	lateTail   bool          // as primary: nobody gave a batch to carry the certified tail
	late       bool          // the progress timer expired while the replica itself was behind
	lagging    int           // resend ticks in a row without reaching what is certified
	heard      time.Time     // from the primary, anything
	sent       time.Time     // as primary: anything that shows life
	tickAt     smr.SeqNo     // decided at the last resend tick
	tickView   smr.View
}

// entered restarts the clocks at view entry.
func (t *timerState) entered(now time.Time) {
	t.progressed, t.heard, t.lateTail, t.late = true, now, false, false
	t.sent = time.Time{}
	t.idle = false
}

// working reports whether something known waits to be decided.
func (r *Replica) working() bool {
	if mutant.On(mutant.TimerEndsEarly) && r.bound && r.tip.seq > r.decided.seq {
		return false
	}
	return r.timers.waiting || r.tail > r.decided.seq || r.bound && r.tip.seq > r.decided.seq || r.first != nil || len(r.ahead) > 0
}

// arm sets and stops the timers after an input.
func (r *Replica) arm() {
	t := &r.timers
	if !r.voting {
		return
	}
	switch want := !r.timedOut && r.working(); {
	case want && (!t.progress || t.progressed):
		t.progress = true
		r.set(timerProgress, t.timeout)
	case !want && t.progress:
		t.progress = false
		r.out.StopTimer = append(r.out.StopTimer, timerProgress)
	}
	t.progressed = false
	if !t.idle {
		t.idle = true
		if r.primary() == r.p.Self {
			r.set(timerIdle, r.p.Heartbeat)
		} else {
			r.set(timerIdle, r.patience())
		}
	}
}

// patience is how long a silent primary is taken to be alive.
func (r *Replica) patience() time.Duration { return r.timers.timeout + 3*r.p.Heartbeat }

func (r *Replica) set(id protocol.TimerID, after time.Duration) {
	r.out.SetTimer = append(r.out.SetTimer, protocol.Timer{ID: id, After: after})
}

// awaitClock waits until a proposal's time is no longer too far ahead.
func (r *Replica) awaitClock(nanos int64) {
	if !r.timers.clock {
		r.timers.clock = true
		r.set(timerClock, min(time.Duration(nanos), r.p.Resend))
	}
}

// Expire implements protocol.Machine.
func (r *Replica) Expire(now time.Time, id protocol.TimerID, out *protocol.Effects) {
	r.begin(now, out)
	switch id {
	case timerProgress:
		r.timers.progress = false
		r.stalled()
	case timerIdle:
		r.timers.idle = false
		r.idle()
	case timerResend:
		r.tick()
		r.set(timerResend, r.p.Resend)
	case timerTail:
		r.timers.tail, r.timers.lateTail = false, true
	case timerClock:
		r.timers.clock = false
	}
	r.end()
}

// stalled complains about the primary. A replica that knows of decisions it lacks is itself late
// the first time, and fetches instead.
func (r *Replica) stalled() {
	if r.top != nil && r.top.Core.Seq > r.decided.seq {
		if !r.timers.late {
			r.timers.late = true
			r.refetch()
			return
		}
	}
	r.complain("stall")
}

// idle sends a heartbeat, or complains about a primary that fell silent.
func (r *Replica) idle() {
	t := &r.timers
	if r.primary() != r.p.Self {
		rest := r.patience() - r.now.Sub(t.heard)
		if rest > 0 {
			t.idle = true
			r.set(timerIdle, rest)
		} else if !r.timedOut {
			r.complain("silent")
		}
		return
	}
	if !r.voting || r.timedOut || !r.mayLead {
		return
	}
	if t.sent.IsZero() || r.now.Sub(t.sent) >= r.p.Heartbeat {
		t.sent = r.now
		r.send(protocol.Everyone, &Heartbeat{View: r.view, Newest: r.proof})
	}
}

// onHeartbeat learns of newer decisions, and of a newer view, of which a heartbeat is no proof.
func (r *Replica) onHeartbeat(i int, from smr.NodeID, h *Heartbeat) {
	switch {
	case h.View < r.view:
		r.answerOld(i, from)
	case h.View > r.view:
		r.askView(i)
	case r.ownVote && !r.working():
		r.ownVote = false // it is alive, and nothing waits
	}
	if h.Newest != nil {
		if h.Newest.Core.Seq > r.decided.seq {
			r.onCertificate(h.Newest)
		}
	}
	if h.Newest == nil && r.decided.seq > 0 || h.Newest != nil && h.Newest.Core.Seq < r.decided.seq {
		r.answerDecided(i, from)
	}
}

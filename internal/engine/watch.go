package engine

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol"
)

// watched bounds the forwarded bundles whose overtaking is counted: the oldest ones.
const watchedLimit = 64

// forwardBytes bounds what is forwarded to all replicas at one tick.
const forwardBytes = 512 << 10

// announceEvery is how many resends pass between two announcements of the newest checkpoint.
const announceEvery = 8

// watch looks whether the primary does its duty: stall, censorship, slowness.
type watch struct {
	lastDecision time.Time
	lastProgress time.Time // the last decision of anything new
	entered      time.Time // view entry
	watched      []*entry  // forwarded and undecided, oldest arrival first
	slow         slowness
	ticks        int // resends so far
}

// decided stops the stall clock and measures throughput, by what was decided for the first time.
func (w *watch) decided(now time.Time, fresh []*entry) {
	w.lastDecision = now
	if len(fresh) > 0 {
		w.lastProgress = now
	}
	for _, x := range fresh {
		w.slow.bytes += len(x.b.Raw)
	}
}

// settle ends the watch over a bundle.
func (w *watch) settle(x *entry) {
	for i, y := range w.watched {
		if x == y {
			w.watched = append(w.watched[:i], w.watched[i+1:]...)
			return
		}
	}
}

// passed counts a decision against the watched bundles that were forwarded before those it decided
// arrived; what never waited here came later, with its proposal. A small decision counts as least
// bytes, so that a trickle does not hide a victim.
func (w *watch) passed(fresh []*entry, least int) {
	for _, y := range w.watched {
		n := 0
		for _, x := range fresh {
			if x.arrival == 0 || y.mark < x.arrival {
				n += len(x.b.Raw)
			}
		}
		if n > 0 && !y.inFlight() {
			y.overtaken += max(n, least)
		}
	}
}

// viewEntered restarts every clock.
func (e *Engine) viewEntered(now time.Time) {
	w := &e.watch
	w.entered, w.lastDecision, w.lastProgress = now, now, now
	for _, x := range w.watched {
		x.forwarded, x.overtaken = now, 0
	}
	w.slow.restart(now)
}

// tick looks at everything that is judged by time, and repeats what may have been lost.
func (e *Engine) tick(now time.Time, out *Output) {
	e.setTimer(now, ownerWatch, 0, e.cfg.TickTime, out)
	st := e.ord.Status()
	e.forwardLate(now, st, out)
	e.suspect(now, st, out)
	if e.watch.slow.resent.IsZero() || now.Sub(e.watch.slow.resent) > max(e.cfg.Params.Resend, 8*e.cfg.TickTime) {
		e.watch.slow.resent = now
		e.roots.Resend(0, &e.teff)
		if e.watch.ticks++; e.watch.ticks%announceEvery == 1 {
			e.roots.Announce(&e.teff)
		}
	}
	// Certified beyond reach and no progress for a timeout: fetch, whatever the ordering thinks. A
	// checkpoint's certificate counts too: once the logs end in a checkpoint there may be no other proof.
	certified := max(st.Certified, e.roots.Newest().Seq())
	if certified > e.deliver.decided && !e.log.Active() && now.Sub(e.watch.lastDecision) > max(st.Timeout, e.cfg.TickTime) {
		e.log.Catch(now, e.deliver.position(), certified, nil, &e.teff)
	}
}

// forwardLate sends bundles that waited half the view's timeout to all replicas: the primary may
// lack them, and others begin to watch over them.
func (e *Engine) forwardLate(now time.Time, st protocol.Status, out *Output) {
	if st.Leading || st.Timeout == 0 {
		return
	}
	var late []*smr.Bundle
	bytes := 0
	for x := e.store.head.next; x != &e.store.head && len(late) < smr.MaxBatchBundles; x = x.next {
		if now.Sub(x.since) < st.Timeout/2 || bytes+len(x.b.Raw) > forwardBytes && bytes > 0 {
			break // in arrival order: the rest is younger
		}
		if x.inFlight() || !x.forwarded.IsZero() && now.Sub(x.forwarded) < 4*st.Timeout {
			continue
		}
		if x.forwarded.IsZero() && len(e.watch.watched) < watchedLimit {
			e.watch.watched = append(e.watch.watched, x)
		}
		x.forwarded = now
		if x.mark == 0 {
			x.mark = e.store.arrivals
		}
		bytes += len(x.b.Raw)
		late = append(late, x.b)
	}
	if len(late) > 0 && len(e.voters) > 0 {
		out.Send = append(out.Send, bundlesFrame(late, e.voters...))
	}
}

// suspect tells the ordering that the primary neglects its duty, again and again while it does.
func (e *Engine) suspect(now time.Time, st protocol.Status, out *Output) {
	w := &e.watch
	if !e.enabled || st.Leading || st.Changing || e.deliver.ahead(e.cfg.Limits) || e.log.Active() || st.Timeout == 0 {
		w.slow.restart(now)
		return
	}
	var late []smr.BundleID
	for _, x := range w.watched {
		since := x.forwarded
		if since.Before(w.lastProgress) {
			since = w.lastProgress
		}
		if x.overtaken > e.cfg.Limits.OvertakeBytes || !x.inFlight() && now.Sub(since) > st.Timeout {
			late = append(late, x.b.ID)
		}
	}
	reason := ""
	switch {
	case len(late) > 0:
		reason = "censorship"
	case e.store.pooled > 0 && e.stalled(now, st) && !(mutant.On(mutant.TimerEndsEarly) && st.Tip > st.Decided):
		reason = "stall"
	case w.slow.judge(now, e.cfg.SlowFraction, st.Timeout, e.store.freeSize, e.cfg.Limits.BatchBytes):
		reason = "slow"
	default:
		return
	}
	out.Events = append(out.Events, protocol.Event{Kind: "suspect", Node: st.Primary, View: st.View, Seq: st.Decided, Detail: reason})
	e.ord.Suspect(now, late, &e.eff)
	e.absorb(now, out)
}

// stalled: known work and no decision of anything new within the view's timeout.
func (e *Engine) stalled(now time.Time, st protocol.Status) bool {
	since := e.store.head.next.since
	for _, t := range []time.Time{e.watch.lastProgress, e.watch.entered, st.Since} {
		if since.Before(t) {
			since = t
		}
	}
	return now.Sub(since) > st.Timeout
}

// slowness compares what the primary gets decided while work waits with what others got decided
// before (Clement et al., Aardvark, NSDI 2009). The expectation decays, so that a slower world is
// accepted in time.
type slowness struct {
	since    time.Time
	bytes    int
	expected float64 // bytes a second
	resent   time.Time
}

func (s *slowness) restart(now time.Time) { s.since, s.bytes = now, 0 }

// judge is called at every tick and looks at periods of four timeouts in which a full batch waited.
func (s *slowness) judge(now time.Time, fraction float64, timeout time.Duration, waiting, batch int) bool {
	if waiting < batch || s.since.IsZero() {
		s.restart(now)
		return false
	}
	passed := now.Sub(s.since)
	if passed < 4*timeout {
		return false
	}
	rate := float64(s.bytes) / passed.Seconds()
	slow := fraction > 0 && rate < fraction*s.expected
	s.expected = max(rate, 0.9*s.expected)
	if slow {
		s.expected /= 2
	}
	s.restart(now)
	return slow
}

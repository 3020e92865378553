package sim

import (
	"slices"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/wire"
)

// schedule puts the plan's faults on the clock. At most f replicas, counting Byzantine ones, are
// down at any time, but for power losses, which take all of them.
func (c *cluster) schedule() {
	for _, f := range c.plan.Faults {
		c.clk.after(f.At, func() { c.happen(f) })
	}
	if c.plan.Behaviour == "twins" {
		c.takeSides(c.stream(streamTwins, 0))
	}
	c.clk.after(c.plan.Chaos, c.heal)
}

// takeSides divides the replicas between the twins anew, again and again.
func (c *cluster) takeSides(r random) {
	for i := range c.side {
		c.side[i] = r.chance(0.5)
	}
	c.trace.event("sides", 0)
	c.clk.after(r.exponential(2*c.plan.Timeout), func() { c.takeSides(r) })
}

// budget is how many more correct replicas may be down now.
func (c *cluster) budget() int {
	left := c.members.F() - len(c.plan.Byzantine)
	for _, n := range c.nodes {
		if n.faulty() && !n.byzantine {
			left--
		}
	}
	return left
}

// someone picks a correct replica that is up, 0 if there is none.
func (c *cluster) someone(r random) smr.NodeID {
	var ids []smr.NodeID
	for _, n := range c.nodes {
		if n.up && !n.byzantine {
			ids = append(ids, n.id)
		}
	}
	if len(ids) == 0 {
		return 0
	}
	return ids[r.IntN(len(ids))]
}

// victim picks a correct replica that works, or with a chance of a half the primary if leader is set;
// nil if no more replicas may be faulty now.
func (f *occurrence) victim(leader bool) *node {
	id := f.c.someone(f.rng)
	if leader && f.rng.chance(0.5) {
		id = f.c.primary()
	}
	if id == 0 || f.c.budget() <= 0 || f.c.nodes[id-1].faulty() {
		return nil
	}
	return f.c.nodes[id-1]
}

// primary returns the primary of the view that most replicas are in.
func (c *cluster) primary() smr.NodeID {
	count := map[smr.NodeID]int{}
	best := smr.NodeID(0)
	for _, n := range c.nodes {
		if n.up {
			p := n.status().Primary
			if count[p]++; count[p] > count[best] || count[p] == count[best] && p < best {
				best = p
			}
		}
	}
	return best
}

// kill crashes a replica and restarts it after a while.
func (f *occurrence) kill(id smr.NodeID, downtime time.Duration) {
	c := f.c
	if id == 0 || c.budget() <= 0 {
		return
	}
	n := c.nodes[id-1]
	if n.faulty() {
		return
	}
	f.took()
	n.crash()
	c.clk.after(downtime, n.restart)
}

// pause makes a replica stand still for a while: its timers, frames and syncs wait and then all
// happen at once. Its clock goes on.
func (f *occurrence) pause() {
	c := f.c
	id := pick(f.rng, c.someone(f.rng), c.primary())
	if id == 0 || c.budget() <= 0 {
		return
	}
	n := c.nodes[id-1]
	if n.faulty() {
		return
	}
	f.took()
	c.trace.event("pause", uint64(id))
	n.paused = true
	life := n.life
	c.clk.after(f.For, func() {
		if n.life == life {
			n.resume()
		}
	})
}

// killInRow takes the primary and those that follow it, as many as may be down, at once.
func (f *occurrence) killInRow() {
	c := f.c
	view := smr.View(0)
	for _, n := range c.nodes {
		if n.up {
			view = max(view, n.status().View)
		}
	}
	for i := range c.members.F() {
		f.kill(c.members.Primary(view+smr.View(i)), f.rng.exponential(f.For))
	}
}

// powerLoss takes down every correct replica at one instant and starts them again one by one.
func (f *occurrence) powerLoss() {
	c := f.c
	if c.healed {
		return
	}
	f.took()
	for _, n := range c.nodes {
		if n.up {
			n.crash()
			c.clk.after(f.rng.exponential(f.For/4), n.restart)
		}
	}
}

// powerLossAfterAck takes everything down a moment after a client was told of a write: what told it
// may not be synced. For a while after the restart clients reach the replicas, which do not reach
// each other.
func (f *occurrence) powerLossAfterAck() {
	c := f.c
	c.clk.after(f.rng.between(0, time.Millisecond), func() {
		f.powerLoss()
		for _, id := range c.members.Voters() {
			c.net.split([]smr.NodeID{id}, false)
		}
		c.clk.after(f.rng.between(0, 2*f.For), c.net.mend)
	})
}

// partition cuts a random set of replicas off for a while.
func (f *occurrence) partition() {
	ids := f.c.members.Voters()
	f.rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	side := ids[:1+f.rng.IntN(len(ids)/2)]
	slices.Sort(side)
	f.cut(side, f.rng.chance(0.4))
}

// oneWay cuts what a random set of replicas sends to the others.
func (f *occurrence) oneWay() {
	ids := f.c.members.Voters()
	f.rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	side := ids[:1+f.rng.IntN(len(ids)-1)]
	slices.Sort(side)
	f.cut(side, true)
}

// clog lets frames on some paths wait until the fault ends.
func (f *occurrence) clog() {
	f.took()
	w := f.c.net
	until := f.c.clk.now + f.For
	for range 1 + f.rng.IntN(2*f.c.plan.Replicas) {
		a, b := 1+f.rng.IntN(len(w.cut)-1), 1+f.rng.IntN(len(w.cut)-1)
		w.clogged[a][b] = max(w.clogged[a][b], until)
	}
}

// replay sends frames of the past once more, to whom they were sent.
func (f *occurrence) replay() {
	w := f.c.net
	if len(w.captured) == 0 {
		return
	}
	f.took()
	for range 20 + f.rng.IntN(200) {
		old := w.captured[f.rng.IntN(len(w.captured))]
		f.c.clk.after(f.rng.between(0, f.For), func() { w.arrive(old) })
	}
}

// crashMidway crashes a replica between two effects of one of its next steps.
func (f *occurrence) crashMidway() {
	n := f.victim(true)
	if n == nil {
		return
	}
	n.doomed, n.midway = true, 1+f.rng.IntN(40)
	life := n.life
	f.c.clk.after(f.For, func() {
		if n.life == life && n.up {
			n.doomed, n.midway = false, 0 // too quiet for the fault
			return
		}
		f.took()
		n.restart()
	})
}

// clockJump sets a replica's clock off, forwards or back, and right again.
func (f *occurrence) clockJump() {
	n := f.victim(true)
	if n == nil {
		return
	}
	f.took()
	d := f.rng.between(100*time.Millisecond, 5*time.Second)
	if f.rng.chance(0.5) {
		d = -d
	}
	n.jumpClock(d)
	f.c.clk.after(f.For, func() { n.jumpClock(0) })
}

// clockFreeze stops a replica's clock for a while.
func (f *occurrence) clockFreeze() {
	n := f.victim(true)
	if n == nil || n.clock.frozen {
		return
	}
	f.took()
	n.freezeClock(true)
	f.c.clk.after(f.For, func() {
		if n.clock.frozen {
			n.freezeClock(false)
		}
	})
}

// isolate cuts off the primary of the moment, unless it is Byzantine: the next one gets its turn.
func (f *occurrence) isolate() {
	id := f.c.primary()
	if id == 0 || f.c.nodes[id-1].byzantine {
		return
	}
	f.cut([]smr.NodeID{id}, f.rng.chance(0.3))
}

func (f *occurrence) cut(side []smr.NodeID, oneWay bool) {
	c := f.c
	f.took()
	c.trace.event("partition", 0, uint64(len(side)), uint64(side[0]))
	c.net.split(side, oneWay)
	c.clk.after(f.For, func() {
		c.trace.event("mend", 0)
		c.net.mend()
	})
}

// dropClass makes most messages of one class get lost for a while.
func (f *occurrence) dropClass() {
	c := f.c
	class := pick(f.rng, wire.ClassProtocol, wire.ClassFetch, wire.ClassForwardedRequests,
		wire.ClassOrderedRequest, wire.ClassOrderedReply, wire.ClassCheckpoint, wire.ClassLogTransfer, wire.ClassViewTransfer)
	f.took()
	c.trace.event("drop-class", 0, uint64(class))
	c.net.dropped[class]++
	c.clk.after(f.For, func() { c.net.dropped[class]-- })
}

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
		if (!n.up || n.paused) && !n.byzantine {
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
	if !n.up || n.byzantine {
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
	if !n.up || n.byzantine || n.paused {
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

// lastOperations is how many operations a client may still begin after the faults.
const lastOperations = 6

// heal ends all faults: every path works, every correct replica comes back for good.
func (c *cluster) heal() {
	c.healed = true
	c.healedAt = c.clk.now
	c.trace.event("heal", 0)
	c.net.healed = true
	c.net.mend()
	for _, w := range c.clients {
		w.left = min(w.left, lastOperations)
	}
	for _, n := range c.nodes {
		if !n.up {
			c.clk.after(n.rng.between(0, 50*time.Millisecond), n.restart)
		} else if n.paused {
			n.resume()
		}
	}
}

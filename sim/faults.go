package sim

import (
	"slices"
	"time"

	"github.com/atlas-smr/smr"
)

// schedule puts the plan's faults on the clock. At most f replicas, counting Byzantine ones, are
// down at any time, but for power losses, which take all of them.
func (c *cluster) schedule() {
	p, r := &c.plan, c.rng
	from := 200 * time.Millisecond
	if p.idle {
		from += 3 * p.timeout
	}
	when := func() time.Duration { return r.between(from, p.chaos) }
	for range p.crashes {
		c.clk.after(when(), func() { c.kill(c.someone()) })
	}
	for range p.isolations {
		c.clk.after(when(), c.isolate)
	}
	for range p.pauses {
		c.clk.after(when(), func() { c.pause(pick(c.rng, c.someone(), c.primary())) })
	}
	for range p.primaryKills {
		c.clk.after(when(), func() { c.kill(c.primary()) })
	}
	for range p.partitions {
		at := when()
		c.clk.after(at, c.partition)
	}
	for range p.powerLosses {
		c.clk.after(when(), func() {
			if p.afterAck {
				c.onAck = c.powerLossAfterAck
				return
			}
			c.powerLoss()
		})
	}
	if p.deadInRow > 0 {
		c.clk.after(when(), c.killInRow)
	}
	if p.behaviour == "twins" {
		c.takeSides()
	}
	c.clk.after(p.chaos, c.heal)
}

// takeSides divides the replicas between the twins anew, again and again.
func (c *cluster) takeSides() {
	for i := range c.side {
		c.side[i] = c.rng.chance(0.5)
	}
	c.trace.event("sides", 0)
	c.clk.after(c.rng.exponential(2*c.plan.timeout), c.takeSides)
}

// budget is how many more correct replicas may be down now.
func (c *cluster) budget() int {
	left := c.members.F() - len(c.plan.byzantine)
	for _, n := range c.nodes {
		if (!n.up || n.paused) && !n.byzantine {
			left--
		}
	}
	return left
}

// someone picks a correct replica that is up, 0 if there is none.
func (c *cluster) someone() smr.NodeID {
	var ids []smr.NodeID
	for _, n := range c.nodes {
		if n.up && !n.byzantine {
			ids = append(ids, n.id)
		}
	}
	if len(ids) == 0 {
		return 0
	}
	return ids[c.rng.IntN(len(ids))]
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
func (c *cluster) kill(id smr.NodeID) {
	if c.healed || id == 0 || c.budget() <= 0 {
		return
	}
	n := c.nodes[id-1]
	if !n.up || n.byzantine {
		return
	}
	c.counts.Crashes++
	n.crash()
	c.clk.after(c.rng.exponential(c.plan.downtime), n.restart)
}

// pause makes a replica stand still for a while: its timers, frames and syncs wait and then all
// happen at once. Its clock goes on.
func (c *cluster) pause(id smr.NodeID) {
	if c.healed || id == 0 || c.budget() <= 0 {
		return
	}
	n := c.nodes[id-1]
	if !n.up || n.byzantine || n.paused {
		return
	}
	c.counts.Pauses++
	c.trace.event("pause", uint64(id))
	n.paused = true
	life := n.life
	c.clk.after(c.rng.exponential(c.plan.downtime), func() {
		if n.life == life {
			n.resume()
		}
	})
}

// killInRow takes the primary and those that follow it, as many as may be down, at once.
func (c *cluster) killInRow() {
	view := smr.View(0)
	for _, n := range c.nodes {
		if n.up {
			view = max(view, n.status().View)
		}
	}
	for i := range c.plan.deadInRow {
		c.kill(c.members.Primary(view + smr.View(i)))
	}
}

// powerLoss takes down every correct replica at one instant and starts them again one by one.
func (c *cluster) powerLoss() {
	if c.healed {
		return
	}
	c.counts.PowerLosses++
	for _, n := range c.nodes {
		if n.up {
			n.crash()
			c.clk.after(c.rng.exponential(c.plan.downtime/4), n.restart)
		}
	}
}

// powerLossAfterAck takes everything down a moment after a client was told of a write: what told it
// may not be synced. For a while after the restart clients reach the replicas, which do not reach
// each other.
func (c *cluster) powerLossAfterAck() {
	c.clk.after(c.rng.between(0, time.Millisecond), func() {
		c.powerLoss()
		for _, id := range c.members.Voters() {
			c.net.split([]smr.NodeID{id}, false)
		}
		c.clk.after(c.rng.between(0, 2*c.plan.downtime), c.net.mend)
	})
}

// partition cuts a random set of replicas off for a while.
func (c *cluster) partition() {
	if c.healed {
		return
	}
	c.counts.Partitions++
	ids := c.members.Voters()
	c.rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	side := ids[:1+c.rng.IntN(len(ids)/2)]
	slices.Sort(side)
	c.cut(side, c.rng.chance(0.4))
}

// isolate cuts off the primary of the moment, unless it is Byzantine: the next one gets its turn.
func (c *cluster) isolate() {
	id := c.primary()
	if c.healed || id == 0 || c.nodes[id-1].byzantine {
		return
	}
	c.counts.Partitions++
	c.cut([]smr.NodeID{id}, c.rng.chance(0.3))
}

func (c *cluster) cut(side []smr.NodeID, oneWay bool) {
	c.trace.event("partition", 0, uint64(len(side)), uint64(side[0]))
	c.net.split(side, oneWay)
	c.clk.after(c.rng.exponential(2*c.plan.timeout), func() {
		c.trace.event("mend", 0)
		c.net.mend()
	})
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
			c.clk.after(c.rng.between(0, 50*time.Millisecond), n.restart)
		} else if n.paused {
			n.resume()
		}
	}
}

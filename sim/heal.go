package sim

import (
	"fmt"
	"slices"
	"time"
)

// lastOperations is how many operations a client may still begin after the faults.
const lastOperations = 6

// heal ends the faults: every path works, every replica whose damage heals comes back for good. If
// the plan has a core, only a random quorum is healed, and what ails the others stays for ever.
func (c *cluster) heal() {
	c.healed = true
	c.healedAt = c.clk.now
	c.trace.event("heal", 0)
	c.net.healed = true
	if c.plan.Core {
		c.chooseCore(c.stream(streamCore, 0))
	}
	c.net.mend()
	for _, w := range c.clients {
		w.left = min(w.left, lastOperations)
	}
	for _, n := range c.nodes {
		if !n.outside {
			n.mend()
		}
	}
}

// mend ends what ails a replica, as far as it can be.
func (n *node) mend() {
	n.doomed, n.midway, n.disk.tear, n.app.panicNext, n.app.slow = false, 0, nil, false, 0
	n.disk.slow, n.disk.full, n.disk.failing = 0, false, false
	if n.clock.frozen {
		n.freezeClock(false)
	}
	if n.clock.jump != 0 {
		n.jumpClock(0)
	}
	if n.disk.hung {
		n.disk.goOn()
	}
	if n.up && (n.exec.fenced || n.disk.store.Err() != nil) {
		n.crash()
	}
	if !n.up {
		n.c.clk.after(n.rng.between(0, 50*time.Millisecond), n.restart)
	} else if n.paused {
		n.resume()
	}
}

// chooseCore picks the quorum that is healed, and what becomes of the rest.
func (c *cluster) chooseCore(r random) {
	var able, rest []*node
	for _, n := range c.nodes {
		switch {
		case n.byzantine:
		case n.bad != "":
			rest = append(rest, n)
		default:
			able = append(able, n)
		}
	}
	r.Shuffle(len(able), func(i, j int) { able[i], able[j] = able[j], able[i] })
	if q := c.members.Quorum(); len(able) > q {
		rest = append(rest, able[q:]...)
	}
	slices.SortFunc(rest, func(a, b *node) int { return int(a.id) - int(b.id) })
	for _, n := range rest {
		c.counts.Faults[FaultPermanent]++
		n.outside = true
		fate := r.IntN(5)
		c.trace.event("outside", uint64(n.id), uint64(fate))
		switch {
		case !n.up: // stays down
		case fate == 0:
			n.crash()
		case fate == 1:
			c.net.banish(n.id, false)
		case fate == 2:
			c.net.banish(n.id, true)
		case fate == 3:
			n.disk.hung = true
		default:
			n.paused = true
		}
	}
}

// counted reports whether the end of the run depends on a replica.
func (n *node) counted() bool { return !n.byzantine && !n.outside && n.bad == "" }

// unfinished says what is still open: requests, or replicas behind.
func (c *cluster) unfinished() string {
	for _, w := range c.clients {
		if s := w.open(); s != "" {
			return s + "; " + c.describe()
		}
	}
	for _, n := range c.nodes {
		if !n.counted() {
			continue
		}
		if !n.up || n.executed() < c.oracle.top {
			return fmt.Sprintf("replica %d executed %d of %d: %s", n.id, n.executed(), c.oracle.top, c.describe())
		}
	}
	return ""
}

// unrecoverable says why the cluster cannot go on without an operator: fewer replicas than a quorum
// are in order. Empty if it can.
func (c *cluster) unrecoverable() string {
	able := 0
	for _, n := range c.nodes {
		if n.counted() {
			able++
		}
	}
	if able >= c.members.Quorum() {
		return ""
	}
	return fmt.Sprintf("%d replicas can go on, a quorum is %d", able, c.members.Quorum())
}

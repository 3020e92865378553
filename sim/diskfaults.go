package sim

import (
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/storage"
)

// slowDisk makes one disk slow for a while.
func (f *occurrence) slowDisk() {
	id := f.c.someone(f.rng)
	if id == 0 {
		return
	}
	f.took()
	d := f.c.nodes[id-1].disk
	d.slow = 5 + f.rng.IntN(30)
	f.c.clk.after(f.For, func() { d.slow = 0 })
}

// hangDisk lets nothing become durable on one replica for a while.
func (f *occurrence) hangDisk() {
	n := f.victim(true)
	if n == nil {
		return
	}
	f.took()
	f.c.trace.event("disk-hang", uint64(n.id))
	n.disk.hung = true
	f.c.clk.after(f.For, func() {
		if n.disk.hung && !n.outside {
			n.disk.goOn()
		}
	})
}

// failSync lets the next sync of one replica fail: the replica must stop, and starts again later.
func (f *occurrence) failSync() {
	n := f.victim(true)
	if n == nil {
		return
	}
	f.took()
	n.disk.failing = true
	f.c.clk.after(f.For, func() {
		n.disk.failing = false
		n.restart()
	})
}

// fillDisk makes every write of one replica fail: the replica must stop, and what starts it again
// in vain succeeds once there is room.
func (f *occurrence) fillDisk() {
	n := f.victim(true)
	if n == nil {
		return
	}
	f.took()
	n.disk.full = true
	f.c.clk.after(f.For/2, n.restart)
	f.c.clk.after(f.For, func() {
		n.disk.full = false
		n.restart()
	})
}

// rotLog flips a bit of the log of a replica that is down. What reads it refuses to go on.
func (f *occurrence) rotLog() {
	f.rot(func(s *storage.Memory) bool { return s.RotRecord(f.rng.IntN) != "" })
}

// rotCheckpoint flips a bit of the newest checkpoint of a replica that is down: an older one and the
// log above it, or a refusal.
func (f *occurrence) rotCheckpoint() { f.rot(func(s *storage.Memory) bool { return s.Rot(0) }) }

func (f *occurrence) rot(damage func(s *storage.Memory) bool) {
	n := f.victim(false)
	if n == nil {
		return
	}
	n.crash()
	before, err := n.disk.store.Recover()
	if err != nil {
		f.c.fail("replica %d: recover: %v", n.id, err)
	}
	if damage(n.disk.store) {
		f.took()
		n.disk.damaged, n.disk.before = true, before
		f.c.trace.event("rot", uint64(n.id))
	}
	f.c.clk.after(f.For, n.restart)
}

// tearCheckpoint crashes one replica while it ends its next checkpoint, of which a part stays.
func (f *occurrence) tearCheckpoint() {
	n := f.victim(false)
	if n == nil {
		return
	}
	n.doomed = true
	n.disk.tear = f
}

// tearing crashes the replica if its checkpoint is to be torn, and reports whether it did.
func (d *disk) tearing() bool {
	f := d.tear
	if f == nil {
		return false
	}
	d.tear = nil
	f.took()
	d.n.c.trace.event("torn-checkpoint", uint64(d.n.id))
	d.n.crash()
	// The checkpoint never counted: the one before it and the log above that are what must be found.
	d.durableCheckpoint = d.durableBefore
	d.store.Tear(f.rng.IntN)
	d.n.c.clk.after(f.For, d.n.restart)
	return true
}

// wipe empties the disk of one replica, which goes on under its old id: it must find out that it
// voted before, and never vote again.
func (f *occurrence) wipe() {
	n := f.victim(false)
	if n == nil || n.sentVote == (protocol.Mark{}) || n.wiped {
		return
	}
	f.took()
	n.crash()
	f.c.trace.event("wipe", uint64(n.id))
	n.bad, n.wiped = "a wiped disk", true
	n.witnesses = f.c.witnessesOf(n)
	n.disk = newDisk(n)
	f.c.clk.after(f.For, n.restart)
}

// witness is a replica that has seen a vote of one whose disk was wiped, and the life in which it has.
type witness struct {
	n    *node
	life int
}

func (c *cluster) witnessesOf(n *node) []witness {
	var seen []witness
	for _, w := range c.nodes {
		if w != n && w.up && !w.byzantine && w.engine.Seen(n.id) != (protocol.Mark{}) {
			seen = append(seen, witness{w, w.life})
		}
	}
	return seen
}

// remembered judges a vote of a replica that had voted before its disk was wiped. It asks a quorum
// before it votes: if every quorum has a witness, it must have heard of its past. Replicas forget
// what they have seen when they restart; a vote that slips through is one faulty replica's.
func (c *cluster) remembered(n *node, s auth.Statement) {
	if s.Kind == auth.KindRoot {
		return
	}
	left := 0
	for _, w := range n.witnesses {
		if w.n.up && w.n.life == w.life {
			left++
		}
	}
	if left > c.members.N()-c.members.Quorum() {
		c.fail("amnesia: replica %d votes again after its disk was wiped, which %d replicas could have told it: kind %d, epoch %d, view %d, seq %d",
			n.id, left, s.Kind, s.Epoch, s.View, s.Seq)
	}
}

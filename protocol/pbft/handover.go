package pbft

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// HandOver implements protocol.Ordering. The next primary is a pure function of the view, so to
// must be it, or zero. The term is closed by the next proposal, an empty one if nothing waits; its
// commit certificate opens exactly the next view.
func (r *Replica) HandOver(now time.Time, to smr.NodeID, out *protocol.Effects) {
	r.begin(now, out)
	switch next := r.m.Primary(r.view + 1); {
	case !r.leading() || r.closed():
		r.drop(to, "hand-over-without-leading")
	case to != 0 && to != next:
		r.drop(to, "hand-over-out-of-turn")
	default:
		r.closing = true
	}
	r.end()
}

// handedOver enters the view after a term whose closing proposal is committed.
func (r *Replica) handedOver(c *Certificate) {
	if c.view()+1 > r.view {
		r.enter(c.view()+1, c)
	}
}

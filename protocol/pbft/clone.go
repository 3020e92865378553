package pbft

import (
	"maps"
	"slices"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/protocol"
)

// Clone implements protocol.Explorable. Headers, messages, votes and certificates are immutable and
// shared; blocks, slots, tables and buffers are copied.
func (r *Replica) Clone() protocol.Explorable {
	invariant.Check(r.out == nil, "cloned inside an input")
	c := *r
	copied := make(map[*block]*block, len(r.blocks))
	one := func(b *block) *block {
		if b == nil {
			return nil
		}
		if copied[b] == nil {
			x := *b
			copied[b] = &x
		}
		return copied[b]
	}
	many := func(bs []*block) []*block {
		out := slices.Clone(bs)
		for i, b := range out {
			out[i] = one(b)
		}
		return out
	}
	c.blocks = make(map[smr.Digest]*block, len(r.blocks))
	for d, b := range r.blocks { // order-free: entries are copied one by one
		c.blocks[d] = one(b)
	}
	c.bySeq = make(map[smr.SeqNo][]*block, len(r.bySeq))
	for s, bs := range r.bySeq { // order-free: entries are copied one by one
		c.bySeq[s] = many(bs)
	}
	c.ahead = make(map[smr.SeqNo]*block, len(r.ahead))
	for s, b := range r.ahead { // order-free: entries are copied one by one
		c.ahead[s] = one(b)
	}
	c.first = one(r.first)
	c.bundle = make(map[smr.BundleID]*holding, len(r.bundle))
	for id, h := range r.bundle { // order-free: entries are copied one by one
		x := *h
		x.blocks = many(h.blocks)
		c.bundle[id] = &x
	}
	c.slots = make(map[smr.SeqNo]*slot, len(r.slots))
	for s, x := range r.slots { // order-free: entries are copied one by one
		y := *x
		y.prepares, y.commits = slices.Clone(x.prepares), slices.Clone(x.commits)
		c.slots[s] = &y
	}
	c.wanted, c.stale = maps.Clone(r.wanted), maps.Clone(r.stale)
	c.early = slices.Clone(r.early)
	for i := range c.early {
		c.early[i].msgs = slices.Clone(c.early[i].msgs)
	}
	c.complaints, c.timeouts, c.peers = slices.Clone(r.complaints), slices.Clone(r.timeouts), slices.Clone(r.peers)
	return &c
}

var _ protocol.Explorable = (*Replica)(nil)

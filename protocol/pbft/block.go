package pbft

import (
	"slices"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol"
)

// block is a proposal as this replica knows it: perhaps its core alone.
type block struct {
	h       *Header
	msg     *Proposal // as signed by its primary; nil for fetched and recovered ones
	live    bool      // its bundles are asked to be kept
	missing int       // of a live block: references not held
	stored  bool      // written to the log: this replica may have promised its bytes
	voted   bool      // prepared by this replica; a stored one need not be
	decided bool
}

// holding is a bundle named by live blocks.
type holding struct {
	held   bool
	named  int
	blocks []*block // that wait for it
}

// learn returns the block of a header, keeping the whole header if it is one.
func (r *Replica) learn(h *Header) *block {
	b := r.blocks[h.Digest]
	if b == nil {
		b = &block{h: h}
		r.blocks[h.Digest] = b
		r.bySeq[h.Seq] = append(r.bySeq[h.Seq], b)
	} else if h.full && !b.h.full {
		b.h = h
	}
	if h.full {
		r.found(h.Digest)
	}
	return b
}

func (r *Replica) found(d smr.Digest) {
	if _, ok := r.wanted[d]; ok {
		delete(r.wanted, d)
		r.out.Found = append(r.out.Found, d)
	}
}

// enliven asks for the bundles of b to be kept, and fetched where they lack.
func (r *Replica) enliven(b *block) {
	if b.live || b.decided || !b.h.full {
		return
	}
	b.live = true
	var lacks []smr.BundleID
	for _, ref := range b.h.Refs {
		x := r.bundle[ref.ID]
		if x == nil {
			x = &holding{}
			r.bundle[ref.ID] = x
		}
		x.named++
		r.out.Hold = append(r.out.Hold, ref.ID)
		if !x.held {
			b.missing++
			x.blocks = append(x.blocks, b)
			lacks = append(lacks, ref.ID)
		}
	}
	if len(lacks) > 0 && r.m.Primary(b.h.View) != r.p.Self {
		r.out.Fetch = append(r.out.Fetch, protocol.Need{Bundles: lacks, Peers: r.askees(r.m.Primary(b.h.View))})
	}
}

// release takes back what enliven asked; the bundles are proposable again unless b was decided.
func (r *Replica) release(b *block) {
	if !b.live {
		return
	}
	b.live, b.missing = false, 0
	for _, ref := range b.h.Refs {
		x := r.bundle[ref.ID]
		if !x.held {
			x.blocks = slices.DeleteFunc(x.blocks, func(o *block) bool { return o == b })
		}
		if x.named--; x.named == 0 {
			delete(r.bundle, ref.ID)
		}
		if !b.decided && !mutant.On(mutant.ReleaseDropped) {
			r.out.Release = append(r.out.Release, ref.ID)
		}
	}
}

// bundleHeld notes that a bundle is held.
func (r *Replica) bundleHeld(id smr.BundleID) {
	x := r.bundle[id]
	if x == nil || x.held {
		return
	}
	x.held = true
	for _, b := range x.blocks {
		b.missing--
		invariant.Check(b.missing >= 0, "block %d misses %d bundles", b.h.Seq, b.missing)
	}
	x.blocks = nil
}

// forget removes b for good. What was promised and can never be decided any more leaves the log.
func (r *Replica) forget(b *block) {
	r.release(b)
	if b.stored && !b.decided {
		r.persist(protocol.Record{Kind: protocol.RecordDrop, View: b.h.View, Seq: b.h.Seq, Digest: b.h.Digest})
	}
	delete(r.blocks, b.h.Digest)
	rest := slices.DeleteFunc(r.bySeq[b.h.Seq], func(o *block) bool { return o == b })
	if r.bySeq[b.h.Seq] = rest; len(rest) == 0 {
		delete(r.bySeq, b.h.Seq)
	}
	if r.ahead[b.h.Seq] == b {
		delete(r.ahead, b.h.Seq)
	}
	if r.first == b {
		r.first = nil
	}
}

// store writes b to the log.
func (r *Replica) store(b *block) {
	if b.stored {
		return
	}
	b.stored = true
	r.persist(protocol.Record{
		Kind: protocol.RecordProposal, View: b.h.View, Seq: b.h.Seq, Digest: b.h.Digest, Data: b.h.raw, Refs: b.h.Refs,
	})
}

// askees lists the other voters, who first.
func (r *Replica) askees(first smr.NodeID) []smr.NodeID {
	out := make([]smr.NodeID, 0, r.n)
	if first != r.p.Self {
		out = append(out, first)
	}
	for i := range r.n {
		if id := r.m.Voter((i + max(r.index, 0) + 1) % r.n).ID; id != r.p.Self && id != first {
			out = append(out, id)
		}
	}
	return out
}

// core returns the known header of a digest, nil if unknown.
func (r *Replica) core(d smr.Digest) *Header {
	if b := r.blocks[d]; b != nil {
		return b.h
	}
	return nil
}

// sorted returns the keys of a map of sequence numbers in ascending order.
func sorted[V any](m map[smr.SeqNo]V) []smr.SeqNo {
	out := make([]smr.SeqNo, 0, len(m))
	for s := range m {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

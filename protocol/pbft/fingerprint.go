package pbft

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
)

// Fingerprint implements protocol.Explorable. A header is named by its digest, a certificate by its
// statement, a timeout certificate by its view and lock: no rule reads more of them. Tables by voter
// begin with the own entry, so that the own position does not show.
func (r *Replica) Fingerprint(dst []byte, tallies bool) []byte {
	p := printer{b: dst}
	p.num(uint64(r.m.Epoch()), uint64(r.view), uint64(r.stable), uint64(r.tail))
	p.flags(r.voting, r.timedOut, r.hasBase, r.mayLead, r.opened, r.led, r.closing, r.bound, r.ownVote)
	p.flags(r.timers.waiting, r.timers.lateTail)
	p.message(r.opening)
	p.header(r.base)
	for _, x := range []point{r.tip, r.start, r.decided} {
		p.num(uint64(x.seq), uint64(x.time))
		p.digest(x.digest)
	}
	p.lock(r.voted)
	for _, c := range []*Certificate{r.lock, r.top, r.proof} {
		p.certificate(c)
	}
	p.blocks(r)
	p.slots(r, tallies)
	p.digests(r.wanted)
	p.viewChange(r)
	return p.b
}

// printer writes unambiguous parts: fixed widths, lists behind their length.
type printer struct{ b []byte }

func (p *printer) num(xs ...uint64) {
	for _, x := range xs {
		p.b = binary.AppendUvarint(p.b, x)
	}
}

func (p *printer) flags(xs ...bool) {
	for _, x := range xs {
		if x {
			p.b = append(p.b, 1)
		} else {
			p.b = append(p.b, 0)
		}
	}
}

func (p *printer) digest(d smr.Digest) { p.b = append(p.b, d[:]...) }

func (p *printer) lock(l lockName) {
	p.num(uint64(l.view), uint64(l.seq))
	p.digest(l.digest)
}

func (p *printer) header(h *Header) {
	p.flags(h != nil)
	if h != nil {
		p.digest(h.Digest)
		p.flags(h.full)
	}
}

func (p *printer) certificate(c *Certificate) {
	p.flags(c != nil)
	if c != nil {
		p.digest(c.Core.Digest)
		p.flags(c.commit())
	}
}

func (p *printer) cert(c *auth.Certificate) {
	p.flags(c != nil)
	if c != nil {
		p.digest(c.Digest())
	}
}

func (p *printer) timeout(t *Timeout) {
	p.flags(t != nil)
	if t != nil {
		p.num(uint64(t.view()))
		p.certificate(t.Lock)
	}
}

func (p *printer) message(m protocol.Message) {
	if m == nil {
		p.num(0)
		return
	}
	p.num(uint64(m.Kind()))
	switch m := m.(type) {
	case *Certificate:
		p.certificate(m)
	case *TimeoutCertificate:
		p.num(uint64(m.view))
		p.certificate(m.lock)
	case *Proposal:
		p.header(m.Header)
		p.flags(m.Timeout != nil, m.HandOver != nil)
		if m.Timeout != nil {
			p.message(m.Timeout)
		}
		p.certificate(m.HandOver)
	case *Vote:
		p.num(uint64(m.view()), uint64(m.seq()))
		p.digest(m.digest())
	default:
		p.b = appendMessage(p.b, m)
	}
}

func (p *printer) digests(m map[smr.Digest]smr.SeqNo) {
	p.num(uint64(len(m)))
	for _, d := range sortedDigests(m) {
		p.num(uint64(m[d]))
		p.digest(d)
	}
}

// blocks prints the proposals known and the bundles they name. Proposals of one sequence number are
// ordered by digest: the order of arrival orders effects and nothing else.
func (p *printer) blocks(r *Replica) {
	p.num(uint64(len(r.blocks)))
	for _, d := range sortedKeys(r.blocks) {
		b := r.blocks[d]
		p.header(b.h)
		p.num(uint64(b.missing))
		p.flags(b.live, b.stored, b.voted, b.decided)
	}
	p.num(uint64(len(r.bySeq)))
	for _, s := range sorted(r.bySeq) {
		p.num(uint64(s))
		p.names(r.bySeq[s])
	}
	p.num(uint64(len(r.ahead)))
	for _, s := range sorted(r.ahead) {
		p.num(uint64(s))
		p.digest(r.ahead[s].h.Digest)
	}
	p.flags(r.first != nil)
	if r.first != nil {
		p.digest(r.first.h.Digest)
		if r.first.msg != nil {
			p.message(r.first.msg)
		}
	}
	p.num(uint64(len(r.bundle)))
	for _, id := range sortedKeys(r.bundle) {
		x := r.bundle[id]
		p.b = append(p.b, id[:]...)
		p.num(uint64(x.named))
		p.flags(x.held)
		p.names(x.blocks)
	}
}

func (p *printer) names(bs []*block) {
	ds := make([]smr.Digest, len(bs))
	for i, b := range bs {
		ds[i] = b.h.Digest
	}
	slices.SortFunc(ds, func(a, b smr.Digest) int { return bytes.Compare(a[:], b[:]) })
	p.num(uint64(len(ds)))
	for _, d := range ds {
		p.digest(d)
	}
}

// slots prints what is certified in this view. A slot that holds nothing but votes is no slot
// unless tallies count.
func (p *printer) slots(r *Replica, tallies bool) {
	for _, s := range sorted(r.slots) {
		x := r.slots[s]
		if !tallies && x.prepared == nil && x.committed == nil && !x.voted {
			continue
		}
		p.num(uint64(s))
		p.flags(x.voted)
		p.cert(x.prepared)
		p.cert(x.committed)
		if tallies {
			p.votes(r, x.prepares)
			p.votes(r, x.commits)
		}
	}
	p.num(0)
}

func (p *printer) votes(r *Replica, votes []*auth.Vote) {
	for k := range votes {
		v := votes[r.rotated(k)]
		p.flags(v != nil)
		if v != nil {
			p.digest(v.Statement().Digest)
		}
	}
}

// rotated returns the position of the k-th voter counted from the own.
func (r *Replica) rotated(k int) int { return (max(r.index, 0) + k) % r.n }

// viewChange prints what is kept towards a later view. Complaints and timeouts that no rule counts
// any more are left out.
func (p *printer) viewChange(r *Replica) {
	p.timeout(r.own)
	for k := range r.n {
		i := r.rotated(k)
		c := r.complaints[i]
		live := c.made && (c.view > r.view || c.view == r.view && !r.timedOut)
		p.flags(live)
		if live {
			p.num(uint64(c.view), uint64(c.seq))
		}
		t := r.timeouts[i]
		if t != nil && t.view() < r.view {
			t = nil
		}
		p.timeout(t)
		p.num(uint64(len(r.early[i].msgs)), uint64(r.early[i].bytes))
		for _, e := range r.early[i].msgs {
			p.num(uint64(e.view))
			p.message(e.msg)
		}
	}
}

// sortedKeys returns the keys of a map by their bytes.
func sortedKeys[K ~[32]byte, V any](m map[K]V) []K {
	return slices.SortedFunc(maps.Keys(m), func(a, b K) int { return bytes.Compare(a[:], b[:]) })
}

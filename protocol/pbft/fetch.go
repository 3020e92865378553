package pbft

import (
	"slices"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// farBehind is the gap, in sequence numbers, from which log transfer beats asking for proposals.
const farBehind = 32

// seek asks for the headers that lack on the way from what is certified down to the last decision.
func (r *Replica) seek() {
	if !r.dirty {
		return
	}
	r.dirty = false
	if r.top != nil && r.top.Core.Seq > r.decided.seq {
		r.seekFrom(r.top.Core.Digest, r.top.Core.Seq, r.top, true)
	}
	if r.bound && r.tip.seq > r.decided.seq {
		r.seekFrom(r.tip.digest, r.tip.seq, nil, false)
	} else if r.base != nil && r.base.Seq > r.decided.seq {
		r.seekFrom(r.base.Digest, r.base.Seq, nil, false)
	}
	for _, s := range sorted(r.slots) {
		x := r.slots[s]
		if c := x.committed; c != nil && r.blocks[c.Digest()] == nil {
			r.want(c.Digest(), s, r.signerIDs(c))
		} else if c := x.prepared; c != nil && r.blocks[c.Digest()] == nil {
			r.want(c.Digest(), s, r.signerIDs(c))
		}
	}
	for _, d := range sortedDigests(r.stale) {
		if _, again := r.wanted[d]; !again {
			r.out.Found = append(r.out.Found, d) // moot: a view change may have passed over it
		}
	}
	r.stale = nil
}

// seekFrom walks down from a digest. Where a header lacks it is asked for; where a commit
// certificate lies far above what is here, transfer is asked for instead.
func (r *Replica) seekFrom(d smr.Digest, seq smr.SeqNo, proof *Certificate, committed bool) {
	for seq > r.decided.seq {
		b := r.blocks[d]
		if b == nil || !b.h.full {
			peers := r.askees(r.primary())
			if proof != nil {
				peers = r.signerIDs(proof.Cert)
			}
			if committed && (seq-r.decided.seq > farBehind || proof.Core.Seq > r.windowEnd()) {
				r.behind(proof)
				return
			}
			r.want(d, seq, peers)
			return
		}
		r.enliven(b)
		d, seq = b.h.Parent, seq-1
	}
}

// behind asks for transfer up to a commit certificate.
func (r *Replica) behind(c *Certificate) {
	if r.out.Behind == nil || r.out.Behind.Seq < c.Core.Seq {
		r.out.Behind = &protocol.Lag{Seq: c.Core.Seq, Peers: r.signerIDs(c.Cert)}
	}
}

// want asks for the header with a digest and its undecided ancestors.
func (r *Replica) want(d smr.Digest, seq smr.SeqNo, peers []smr.NodeID) {
	if _, asked := r.wanted[d]; asked {
		return
	}
	r.wanted[d] = seq
	r.out.Fetch = append(r.out.Fetch, protocol.Need{
		Ask: &Ask{View: r.view, Seq: seq, Digest: d, Above: r.decided.seq}, Key: d, Peers: peers,
	})
}

// onAsk answers with the headers asked for, newest first, as far as they are here and fit.
func (r *Replica) onAsk(from smr.NodeID, a *Ask) {
	if i, voter := r.m.Index(from); voter && a.View < r.view {
		r.answerOld(i, from)
	}
	if a.Digest.IsZero() {
		return
	}
	ans, size := &Answer{}, 0
	for d := a.Digest; len(ans.Headers) < maxAnswerHeaders; {
		b := r.blocks[d]
		if b == nil || !b.h.full || b.h.Seq <= a.Above || size+len(b.h.raw) > maxAnswerBytes {
			break
		}
		ans.Headers = append(ans.Headers, b.h)
		size += len(b.h.raw)
		d = b.h.Parent
	}
	if len(ans.Headers) > 0 {
		r.send(from, ans)
	} else if r.proof != nil && r.proof.Core.Seq >= a.Seq {
		r.send(from, r.proof)
	}
}

// onAnswer takes headers that were asked for. Their digests name them; nobody need be trusted.
func (r *Replica) onAnswer(from smr.NodeID, a *Answer) {
	_, asked := r.wanted[a.Headers[0].Digest]
	if !asked {
		r.drop(from, "unasked-answer")
		return
	}
	for _, h := range a.Headers {
		if h.Seq <= r.decided.seq {
			break
		}
		b := r.learn(h)
		r.enliven(b)
		r.headerKnown(b)
	}
	r.found(a.Headers[0].Digest)
	r.dirty = true
	r.decide()
}

// forgetWants drops the questions that decisions made moot.
func (r *Replica) forgetWants() {
	for _, d := range sortedDigests(r.wanted) {
		if r.wanted[d] <= r.decided.seq {
			r.found(d)
		}
	}
}

// sortedDigests returns the keys of m by sequence number, then digest.
func sortedDigests(m map[smr.Digest]smr.SeqNo) []smr.Digest {
	out := make([]smr.Digest, 0, len(m))
	for d := range m {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b smr.Digest) int {
		if m[a] != m[b] {
			return int(int64(m[a]) - int64(m[b]))
		}
		return slices.Compare(a[:], b[:])
	})
	return out
}

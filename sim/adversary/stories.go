package adversary

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
)

// tale names what one side is told instead of a proposal.
type tale struct {
	way int
	was smr.Digest
}

// equivocate tells each side a story of its own from the first proposal on, two or three in all: a
// chain of its own, voted for in full, by accomplices too.
func equivocate(s *Strategy) part {
	rarely := []byte{1, 4, 16}[s.Rand.IntN(3)] // one proposal in so many starts a story
	out := func(f frame, emit send) {
		way := s.gang.way[f.to()]
		if way == 0 {
			emit(f)
			return
		}
		switch {
		case f.is(kindProposal):
			if other, ok := s.otherProposal(f.payload, way, rarely, s.one(16)); ok {
				emit(f.with(other))
				return
			}
		case f.is(kindPrepare, kindCommit):
			if other, ok := s.otherVote(f.payload, way, f.kind); ok {
				emit(f.with(other))
				if f.kind == kindPrepare { // a commit without a lock
					if c, ok := s.otherVote(f.payload, way, kindCommit); ok {
						g := f.with(c)
						g.kind = kindCommit
						emit(g)
					}
				}
				if s.one(2) {
					return
				}
			}
		}
		emit(f)
	}
	return part{out: out}
}

// lie votes towards one side only, so that locks differ; carries no lock in its timeouts; and opens
// the views that it leads on the lowest lock that some quorum of timeouts allows.
func lie(s *Strategy) part {
	side := map[smr.NodeID]bool{}
	for _, id := range s.Membership.Voters() {
		side[id] = s.one(4)
	}
	out := func(f frame, emit send) {
		switch {
		case f.is(kindTimeout):
			if other, ok := s.otherTimeout(f.payload); ok {
				f.payload = other
			}
			s.gang.learn(s.Self, f)
		case f.is(kindProposal):
			if !opensView(f.payload) {
				break
			}
			if s.tries[f.to()]++; s.tries[f.to()]%3 == 1 {
				return // until more timeouts have come in: there is a second sending
			}
			if other, ok := s.lowestOpening(f.payload, s.gang.way[f.to()]); ok {
				emit(f.with(other))
				return
			}
		case f.is(kindPrepare, kindCommit):
			if !side[f.to()] {
				return
			}
		case f.is(kindCertificate):
			return
		case f.is(kindTimeoutCertificate):
			if s.one(2) {
				return
			}
		}
		emit(f)
	}
	return part{out: out}
}

// twoNewViews opens each view that it leads in two ways: as it should, and with another first
// proposal on the same certificate, on another quorum of timeouts with a lower lock, or on a parent
// that no certificate allows.
func twoNewViews(s *Strategy) part {
	out := func(f frame, emit send) {
		way := s.gang.way[f.to()]
		if way == 0 {
			emit(f)
			return
		}
		switch {
		case f.is(kindProposal):
			if !opensView(f.payload) {
				break
			}
			if other, ok := s.lowestOpening(f.payload, way); ok && s.one(2) {
				emit(f.with(other))
				return
			}
			if other, ok := s.otherProposal(f.payload, way, 1, s.one(3)); ok {
				emit(f.with(other))
				if s.one(2) {
					return
				}
			}
		case f.is(kindPrepare, kindCommit):
			if other, ok := s.otherVote(f.payload, way, f.kind); ok {
				emit(f.with(other))
			}
		}
		emit(f)
	}
	return part{out: out}
}

// retell replaces every own proposal for everybody, and votes for what was told: the honest engine
// behind learns of its chain from the others.
func retell(s *Strategy, twist func(p *pbftpb.Proposal) (bundles [][]byte, changed bool)) part {
	const way = 9 // of no side
	out := func(f frame, emit send) {
		switch {
		case f.is(kindProposal):
			m, p, ok := openProposal(f.payload)
			if !ok || len(s.gang.stories) > maxStories {
				break
			}
			was := digestOf(p.Header)
			p.Header = append([]byte(nil), p.Header...)
			parent, forked := s.gang.stories[tale{way, smr.Digest(p.Header[parentAt : parentAt+32])}]
			if forked {
				copy(p.Header[parentAt:], parent[:])
			}
			bundles, changed := twist(p)
			if !changed && !forked {
				break
			}
			s.gang.stories[tale{way, was}] = digestOf(p.Header)
			s.gang.keepCore(p.Header)
			p.Signature = s.signProposal(p.Header)
			m.Bundles = append(m.Bundles, bundles...)
			if b, ok := encode(m, p); ok {
				f.payload = b
			}
		case f.is(kindPrepare, kindCommit):
			if other, ok := s.otherVote(f.payload, way, f.kind); ok {
				f.payload = other
			}
		}
		emit(f)
	}
	return part{out: out}
}

// emptyBatches orders nothing while work waits.
func emptyBatches(s *Strategy) part {
	return retell(s, func(p *pbftpb.Proposal) ([][]byte, bool) {
		if binary.BigEndian.Uint32(p.Header[coreBytes:]) == 0 {
			return nil, false
		}
		p.Header = setRefs(p.Header, nil)
		return nil, true
	})
}

// duplicates orders again and again the first work it saw.
func duplicates(s *Strategy) part {
	var old [][]byte
	return retell(s, func(p *pbftpb.Proposal) ([][]byte, bool) {
		if len(old) == 0 {
			if len(s.gang.bundles.items) > 0 {
				old = append(old, s.gang.bundles.items[0])
			}
			return nil, false
		}
		p.Header = setRefs(p.Header, old)
		return old, true
	})
}

// otherProposal returns the proposal that one side is told: the same place in the order, with
// another time or fewer references, on that side's story's parent if there is one. One proposal in
// rarely starts a story. grandparent lets it extend an older header instead, which is never valid.
func (s *Strategy) otherProposal(payload []byte, way int, rarely byte, grandparent bool) ([]byte, bool) {
	m, p, ok := openProposal(payload)
	if !ok || len(s.gang.stories) > maxStories {
		return nil, false
	}
	was := digestOf(p.Header)
	parent := smr.Digest(p.Header[parentAt : parentAt+32])
	story, forked := s.gang.stories[tale{way, parent}]
	if !forked && was[1]%rarely != 0 {
		return nil, false // be honest for a while, and so stay primary
	}
	h := append([]byte(nil), p.Header...)
	if core := s.gang.cores[parent]; grandparent && core != nil {
		copy(h[parentAt:], core[parentAt:parentAt+32])
	} else if forked {
		copy(h[parentAt:], story[:])
	}
	t := binary.BigEndian.Uint64(h[timeAt:])
	binary.BigEndian.PutUint64(h[timeAt:], t+uint64(way))
	if refs := int(binary.BigEndian.Uint32(h[coreBytes:])); refs > 0 && was[0]%2 == 0 {
		h = h[:len(h)-refBytes]
		binary.BigEndian.PutUint32(h[coreBytes:], uint32(refs-1))
		rebatch(h)
	}
	s.gang.stories[tale{way, was}] = digestOf(h)
	s.gang.keepCore(h)
	p.Header, p.Signature = h, s.signProposal(h)
	return encode(m, p)
}

// otherVote returns the vote for what one side was told at the place that payload votes for.
func (s *Strategy) otherVote(payload []byte, way int, kind uint8) ([]byte, bool) {
	var m wirepb.ProtocolMessage
	var v pbftpb.Vote
	if m.UnmarshalVT(payload) != nil || v.UnmarshalVT(m.Payload) != nil || len(v.Digest) != 32 {
		return nil, false
	}
	d, ok := s.gang.stories[tale{way, smr.Digest(v.Digest)}]
	if !ok {
		return nil, false
	}
	v.Digest = d[:]
	v.Signature = s.statement(phase(kind), v.View, v.Seq, d)
	m.Kind = uint32(kind)
	return encode(&m, &v)
}

func phase(kind uint8) auth.Kind {
	if kind == kindCommit {
		return auth.KindCommit
	}
	return auth.KindPrepare
}

// otherTimeout returns the timeout without its lock.
func (s *Strategy) otherTimeout(payload []byte) ([]byte, bool) {
	var m wirepb.ProtocolMessage
	var t pbftpb.Timeout
	if m.UnmarshalVT(payload) != nil || t.UnmarshalVT(m.Payload) != nil {
		return nil, false
	}
	t.Lock = nil
	t.Signature = s.statement(auth.KindTimeout, t.View, 0, smr.Digest{})
	return encode(&m, &t)
}

// lowestOpening returns the first proposal of a view on the lowest lock that any quorum of the
// timeouts heard allows, if that is lower than the proposal's own: a choice that the rules leave to
// the primary.
func (s *Strategy) lowestOpening(payload []byte, way int) ([]byte, bool) {
	m, p, ok := openProposal(payload)
	if !ok || p.Timeout == nil {
		return nil, false
	}
	tc := s.lowestQuorum(p.Timeout.View)
	if tc == nil {
		return nil, false
	}
	ownView, ownSeq, _ := lockOf(p.Timeout.Lock)
	view, seq, d := lockOf(tc.Lock)
	if view > ownView || view == ownView && seq >= ownSeq {
		return nil, false
	}
	was := digestOf(p.Header)
	h := append([]byte(nil), p.Header...)
	copy(h[parentAt:], d[:])
	binary.BigEndian.PutUint64(h[seqAt:], seq+1)
	s.gang.stories[tale{way, was}] = digestOf(h)
	p.Timeout, p.Header, p.Signature = tc, h, s.signProposal(h)
	return encode(m, p)
}

// lowestQuorum returns the timeout certificate of a view with the lowest lock, of what was heard; nil
// if a quorum was not.
func (s *Strategy) lowestQuorum(of uint64) *pbftpb.TimeoutCertificate {
	type share struct {
		voter int
		t     timeout
	}
	var shares []share
	for i := range s.Membership.N() {
		if t := s.gang.heard[of][s.Membership.Voter(i).ID]; t != nil {
			shares = append(shares, share{i, t})
		}
	}
	if len(shares) < s.Membership.Quorum() {
		return nil
	}
	slices.SortStableFunc(shares, func(a, b share) int {
		av, as, _ := lockOf(a.t.Lock)
		bv, bs, _ := lockOf(b.t.Lock)
		return cmp.Or(cmp.Compare(av, bv), cmp.Compare(as, bs))
	})
	shares = shares[:s.Membership.Quorum()]
	lock := shares[len(shares)-1].t.Lock
	slices.SortFunc(shares, func(a, b share) int { return cmp.Compare(a.voter, b.voter) })
	tc := &pbftpb.TimeoutCertificate{View: of, Lock: lock}
	for _, x := range shares {
		tc.Shares = append(tc.Shares, shareOf(x.voter, x.t))
	}
	return tc
}

// shareOf returns what remains of a timeout in a certificate.
func shareOf(voter int, t timeout) *pbftpb.TimeoutShare {
	part := &pbftpb.TimeoutShare{Voter: uint32(voter), Signature: t.Signature}
	if t.Lock != nil {
		v, q, g := lockOf(t.Lock)
		part.Locked, part.LockView, part.LockSeq, part.LockDigest = true, v, q, g[:]
	}
	return part
}

package adversary

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
)

// What the strategies know of protocol/pbft's wire format: kinds, and the header's layout as drawn
// there. An adversary writes bytes, so it builds on the format and not on the package.
const (
	kindProposal           uint8 = 1
	kindPrepare            uint8 = 2
	kindCommit             uint8 = 3
	kindCertificate        uint8 = 4
	kindTimeout            uint8 = 6
	kindTimeoutCertificate uint8 = 7
	kindAnswer             uint8 = 10

	coreBytes    = 194
	refBytes     = 36
	viewAt       = 73
	seqAt        = 81
	parentAt     = 89
	timeAt       = 121
	batchAt      = 162
	headerDomain = "atlas-smr pbft header v1\x00"
	batchDomain  = "atlas-smr pbft batch v1\x00"
	lockDomain   = "atlas-smr pbft lock v1\x00"
)

func digestOf(core []byte) smr.Digest {
	return sha256.Sum256(append([]byte(headerDomain), core[:coreBytes]...))
}

// openProposal reads a frame's payload.
func openProposal(payload []byte) (*wirepb.ProtocolMessage, *pbftpb.Proposal, bool) {
	var m wirepb.ProtocolMessage
	var p pbftpb.Proposal
	if m.UnmarshalVT(payload) != nil || p.UnmarshalVT(m.Payload) != nil || len(p.Header) < coreBytes+4 {
		return nil, nil, false
	}
	return &m, &p, true
}

func encode(m *wirepb.ProtocolMessage, p interface{ MarshalVT() ([]byte, error) }) ([]byte, bool) {
	var err error
	if m.Payload, err = p.MarshalVT(); err != nil {
		return nil, false
	}
	out, err := m.MarshalVT()
	return out, err == nil
}

func opensView(payload []byte) bool {
	_, p, ok := openProposal(payload)
	return ok && (p.Timeout != nil || p.HandOver != nil)
}

// maxStories bounds what a strategy remembers.
const maxStories = 4096

// otherProposal returns the proposal that the other side is told: the same place in the order, with
// another time or fewer references, on the other story's parent if there is one. grandparent lets
// it extend an older header instead, which is never valid.
func (s *Strategy) otherProposal(payload []byte, grandparent bool) ([]byte, bool) {
	m, p, ok := openProposal(payload)
	if !ok || len(s.story) > maxStories {
		return nil, false
	}
	was := digestOf(p.Header)
	if _, forked := s.story[smr.Digest(p.Header[parentAt:parentAt+32])]; !forked && was[1]%s.rarely != 0 {
		return nil, false // be honest for a while, and so stay primary
	}
	h := append([]byte(nil), p.Header...)
	s.cores[was] = append([]byte(nil), p.Header[:coreBytes]...)
	parent := smr.Digest(h[parentAt : parentAt+32])
	switch core := s.cores[parent]; {
	case grandparent && core != nil:
		copy(h[parentAt:], core[parentAt:parentAt+32])
	case s.story[parent] != smr.Digest{}:
		d := s.story[parent]
		copy(h[parentAt:], d[:])
	}
	known, again := s.story[was]
	t := int64(binary.BigEndian.Uint64(h[timeAt:]))
	binary.BigEndian.PutUint64(h[timeAt:], uint64(t+1))
	if refs := int(binary.BigEndian.Uint32(h[coreBytes:])); refs > 0 && was[0]%2 == 0 {
		h = h[:len(h)-refBytes]
		binary.BigEndian.PutUint32(h[coreBytes:], uint32(refs-1))
		sum := sha256.Sum256(append([]byte(batchDomain), h[coreBytes:]...))
		copy(h[batchAt:], sum[:])
	}
	d := digestOf(h)
	if !again || known != d {
		s.story[was] = d
	}
	p.Header = h
	view, seq := smr.View(binary.BigEndian.Uint64(h[viewAt:])), smr.SeqNo(binary.BigEndian.Uint64(h[seqAt:]))
	p.Signature = s.sign.Sign(s.v.Statement(auth.KindProposal, view, seq, d).Append(nil))
	return encode(m, p)
}

// otherVote returns the vote for what the other side was told at the place that payload votes for.
func (s *Strategy) otherVote(payload []byte, kind uint8) ([]byte, bool) {
	var m wirepb.ProtocolMessage
	var v pbftpb.Vote
	if m.UnmarshalVT(payload) != nil || v.UnmarshalVT(m.Payload) != nil || len(v.Digest) != 32 {
		return nil, false
	}
	d, ok := s.story[smr.Digest(v.Digest)]
	if !ok {
		return nil, false
	}
	phase := auth.KindPrepare
	if kind == kindCommit {
		phase = auth.KindCommit
	}
	v.Digest = d[:]
	v.Signature = s.sign.Sign(s.v.Statement(phase, smr.View(v.View), smr.SeqNo(v.Seq), d).Append(nil))
	m.Kind = uint32(kind)
	return encode(&m, &v)
}

// maxHeard bounds the views whose timeouts are remembered.
const maxHeard = 64

// hear remembers a timeout.
func (s *Strategy) hear(from smr.NodeID, payload []byte) {
	var m wirepb.ProtocolMessage
	t := new(pbftpb.Timeout)
	if m.UnmarshalVT(payload) != nil || t.UnmarshalVT(m.Payload) != nil {
		return
	}
	if s.heard[t.View] == nil {
		if len(s.heard) >= maxHeard {
			return
		}
		s.heard[t.View] = map[smr.NodeID]*pbftpb.Timeout{}
	}
	s.heard[t.View][from] = t
}

// lockOf returns position and digest of a timeout's lock; all zero for none.
func lockOf(c *pbftpb.Certificate) (view, seq uint64, d smr.Digest) {
	if c == nil || len(c.Core) < coreBytes {
		return 0, 0, d
	}
	return binary.BigEndian.Uint64(c.Core[viewAt:]), binary.BigEndian.Uint64(c.Core[seqAt:]), digestOf(c.Core)
}

// otherTimeout returns the timeout without its lock.
func (s *Strategy) otherTimeout(payload []byte) ([]byte, bool) {
	var m wirepb.ProtocolMessage
	var t pbftpb.Timeout
	if m.UnmarshalVT(payload) != nil || t.UnmarshalVT(m.Payload) != nil {
		return nil, false
	}
	t.Lock = nil
	t.Signature = s.sign.Sign(s.v.Statement(auth.KindTimeout, smr.View(t.View), 0, smr.Digest{}).Append(nil))
	return encode(&m, &t)
}

// lowestOpening returns the first proposal of a view on the lowest lock that any quorum of the
// timeouts heard allows, if that is lower than the proposal's own: a choice that the rules leave to
// the primary.
func (s *Strategy) lowestOpening(payload []byte) ([]byte, bool) {
	m, p, ok := openProposal(payload)
	if !ok || p.Timeout == nil {
		return nil, false
	}
	type share struct {
		voter int
		t     *pbftpb.Timeout
	}
	var shares []share
	for i := range s.m.N() {
		if t := s.heard[p.Timeout.View][s.m.Voter(i).ID]; t != nil {
			shares = append(shares, share{i, t})
		}
	}
	if len(shares) < s.m.Quorum() {
		return nil, false
	}
	slices.SortStableFunc(shares, func(a, b share) int {
		av, as, _ := lockOf(a.t.Lock)
		bv, bs, _ := lockOf(b.t.Lock)
		return cmp.Or(cmp.Compare(av, bv), cmp.Compare(as, bs))
	})
	shares = shares[:s.m.Quorum()]
	lock := shares[len(shares)-1].t.Lock
	ownView, ownSeq, _ := lockOf(p.Timeout.Lock)
	view, seq, d := lockOf(lock)
	if view > ownView || view == ownView && seq >= ownSeq {
		return nil, false
	}
	slices.SortFunc(shares, func(a, b share) int { return cmp.Compare(a.voter, b.voter) })
	tc := &pbftpb.TimeoutCertificate{View: p.Timeout.View, Lock: lock}
	for _, x := range shares {
		v, q, g := lockOf(x.t.Lock)
		part := &pbftpb.TimeoutShare{Voter: uint32(x.voter), Signature: x.t.Signature}
		if x.t.Lock != nil {
			part.Locked, part.LockView, part.LockSeq, part.LockDigest = true, v, q, g[:]
		}
		tc.Shares = append(tc.Shares, part)
	}
	p.Timeout = tc
	h := append([]byte(nil), p.Header...)
	copy(h[parentAt:], d[:])
	binary.BigEndian.PutUint64(h[seqAt:], seq+1)
	p.Header = h
	p.Signature = s.sign.Sign(s.v.Statement(auth.KindProposal, smr.View(binary.BigEndian.Uint64(h[viewAt:])), smr.SeqNo(seq+1), digestOf(h)).Append(nil))
	s.story[digestOf(payloadHeader(payload))] = digestOf(h)
	return encode(m, p)
}

func payloadHeader(payload []byte) []byte {
	_, p, _ := openProposal(payload)
	return p.Header
}

// stripBundles removes what travels with a message.
func stripBundles(payload []byte) []byte {
	var m wirepb.ProtocolMessage
	if m.UnmarshalVT(payload) != nil {
		return payload
	}
	m.Bundles = nil
	out, err := m.MarshalVT()
	if err != nil {
		return payload
	}
	return out
}

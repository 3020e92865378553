package adversary

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
)

// What the strategies know of protocol/pbft's wire format: kinds, and the header's layout as drawn
// there. An adversary writes bytes, so it builds on the format and not on the package.
const (
	kindProposal uint8 = 1
	kindPrepare  uint8 = 2
	kindCommit   uint8 = 3
	kindAnswer   uint8 = 10

	coreBytes    = 194
	refBytes     = 36
	viewAt       = 73
	seqAt        = 81
	parentAt     = 89
	timeAt       = 121
	batchAt      = 162
	headerDomain = "atlas-smr pbft header v1\x00"
	batchDomain  = "atlas-smr pbft batch v1\x00"
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

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
	kindProposal           uint8 = 1
	kindPrepare            uint8 = 2
	kindCommit             uint8 = 3
	kindCertificate        uint8 = 4
	kindComplaint          uint8 = 5
	kindTimeout            uint8 = 6
	kindTimeoutCertificate uint8 = 7
	kindHeartbeat          uint8 = 8
	kindAsk                uint8 = 9
	kindAnswer             uint8 = 10

	coreBytes    = 194
	refBytes     = 36
	clusterAt    = 1
	epochAt      = 65
	viewAt       = 73
	seqAt        = 81
	parentAt     = 89
	timeAt       = 121
	flagsAt      = 129
	nextAt       = 130
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

// inner reads the ordering's message in a frame's payload.
func inner(payload []byte, m interface{ UnmarshalVT([]byte) error }) bool {
	var w wirepb.ProtocolMessage
	return w.UnmarshalVT(payload) == nil && m.UnmarshalVT(w.Payload) == nil
}

// message returns a frame's payload for a message of the ordering; bundles travel with it.
func (s *Strategy) message(kind uint8, p interface{ MarshalVT() ([]byte, error) }, bundles ...[]byte) []byte {
	b, err := p.MarshalVT()
	if err != nil {
		panic(err) // messages of integers and byte slices always encode
	}
	m := wirepb.ProtocolMessage{Kind: uint32(kind), Epoch: uint64(s.Membership.Epoch()), Payload: b, Bundles: bundles}
	out, err := m.MarshalVT()
	if err != nil {
		panic(err)
	}
	return out
}

// statement signs in the own name.
func (s *Strategy) statement(kind auth.Kind, view, seq uint64, d smr.Digest) []byte {
	return s.Signer.Sign(s.Verifier.Statement(kind, smr.View(view), smr.SeqNo(seq), d).Append(nil))
}

// viewOf returns the view of a proposal, prepare or timeout; 0 if it has none.
func viewOf(f frame) smr.View {
	switch f.kind {
	case kindProposal:
		if _, p, ok := openProposal(f.payload); ok {
			return smr.View(binary.BigEndian.Uint64(p.Header[viewAt:]))
		}
	case kindPrepare, kindCommit:
		var v pbftpb.Vote
		if inner(f.payload, &v) {
			return smr.View(v.View)
		}
	case kindTimeout:
		var t pbftpb.Timeout
		if inner(f.payload, &t) {
			return smr.View(t.View)
		}
	}
	return 0
}

// rebatch makes the batch digest of a whole header fit its references.
func rebatch(h []byte) {
	sum := sha256.Sum256(append([]byte(batchDomain), h[coreBytes:]...))
	copy(h[batchAt:], sum[:])
}

// setRefs replaces the references of a header.
func setRefs(h []byte, refs [][]byte) []byte {
	out := append([]byte(nil), h[:coreBytes]...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(refs)))
	for _, raw := range refs {
		id := sha256.Sum256(raw)
		out = append(out, id[:]...)
		out = binary.BigEndian.AppendUint32(out, uint32(len(raw)))
	}
	rebatch(out)
	return out
}

// signProposal signs a header as a proposal.
func (s *Strategy) signProposal(h []byte) []byte {
	return s.statement(auth.KindProposal, binary.BigEndian.Uint64(h[viewAt:]), binary.BigEndian.Uint64(h[seqAt:]), digestOf(h))
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

// lockOf returns position and digest of a timeout's lock; all zero for none.
func lockOf(c *pbftpb.Certificate) (view, seq uint64, d smr.Digest) {
	if c == nil || len(c.Core) < coreBytes {
		return 0, 0, d
	}
	return binary.BigEndian.Uint64(c.Core[viewAt:]), binary.BigEndian.Uint64(c.Core[seqAt:]), digestOf(c.Core)
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

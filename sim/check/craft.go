package check

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/protocol"
)

// What is known here of protocol/pbft's wire format: kinds, and the header's layout as drawn there.
// Byzantine messages are bytes, and the production codec decides which of them are messages.
const (
	kindProposal           uint8 = 1
	kindPrepare            uint8 = 2
	kindCommit             uint8 = 3
	kindCertificate        uint8 = 4
	kindComplaint          uint8 = 5
	kindTimeout            uint8 = 6
	kindTimeoutCertificate uint8 = 7
	kindAsk                uint8 = 9
	kindAnswer             uint8 = 10

	coreBytes    = 194
	viewAt       = 73
	seqAt        = 81
	parentAt     = 89
	headerDomain = "atlas-smr pbft header v1\x00"
	batchDomain  = "atlas-smr pbft batch v1\x00"
	lockDomain   = "atlas-smr pbft lock v1\x00"
	bundleBytes  = 10
)

// block is a proposal's header and its place. Number 0 is the start of the chain.
type block struct {
	raw     []byte
	digest  smr.Digest
	view    smr.View
	seq     smr.SeqNo
	parent  uint8
	variant uint8
	line    uint64 // itself and its ancestors, a bit each
}

// maxBlocks is how many proposals a run may hold: a bit each.
const maxBlocks = 63

func (w *world) register(raw []byte, parent, variant uint8) uint8 {
	b := block{raw: raw, digest: digestOf(raw), parent: parent, variant: variant}
	if id, ok := w.index[b.digest]; ok {
		return id
	}
	b.view, b.seq = smr.View(binary.BigEndian.Uint64(raw[viewAt:])), smr.SeqNo(binary.BigEndian.Uint64(raw[seqAt:]))
	id := uint8(len(w.blocks))
	if id > maxBlocks {
		panic(tooMany{})
	}
	b.line = w.blocks[parent].line | 1<<id
	w.blocks = append(w.blocks, b)
	w.index[b.digest] = id
	return id
}

// tooMany ends a run whose proposals do not fit.
type tooMany struct{}

func digestOf(raw []byte) smr.Digest {
	return sha256.Sum256(append([]byte(headerDomain), raw[:coreBytes]...))
}

// header encodes a header that carries one bundle named after the variant.
func (w *world) header(view smr.View, parent, variant uint8) []byte {
	p := w.blocks[parent]
	cluster, members := w.m.Cluster(), w.m.Digest()
	b := append([]byte{1}, cluster[:]...)
	b = append(b, members[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(w.m.Epoch()))
	b = binary.BigEndian.AppendUint64(b, uint64(view))
	b = binary.BigEndian.AppendUint64(b, uint64(p.seq+1))
	b = append(b, p.digest[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(w.now.UnixNano()))
	b = append(b, make([]byte, 1+32)...) // flags, next membership
	id := bundle(variant)
	refs := binary.BigEndian.AppendUint32(nil, 1)
	refs = append(refs, id[:]...)
	refs = binary.BigEndian.AppendUint32(refs, bundleBytes)
	batch := sha256.Sum256(append([]byte(batchDomain), refs...))
	return append(append(b, batch[:]...), refs...)
}

func bundle(variant uint8) smr.BundleID { return smr.BundleID{variant + 1} }

func (w *world) sign(id smr.NodeID, kind auth.Kind, view smr.View, seq smr.SeqNo, d smr.Digest) []byte {
	return w.scheme.Signer(uint64(id)).Sign(w.v.Statement(kind, view, seq, d).Append(nil))
}

type encoder interface{ MarshalVT() ([]byte, error) }

// decode passes a crafted message through the production codec; nil is a refusal.
func (w *world) decode(from smr.NodeID, kind uint8, p encoder) protocol.Message {
	raw, err := p.MarshalVT()
	invariant.Check(err == nil, "encoding: %v", err)
	m, err := w.codec.Decode(from, kind, raw)
	if err != nil {
		return nil
	}
	return m
}

func (w *world) vote(from smr.NodeID, kind uint8, b uint8) protocol.Message {
	x := w.blocks[b]
	k := auth.KindPrepare
	if kind == kindCommit {
		k = auth.KindCommit
	}
	return w.decode(from, kind, &pbftpb.Vote{View: uint64(x.view), Seq: uint64(x.seq), Digest: x.digest[:], Signature: w.sign(from, k, x.view, x.seq, x.digest)})
}

// certificate encodes the certificate of a block, signed by the first voters that suffice.
func (w *world) certificate(commit bool, b uint8) *pbftpb.Certificate {
	if b == 0 {
		return nil
	}
	x := w.blocks[b]
	kind := auth.KindPrepare
	if commit {
		kind = auth.KindCommit
	}
	raw := []byte{1<<w.m.Quorum() - 1}
	for i := range w.m.Quorum() {
		raw = append(raw, w.sign(w.m.Voter(i).ID, kind, x.view, x.seq, x.digest)...)
	}
	return &pbftpb.Certificate{Commit: commit, Core: x.raw[:coreBytes], Certificate: raw}
}

// bind is the digest by which a timeout names its lock.
func (w *world) bind(lock uint8) smr.Digest {
	if lock == 0 {
		return smr.Digest{}
	}
	x := w.blocks[lock]
	b := append([]byte(nil), lockDomain...)
	b = binary.BigEndian.AppendUint64(b, uint64(x.view))
	b = binary.BigEndian.AppendUint64(b, uint64(x.seq))
	return sha256.Sum256(append(b, x.digest[:]...))
}

func (w *world) timeout(from smr.NodeID, view smr.View, lock uint8) protocol.Message {
	return w.decode(from, kindTimeout, &pbftpb.Timeout{View: uint64(view), Lock: w.certificate(false, lock), Signature: w.sign(from, auth.KindTimeout, view, 0, w.bind(lock))})
}

// timeouts encodes a timeout certificate of shares with these locks that claims one as the highest.
func (w *world) timeouts(view smr.View, claim uint8, locks ...uint8) *pbftpb.TimeoutCertificate {
	tc := &pbftpb.TimeoutCertificate{View: uint64(view), Lock: w.certificate(false, claim)}
	for i, l := range locks {
		s := &pbftpb.TimeoutShare{Voter: uint32(i), Signature: w.sign(w.m.Voter(i).ID, auth.KindTimeout, view, 0, w.bind(l))}
		if l > 0 {
			x := w.blocks[l]
			s.Locked, s.LockView, s.LockSeq, s.LockDigest = true, uint64(x.view), uint64(x.seq), append([]byte(nil), x.digest[:]...)
		}
		tc.Shares = append(tc.Shares, s)
	}
	return tc
}

// opening is the one timeout certificate that stands for all with this view and lock.
func (w *world) opening(view smr.View, lock uint8) *pbftpb.TimeoutCertificate {
	locks := make([]uint8, w.shares)
	locks[0] = lock
	return w.timeouts(view, lock, locks...)
}

// proposal encodes a proposal; a first one of a later view names the lock it claims to start from.
func (w *world) proposal(raw []byte, view smr.View, seq smr.SeqNo, first bool, lock uint8) protocol.Message {
	p := &pbftpb.Proposal{Header: raw, Signature: w.sign(w.m.Primary(view), auth.KindProposal, view, seq, digestOf(raw))}
	if first && view > 0 {
		p.Timeout = w.opening(view-1, lock)
	}
	return w.decode(w.m.Primary(view), kindProposal, p)
}

func (w *world) complaint(from smr.NodeID, view smr.View) protocol.Message {
	const greatest = 1 << 62 // a suspicion, which progress does not answer
	return w.decode(from, kindComplaint, &pbftpb.Complaint{View: uint64(view), Decided: greatest, Signature: w.sign(from, auth.KindComplaint, view, greatest, smr.Digest{})})
}

// answer holds the header of a digest and its ancestors above a sequence number.
func (w *world) answer(d smr.Digest, above smr.SeqNo) protocol.Message {
	p := &pbftpb.Answer{}
	for b, ok := w.index[d]; ok && b != 0 && w.blocks[b].seq > above; b = w.blocks[b].parent {
		p.Headers = append(p.Headers, w.blocks[b].raw)
	}
	if len(p.Headers) == 0 {
		return nil
	}
	return w.decode(w.m.Voter(0).ID, kindAnswer, p)
}

package pbft

import (
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/protocol"
)

// signedVote is a verified vote as its voter signed it: a prepare, a commit or a timeout, received
// by itself or found inside a certificate. The zero value is none.
type signedVote struct {
	stmt auth.Statement
	sig  []byte // immutable; empty under crash faults
}

// mark returns the position of the vote among those of its voter.
func (s signedVote) mark() protocol.Mark {
	if s.stmt.Kind == auth.KindTimeout {
		return timeoutMark(s.stmt.Epoch, s.stmt.View)
	}
	return protocol.Mark{Epoch: s.stmt.Epoch, View: s.stmt.View, Seq: s.stmt.Seq}
}

// saw remembers the newest vote of voter i, and only that one.
func (r *Replica) saw(i int, stmt auth.Statement, sig []byte) {
	if v := (signedVote{stmt, sig}); r.peers[i].newest.mark().Less(v.mark()) {
		r.peers[i].newest = v
	}
}

// sawCertificate remembers the votes inside a certificate.
func (r *Replica) sawCertificate(c *auth.Certificate) {
	raw := c.Bytes()
	sigs := raw[(r.n+7)/8:]
	for k, i := range signers(c, r.n) {
		var sig []byte
		if len(sigs) > 0 {
			sig = sigs[k*auth.SignatureBytes:][:auth.SignatureBytes:auth.SignatureBytes]
		}
		r.saw(i, c.Statement(), sig)
	}
}

// Seen implements protocol.Ordering.
func (r *Replica) Seen(id smr.NodeID) protocol.Mark {
	if i, ok := r.m.Index(id); ok {
		return r.peers[i].newest.mark()
	}
	return protocol.Mark{}
}

// maxEvidenceBytes bounds what Evidence returns: a kind, two numbers, a digest and a signature.
const maxEvidenceBytes = 256

// Evidence implements protocol.Ordering: the kind of the vote's message, then the vote. A timeout's
// digest is the one that binds its lock.
func (r *Replica) Evidence(id smr.NodeID) []byte {
	i, ok := r.m.Index(id)
	if !ok || r.peers[i].newest.mark() == (protocol.Mark{}) {
		return nil
	}
	v := r.peers[i].newest
	kind := kindPrepare
	switch v.stmt.Kind {
	case auth.KindCommit:
		kind = kindCommit
	case auth.KindTimeout:
		kind = kindTimeout
	}
	p := pbftpb.Vote{View: uint64(v.stmt.View), Seq: uint64(v.stmt.Seq), Digest: v.stmt.Digest[:], Signature: v.sig}
	out := make([]byte, 1+p.SizeVT())
	out[0] = kind
	_, err := p.MarshalToSizedBufferVT(out[1:])
	invariant.Check(err == nil && len(out) <= maxEvidenceBytes, "a vote of %d bytes: %v", len(out), err)
	return out
}

// OpenEvidence implements protocol.Codec.
func (c *Codec) OpenEvidence(id smr.NodeID, raw []byte) (protocol.Mark, error) {
	if len(raw) == 0 || len(raw) > maxEvidenceBytes {
		return protocol.Mark{}, fmt.Errorf("%w: evidence of %d bytes", ErrMessage, len(raw))
	}
	kind := auth.KindPrepare
	switch raw[0] {
	case kindPrepare:
	case kindCommit:
		kind = auth.KindCommit
	case kindTimeout:
		kind = auth.KindTimeout
	default:
		return protocol.Mark{}, fmt.Errorf("%w: evidence of kind %d", ErrMessage, raw[0])
	}
	var p pbftpb.Vote
	if err := p.UnmarshalVT(raw[1:]); err != nil {
		return protocol.Mark{}, malformed(err)
	}
	if len(p.Digest) != len(smr.Digest{}) || p.View > maxPosition || p.Seq > maxPosition || (p.Seq == 0) != (kind == auth.KindTimeout) {
		return protocol.Mark{}, fmt.Errorf("%w: evidence out of bounds", ErrMessage)
	}
	stmt := c.v.Statement(kind, smr.View(p.View), smr.SeqNo(p.Seq), smr.Digest(p.Digest))
	if _, err := c.v.Vote(id, stmt, p.Signature); err != nil {
		return protocol.Mark{}, err
	}
	return signedVote{stmt: stmt}.mark(), nil
}

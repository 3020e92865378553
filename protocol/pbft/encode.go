package pbft

import (
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/protocol"
)

// encoder is what generated messages share.
type encoder interface {
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
}

// Append implements protocol.Codec.
func (c *Codec) Append(dst []byte, m protocol.Message) []byte { return appendMessage(dst, m) }

func appendMessage(dst []byte, m protocol.Message) []byte {
	var p encoder
	switch m := m.(type) {
	case *Proposal:
		p = &pbftpb.Proposal{
			Header: m.Header.raw, Signature: m.Signature,
			Timeout: encodeTimeoutCertificate(m.Timeout), HandOver: encodeCertificate(m.HandOver),
		}
	case *Vote:
		digest := m.digest()
		p = &pbftpb.Vote{View: uint64(m.view()), Seq: uint64(m.seq()), Digest: digest[:], Signature: m.Vote.Signature(), Again: m.Again}
	case *Certificate:
		p = encodeCertificate(m)
	case *Complaint:
		p = &pbftpb.Complaint{View: uint64(m.view()), Decided: uint64(m.seq()), Signature: m.Vote.Signature()}
	case *Timeout:
		p = &pbftpb.Timeout{View: uint64(m.view()), Lock: encodeCertificate(m.Lock), Signature: m.Vote.Signature()}
	case *TimeoutCertificate:
		p = encodeTimeoutCertificate(m)
	case *Heartbeat:
		p = &pbftpb.Heartbeat{View: uint64(m.View), Newest: encodeCertificate(m.Newest)}
	case *Ask:
		p = &pbftpb.Ask{View: uint64(m.View), Seq: uint64(m.Seq), Digest: m.Digest[:], Above: uint64(m.Above)}
	case *Answer:
		raws := make([][]byte, len(m.Headers))
		for i, h := range m.Headers {
			raws[i] = h.raw
		}
		p = &pbftpb.Answer{Headers: raws}
	default:
		invariant.Check(false, "pbft does not encode %T", m)
	}
	n := p.SizeVT()
	dst = append(dst, make([]byte, n)...)
	_, err := p.MarshalToSizedBufferVT(dst[len(dst)-n:])
	invariant.Check(err == nil, "a message of bytes and numbers always encodes: %v", err)
	return dst
}

func encodeCertificate(c *Certificate) *pbftpb.Certificate {
	if c == nil {
		return nil
	}
	return &pbftpb.Certificate{Commit: c.commit(), Core: c.Core.core(), Certificate: c.Cert.Bytes()}
}

func encodeTimeoutCertificate(tc *TimeoutCertificate) *pbftpb.TimeoutCertificate {
	if tc == nil {
		return nil
	}
	p := &pbftpb.TimeoutCertificate{View: uint64(tc.view), Lock: encodeCertificate(tc.lock), Shares: make([]*pbftpb.TimeoutShare, len(tc.shares))}
	for i, s := range tc.shares {
		e := &pbftpb.TimeoutShare{Voter: uint32(s.voter), Signature: s.sig}
		if s.lock != (lockName{}) {
			e.Locked, e.LockView, e.LockSeq, e.LockDigest = true, uint64(s.lock.view), uint64(s.lock.seq), append([]byte(nil), s.lock.digest[:]...)
		}
		p.Shares[i] = e
	}
	return p
}

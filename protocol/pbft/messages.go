package pbft

import (
	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
)

// The kinds of message. Values travel: never reuse one.
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
)

// Proposal is the pre-prepare of PBFT: a header signed by the primary of its view. The first of a
// view above 0 says what opened the view: exactly one of Timeout and HandOver. It carries no vote.
type Proposal struct {
	Header    *Header
	Signature []byte
	Timeout   *TimeoutCertificate
	HandOver  *Certificate
}

// Vote is a prepare or a commit. Again says that the sender sent it before and still lacks the
// decision; it is not signed.
type Vote struct {
	Vote  *auth.Vote
	Again bool
}

// Certificate is a quorum of prepares or commits for the header whose core it carries. As a lock it
// is a prepare certificate; as a hand-over the commit certificate of a term-closing header.
type Certificate struct {
	Core *Header
	Cert *auth.Certificate
}

// Complaint says that its signer is dissatisfied with the primary of a view. It binds nothing. It is
// void once a later sequence number than its own is decided; a suspicion, which progress does not
// answer, has the greatest one.
type Complaint struct{ Vote *auth.Vote }

// Timeout is a promise not to vote in any view up to its own. Lock is the signer's; nil for none.
type Timeout struct {
	Vote *auth.Vote
	Lock *Certificate
}

// Heartbeat shows that an idle primary lives and names the newest commit certificate it knows.
type Heartbeat struct {
	View   smr.View
	Newest *Certificate
}

// Ask asks for a header and its ancestors above Above. With a zero digest it asks to be told of a
// newer view.
type Ask struct {
	View   smr.View
	Seq    smr.SeqNo
	Digest smr.Digest
	Above  smr.SeqNo
}

// Answer holds whole headers, each the parent of the one before.
type Answer struct{ Headers []*Header }

// Kind implements protocol.Message.
func (*Proposal) Kind() uint8 { return kindProposal }

// Kind implements protocol.Message.
func (v *Vote) Kind() uint8 {
	if v.Vote.Statement().Kind == auth.KindCommit {
		return kindCommit
	}
	return kindPrepare
}

// Kind implements protocol.Message.
func (*Certificate) Kind() uint8 { return kindCertificate }

// Kind implements protocol.Message.
func (*Complaint) Kind() uint8 { return kindComplaint }

// Kind implements protocol.Message.
func (*Timeout) Kind() uint8 { return kindTimeout }

// Kind implements protocol.Message.
func (*TimeoutCertificate) Kind() uint8 { return kindTimeoutCertificate }

// Kind implements protocol.Message.
func (*Heartbeat) Kind() uint8 { return kindHeartbeat }

// Kind implements protocol.Message.
func (*Ask) Kind() uint8 { return kindAsk }

// Kind implements protocol.Message.
func (*Answer) Kind() uint8 { return kindAnswer }

// messageOverhead is what a message costs in memory beyond its variable parts.
const messageOverhead = 256

// Size implements protocol.Message.
func (p *Proposal) Size() int {
	return messageOverhead + 2*len(p.Header.raw) + p.Timeout.Size() + p.HandOver.Size()
}

// Size implements protocol.Message.
func (*Vote) Size() int { return messageOverhead }

// Size implements protocol.Message.
func (c *Certificate) Size() int {
	if c == nil {
		return 0
	}
	return 2*messageOverhead + len(c.Core.raw) + len(c.Cert.Bytes())
}

// Size implements protocol.Message.
func (*Complaint) Size() int { return messageOverhead }

// Size implements protocol.Message.
func (t *Timeout) Size() int { return messageOverhead + t.Lock.Size() }

// Size implements protocol.Message.
func (t *TimeoutCertificate) Size() int {
	if t == nil {
		return 0
	}
	return messageOverhead*(1+len(t.shares)) + t.lock.Size()
}

// Size implements protocol.Message.
func (h *Heartbeat) Size() int { return messageOverhead + h.Newest.Size() }

// Size implements protocol.Message.
func (*Ask) Size() int { return messageOverhead }

// Size implements protocol.Message.
func (a *Answer) Size() int {
	n := messageOverhead
	for _, h := range a.Headers {
		n += 2 * len(h.raw)
	}
	return n
}

// commit reports whether c is a commit certificate.
func (c *Certificate) commit() bool { return c.Cert.Statement().Kind == auth.KindCommit }

// view returns the view the message belongs to.
func (p *Proposal) view() smr.View    { return p.Header.View }
func (v *Vote) view() smr.View        { return v.Vote.Statement().View }
func (v *Vote) seq() smr.SeqNo        { return v.Vote.Statement().Seq }
func (v *Vote) digest() smr.Digest    { return v.Vote.Statement().Digest }
func (c *Complaint) view() smr.View   { return c.Vote.Statement().View }
func (c *Complaint) seq() smr.SeqNo   { return c.Vote.Statement().Seq }
func (t *Timeout) view() smr.View     { return t.Vote.Statement().View }
func (c *Certificate) view() smr.View { return c.Core.View }

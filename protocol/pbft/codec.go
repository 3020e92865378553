package pbft

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/protocol"
)

// Codec decodes and verifies the messages of one membership. It is immutable.
type Codec struct{ v *auth.Verifier }

// NewCodec returns the codec for the verifier's membership.
func NewCodec(v *auth.Verifier) protocol.Codec { return &Codec{v: v} }

// Bounds of an answer. A replica asks again for what did not fit.
const (
	maxAnswerHeaders = 64
	maxAnswerBytes   = 512 << 10
)

// maxPayloadBytes bounds a message: the header of a full batch, or an answer, and the certificates
// of a large membership fit several times. A longer one is refused before it is unpacked.
const maxPayloadBytes = 1 << 20

// The ways a message is refused.
var (
	ErrMessage = errors.New("bad pbft message")
	ErrSender  = errors.New("not for this sender to say")
)

// Decode implements protocol.Codec.
func (c *Codec) Decode(from smr.NodeID, kind uint8, payload []byte) (protocol.Message, error) {
	if len(payload) > maxPayloadBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrMessage, len(payload))
	}
	switch kind {
	case kindProposal:
		return c.decodeProposal(payload)
	case kindPrepare:
		return c.decodeVote(from, auth.KindPrepare, payload)
	case kindCommit:
		return c.decodeVote(from, auth.KindCommit, payload)
	case kindCertificate:
		var p pbftpb.Certificate
		if err := p.UnmarshalVT(payload); err != nil {
			return nil, malformed(err)
		}
		return refuseNil(c.openCertificate(&p))
	case kindComplaint:
		return c.decodeComplaint(from, payload)
	case kindTimeout:
		return c.decodeTimeout(from, payload)
	case kindTimeoutCertificate:
		if err := c.boundShares(payload); err != nil {
			return nil, err
		}
		var p pbftpb.TimeoutCertificate
		if err := p.UnmarshalVT(payload); err != nil {
			return nil, malformed(err)
		}
		return refuseNil(c.openTimeoutCertificate(&p))
	case kindHeartbeat:
		return c.decodeHeartbeat(from, payload)
	case kindAsk:
		return decodeAsk(payload)
	case kindAnswer:
		return c.decodeAnswer(payload)
	}
	return nil, fmt.Errorf("%w: unknown kind %d", ErrMessage, kind)
}

// refuseNil keeps a nil pointer from becoming a message that is not nil.
func refuseNil[M protocol.Message](m M, err error) (protocol.Message, error) {
	if err != nil {
		return nil, err
	}
	return m, nil
}

func malformed(err error) error { return fmt.Errorf("%w: %w", ErrMessage, err) }

func (c *Codec) decodeProposal(payload []byte) (protocol.Message, error) {
	// The timeout certificate may come in several pieces, which the decoder merges.
	shares, most := 0, c.v.Membership().N()
	each(payload, 3, func(tc []byte) bool { shares += count(tc, 2, most); return shares <= most })
	if shares > most {
		return nil, errTimeoutCertificate
	}
	var p pbftpb.Proposal
	if err := p.UnmarshalVT(payload); err != nil {
		return nil, malformed(err)
	}
	h, err := c.header(p.Header)
	if err != nil {
		return nil, err
	}
	primary := c.v.Membership().Primary(h.View)
	if _, err := c.v.Vote(primary, c.v.Statement(auth.KindProposal, h.View, h.Seq, h.Digest), p.Signature); err != nil {
		return nil, err
	}
	out := &Proposal{Header: h, Signature: p.Signature}
	if p.Timeout != nil {
		if out.Timeout, err = c.openTimeoutCertificate(p.Timeout); err != nil {
			return nil, err
		}
	}
	if p.HandOver != nil {
		if out.HandOver, err = c.openCertificate(p.HandOver); err != nil {
			return nil, err
		}
	}
	return refuseNil(out, out.justified())
}

// justified checks that what p carries opens its view, and that p extends what it must.
func (p *Proposal) justified() error {
	var start *Header
	switch {
	case p.Timeout == nil && p.HandOver == nil:
		return nil
	case p.Timeout != nil && p.HandOver != nil:
		return fmt.Errorf("%w: two starting certificates", ErrMessage)
	case p.Timeout != nil:
		if p.Timeout.opens() != p.Header.View {
			return fmt.Errorf("%w: a timeout certificate of another view", ErrMessage)
		}
		if p.Timeout.lock == nil {
			return nil // extends the epoch's start, which the machine knows
		}
		start = p.Timeout.lock.Core
	default:
		if !p.HandOver.commit() || !p.HandOver.Core.closesTerm() || p.HandOver.view()+1 != p.Header.View {
			return fmt.Errorf("%w: not the hand-over to this view", ErrMessage)
		}
		start = p.HandOver.Core
	}
	if p.Header.Parent != start.Digest || p.Header.Seq != start.Seq+1 {
		return fmt.Errorf("%w: does not extend what opened its view", ErrMessage)
	}
	return nil
}

func (c *Codec) decodeVote(from smr.NodeID, kind auth.Kind, payload []byte) (protocol.Message, error) {
	var p pbftpb.Vote
	if err := p.UnmarshalVT(payload); err != nil {
		return nil, malformed(err)
	}
	if len(p.Digest) != len(smr.Digest{}) || p.View > maxPosition || p.Seq == 0 || p.Seq > maxPosition {
		return nil, fmt.Errorf("%w: vote out of bounds", ErrMessage)
	}
	v, err := c.v.Vote(from, c.v.Statement(kind, smr.View(p.View), smr.SeqNo(p.Seq), smr.Digest(p.Digest)), p.Signature)
	if err != nil {
		return nil, err
	}
	return &Vote{Vote: v, Again: p.Again}, nil
}

func (c *Codec) decodeComplaint(from smr.NodeID, payload []byte) (protocol.Message, error) {
	var p pbftpb.Complaint
	if err := p.UnmarshalVT(payload); err != nil {
		return nil, malformed(err)
	}
	if p.View > maxPosition || p.Decided > maxPosition {
		return nil, fmt.Errorf("%w: complaint out of bounds", ErrMessage)
	}
	v, err := c.v.Vote(from, c.v.Statement(auth.KindComplaint, smr.View(p.View), smr.SeqNo(p.Decided), smr.Digest{}), p.Signature)
	if err != nil {
		return nil, err
	}
	return &Complaint{Vote: v}, nil
}

func (c *Codec) decodeTimeout(from smr.NodeID, payload []byte) (protocol.Message, error) {
	var p pbftpb.Timeout
	if err := p.UnmarshalVT(payload); err != nil {
		return nil, malformed(err)
	}
	if p.View > maxPosition {
		return nil, fmt.Errorf("%w: timeout out of bounds", ErrMessage)
	}
	lock, err := c.openLockOf(p.Lock, smr.View(p.View))
	if err != nil {
		return nil, err
	}
	v, err := c.v.Vote(from, c.v.Statement(auth.KindTimeout, smr.View(p.View), 0, nameLock(lock).bind()), p.Signature)
	if err != nil {
		return nil, err
	}
	return &Timeout{Vote: v, Lock: lock}, nil
}

// openLockOf verifies the lock that a timeout of view carries; nil is none.
func (c *Codec) openLockOf(p *pbftpb.Certificate, view smr.View) (*Certificate, error) {
	if p == nil {
		return nil, nil
	}
	lock, err := c.openCertificate(p)
	if err != nil {
		return nil, err
	}
	if lock.commit() || lock.view() > view {
		return nil, fmt.Errorf("%w: no lock of view %d", ErrMessage, view)
	}
	return lock, nil
}

// openCertificate verifies a certificate and its core.
func (c *Codec) openCertificate(p *pbftpb.Certificate) (*Certificate, error) {
	if len(p.Core) != coreBytes {
		return nil, fmt.Errorf("%w: core of %d bytes", ErrMessage, len(p.Core))
	}
	h, err := parseCore(p.Core)
	if err != nil {
		return nil, err
	}
	if !h.belongs(c.v.Membership()) {
		return nil, fmt.Errorf("%w: of another epoch or cluster", ErrHeader)
	}
	kind := auth.KindPrepare
	if p.Commit {
		kind = auth.KindCommit
	}
	cert, err := c.v.Open(c.v.Statement(kind, h.View, h.Seq, h.Digest), p.Certificate)
	if err != nil {
		return nil, err
	}
	return &Certificate{Core: h, Cert: cert}, nil
}

func (c *Codec) openTimeoutCertificate(p *pbftpb.TimeoutCertificate) (*TimeoutCertificate, error) {
	if p.View > maxPosition || len(p.Shares) != timeoutQuorum(c.v.Membership()) {
		return nil, errTimeoutCertificate
	}
	tc := &TimeoutCertificate{view: smr.View(p.View), shares: make([]timeoutShare, len(p.Shares))}
	for i, s := range p.Shares {
		if s.Voter >= uint32(c.v.Membership().N()) {
			return nil, errTimeoutCertificate
		}
		tc.shares[i] = timeoutShare{voter: int(s.Voter), sig: s.Signature}
		switch {
		case s.Locked && len(s.LockDigest) == len(smr.Digest{}) && s.LockSeq > 0:
			tc.shares[i].lock = lockName{view: smr.View(s.LockView), seq: smr.SeqNo(s.LockSeq), digest: smr.Digest(s.LockDigest)}
		case s.Locked || len(s.LockDigest) != 0 || s.LockView != 0 || s.LockSeq != 0:
			return nil, errTimeoutCertificate
		}
	}
	var err error
	if tc.lock, err = c.openLockOf(p.Lock, tc.view); err != nil {
		return nil, err
	}
	return tc, tc.open(c.v)
}

func (c *Codec) decodeHeartbeat(from smr.NodeID, payload []byte) (protocol.Message, error) {
	var p pbftpb.Heartbeat
	if err := p.UnmarshalVT(payload); err != nil {
		return nil, malformed(err)
	}
	if p.View > maxPosition || c.v.Membership().Primary(smr.View(p.View)) != from {
		return nil, fmt.Errorf("%w: heartbeat of view %d", ErrSender, p.View)
	}
	out := &Heartbeat{View: smr.View(p.View)}
	if p.Newest == nil {
		return out, nil
	}
	var err error
	if out.Newest, err = c.openCertificate(p.Newest); err != nil {
		return nil, err
	}
	if !out.Newest.commit() {
		return nil, fmt.Errorf("%w: a heartbeat names a commit certificate", ErrMessage)
	}
	return out, nil
}

func decodeAsk(payload []byte) (protocol.Message, error) {
	var p pbftpb.Ask
	if err := p.UnmarshalVT(payload); err != nil {
		return nil, malformed(err)
	}
	if len(p.Digest) != len(smr.Digest{}) || p.View > maxPosition || p.Seq > maxPosition || p.Above > maxPosition {
		return nil, fmt.Errorf("%w: ask out of bounds", ErrMessage)
	}
	return &Ask{View: smr.View(p.View), Seq: smr.SeqNo(p.Seq), Digest: smr.Digest(p.Digest), Above: smr.SeqNo(p.Above)}, nil
}

func (c *Codec) decodeAnswer(payload []byte) (protocol.Message, error) {
	if n := count(payload, 1, maxAnswerHeaders); n == 0 || n > maxAnswerHeaders {
		return nil, fmt.Errorf("%w: an answer has 1 to %d headers", ErrMessage, maxAnswerHeaders)
	}
	var p pbftpb.Answer
	if err := p.UnmarshalVT(payload); err != nil {
		return nil, malformed(err)
	}
	out := &Answer{Headers: make([]*Header, len(p.Headers))}
	for i, raw := range p.Headers {
		h, err := c.header(raw)
		if err != nil {
			return nil, err
		}
		if i > 0 && (out.Headers[i-1].Parent != h.Digest || out.Headers[i-1].Seq != h.Seq+1) {
			return nil, fmt.Errorf("%w: headers of an answer are not linked", ErrMessage)
		}
		out.Headers[i] = h
	}
	return out, nil
}

// header reads a whole header of this membership.
func (c *Codec) header(raw []byte) (*Header, error) {
	h, err := parseHeader(raw)
	if err != nil {
		return nil, err
	}
	if !h.belongs(c.v.Membership()) {
		return nil, fmt.Errorf("%w: of another epoch or cluster", ErrHeader)
	}
	return h, nil
}

// boundShares refuses an encoded timeout certificate with more shares than voters before they are
// allocated.
func (c *Codec) boundShares(raw []byte) error {
	if count(raw, 2, c.v.Membership().N()) > c.v.Membership().N() {
		return errTimeoutCertificate
	}
	return nil
}

// count returns how often a field occurs in an encoded message, stopping above most.
func count(b []byte, num protowire.Number, most int) int {
	n := 0
	each(b, num, func([]byte) bool { n++; return n <= most })
	return n
}

// each calls f with the value of every occurrence of a length-delimited field until f returns
// false or the input is malformed.
func each(b []byte, num protowire.Number, f func([]byte) bool) {
	for len(b) > 0 {
		n, typ, k := protowire.ConsumeTag(b)
		if k < 0 {
			return
		}
		m := protowire.ConsumeFieldValue(n, typ, b[k:])
		if m < 0 {
			return
		}
		if n == num && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(b[k:])
			if !f(v) {
				return
			}
		}
		b = b[k+m:]
	}
}

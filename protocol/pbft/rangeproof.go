package pbft

import (
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/protocol"
)

// ErrRange is wrapped by every refusal of a range of decisions.
var ErrRange = errors.New("bad range of decisions")

// VerifyRange implements protocol.Codec. r.Proof is the encoding of the commit certificate of the
// last header, as Decision.Proof.Bytes() and the data of a RecordDecision have it. The last
// returned decision carries the certificate if it is the header that the certificate is about; with
// linking headers no returned decision carries one.
func (c *Codec) VerifyRange(after smr.SeqNo, parent smr.Digest, r protocol.Range) ([]protocol.Decision, error) {
	if len(r.Headers) == 0 || len(r.Bundles) > len(r.Headers) {
		return nil, fmt.Errorf("%w: %d headers for %d batches", ErrRange, len(r.Headers), len(r.Bundles))
	}
	if after > maxPosition {
		return nil, fmt.Errorf("%w: starts at %d", ErrRange, after)
	}
	out := make([]protocol.Decision, 0, len(r.Bundles))
	var last *Header
	for i, raw := range r.Headers {
		h, err := c.linkedHeader(raw, i < len(r.Bundles))
		if err != nil {
			return nil, err
		}
		if after++; h.Seq != after || h.Parent != parent {
			return nil, fmt.Errorf("%w: header %d does not follow", ErrRange, i)
		}
		parent, last = h.Digest, h
		if i >= len(r.Bundles) {
			continue
		}
		if err := matchBundles(h, r.Bundles[i]); err != nil {
			return nil, err
		}
		out = append(out, protocol.Decision{HeaderInfo: h.info(), Header: h.raw})
	}
	cert, err := c.v.Open(c.v.Statement(auth.KindCommit, last.View, last.Seq, last.Digest), r.Proof)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRange, err)
	}
	if len(out) == len(r.Headers) {
		out[len(out)-1].Proof = cert
	}
	return out, nil
}

// linkedHeader reads a header of a range. One that only links may be a core.
func (c *Codec) linkedHeader(raw []byte, whole bool) (*Header, error) {
	raw = append([]byte(nil), raw...)
	if whole || len(raw) != coreBytes {
		return c.header(raw)
	}
	h, err := parseCore(raw)
	if err == nil && !h.belongs(c.v.Membership()) {
		err = fmt.Errorf("%w: of another epoch or cluster", ErrHeader)
	}
	return h, err
}

func matchBundles(h *Header, bundles []*smr.Bundle) error {
	if len(bundles) != len(h.Refs) {
		return fmt.Errorf("%w: %d bundles for %d references", ErrRange, len(bundles), len(h.Refs))
	}
	for i, b := range bundles {
		if b.Ref() != h.Refs[i] {
			return fmt.Errorf("%w: bundle %d of sequence number %d is not the one named", ErrRange, i, h.Seq)
		}
	}
	return nil
}

// OpenLock implements protocol.Codec.
func (c *Codec) OpenLock(raw []byte) (protocol.Mark, error) {
	var p pbftpb.Certificate
	if err := p.UnmarshalVT(raw); err != nil {
		return protocol.Mark{}, malformed(err)
	}
	lock, err := c.openLockOf(&p, maxPosition)
	if err != nil {
		return protocol.Mark{}, err
	}
	return lock.Core.mark(), nil
}

// Header implements protocol.Codec.
func (c *Codec) Header(raw []byte) (protocol.HeaderInfo, error) {
	h, err := parseHeader(raw)
	if err != nil {
		return protocol.HeaderInfo{}, err
	}
	return h.info(), nil
}

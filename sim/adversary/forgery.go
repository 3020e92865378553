package adversary

import (
	"encoding/binary"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/wire"
)

// forge adds certificates that prove nothing to what it sends: of one signer repeated, of too few,
// relabelled, misshapen, of another epoch or cluster; and old ones, which prove what is known.
func forge(s *Strategy) part {
	return part{out: func(f frame, emit send) {
		emit(f)
		if f.to() == 0 || !s.one(3) {
			return
		}
		switch {
		case f.is(kindPrepare, kindCommit, kindHeartbeat, kindCertificate):
			if c := s.forgedCertificate(); c != nil {
				emit(frame{peer: f.peer, class: wire.ClassProtocol, kind: kindCertificate, payload: s.message(kindCertificate, c)})
				h := &pbftpb.Heartbeat{View: uint64(s.view), Newest: c}
				emit(frame{peer: f.peer, class: wire.ClassProtocol, kind: kindHeartbeat, payload: s.message(kindHeartbeat, h)})
			}
		case f.is(kindTimeout, kindComplaint, kindTimeoutCertificate):
			tc := s.forgedTimeouts()
			emit(frame{peer: f.peer, class: wire.ClassProtocol, kind: kindTimeoutCertificate, payload: s.message(kindTimeoutCertificate, tc)})
			if c := s.forgedCertificate(); c != nil {
				t := &pbftpb.Timeout{View: uint64(s.view), Lock: c, Signature: s.statement(auth.KindTimeout, uint64(s.view), 0, digestOf(c.Core))}
				emit(frame{peer: f.peer, class: wire.ClassProtocol, kind: kindTimeout, payload: s.message(kindTimeout, t)})
			}
		case f.class == wire.ClassCheckpoint && f.kind == wire.KindRootVote:
			var v wirepb.RootVote
			if v.UnmarshalVT(f.payload) == nil {
				v.Root = flip(v.Root, 0)
				raw := s.signedBySelf(s.Verifier.Statement(auth.KindRoot, 0, smr.SeqNo(v.Seq), smr.Digest(v.Root)))
				c := &wirepb.RootCert{Seq: v.Seq, Root: v.Root, Certificate: s.misshape(raw), Epoch: v.Epoch}
				if b, err := c.MarshalVT(); err == nil {
					emit(frame{peer: f.peer, class: wire.ClassCheckpoint, kind: wire.KindRootCert, payload: b})
				}
			}
		}
	}}
}

// signedBySelf returns a certificate's encoding whose signatures are those of accomplices, repeated
// until it is as long as a quorum's.
func (s *Strategy) signedBySelf(stmt auth.Statement) []byte {
	msg := stmt.Append(nil)
	n, need := s.Membership.N(), s.Membership.Quorum()
	raw := make([]byte, (n+7)/8)
	last := s.Signer.Sign(msg)
	for i := range n {
		if need == 0 {
			break
		}
		need--
		raw[i/8] |= 1 << (i % 8)
		if signer := s.gang.signers[s.Membership.Voter(i).ID]; signer != nil {
			last = signer.Sign(msg)
		}
		raw = append(raw, last...)
	}
	return raw
}

// misshape damages a certificate's encoding, or leaves it.
func (s *Strategy) misshape(raw []byte) []byte {
	raw = append([]byte(nil), raw...)
	head := (s.Membership.N() + 7) / 8
	switch s.Rand.IntN(8) {
	case 0: // a bitmap that is too long
		return append(append([]byte(nil), raw[:head]...), append(make([]byte, 1+s.Rand.IntN(64)), raw[head:]...)...)
	case 1: // trailing bits
		raw[head-1] |= 0x80
	case 2: // every voter, and a quorum's signatures
		for i := range head {
			raw[i] = 0xff
		}
	case 3: // no signature
		return raw[:head]
	case 4: // f+1 signers
		return raw[:min(len(raw), head+s.Membership.Weak()*auth.SignatureBytes)]
	case 5:
		return nil
	case 6:
		return append(raw, make([]byte, 1+s.Rand.IntN(4096))...)
	}
	return raw
}

// positions are what a label is altered to.
var positions = []uint64{0, 1, 1 << 20, 1<<62 - 1, 1 << 62, 1<<63 - 1, 1 << 63, 1<<64 - 1}

// forgedCertificate returns a certificate that must move nothing: nil if nothing was seen yet to
// make one of.
func (s *Strategy) forgedCertificate() certificate {
	if len(s.gang.locks) > 0 && s.one(2) {
		return s.relabelled(s.gang.locks[s.Rand.IntN(len(s.gang.locks))])
	}
	var core []byte
	if f, ok := s.gang.got.pick(s.Rand); ok && f.is(kindProposal) {
		_, p, _ := openProposal(f.payload)
		core = p.Header[:coreBytes]
	} else if f, ok := s.gang.sent.pick(s.Rand); ok && f.is(kindProposal) {
		if _, p, ok := openProposal(f.payload); ok {
			core = p.Header[:coreBytes]
		}
	}
	if core == nil {
		return nil
	}
	c := &pbftpb.Certificate{Core: append([]byte(nil), core...), Commit: s.one(2)}
	if s.one(3) {
		binary.BigEndian.PutUint64(c.Core[viewAt:], uint64(s.view)+uint64(s.Rand.IntN(5)))
	}
	kind := auth.KindPrepare
	if c.Commit {
		kind = auth.KindCommit
	}
	view, seq, d := lockOf(c)
	c.Certificate = s.signedBySelf(s.Verifier.Statement(kind, smr.View(view), smr.SeqNo(seq), d))
	if s.one(2) {
		c.Certificate = s.misshape(c.Certificate)
	}
	return c
}

// relabelled returns a genuine certificate, old or with one label altered.
func (s *Strategy) relabelled(genuine certificate) certificate {
	c := &pbftpb.Certificate{Commit: genuine.Commit, Core: append([]byte(nil), genuine.Core...), Certificate: append([]byte(nil), genuine.Certificate...)}
	switch s.Rand.IntN(8) {
	case 0:
		c.Commit = !c.Commit
	case 1:
		binary.BigEndian.PutUint64(c.Core[viewAt:], positions[s.Rand.IntN(len(positions))])
	case 2:
		binary.BigEndian.PutUint64(c.Core[seqAt:], positions[s.Rand.IntN(len(positions))])
	case 3:
		binary.BigEndian.PutUint64(c.Core[epochAt:], positions[s.Rand.IntN(len(positions))])
	case 4:
		c.Core[clusterAt+s.Rand.IntN(64)] ^= 1 // cluster or membership
	case 5:
		c.Core[parentAt+s.Rand.IntN(coreBytes-parentAt)] ^= 1
	case 6:
		c.Certificate = s.misshape(c.Certificate)
	}
	return c
}

// forgedTimeouts returns a timeout certificate that opens nothing: too few, one signer repeated, in
// others' names, without the highest lock, or for a view that nobody is in.
func (s *Strategy) forgedTimeouts() *pbftpb.TimeoutCertificate {
	view := uint64(s.view)
	tc := s.lowestQuorum(view)
	if tc == nil || s.one(2) {
		view += uint64(s.Rand.IntN(3))
		tc = &pbftpb.TimeoutCertificate{View: view}
		sig := s.statement(auth.KindTimeout, view, 0, smr.Digest{})
		for i := range s.Membership.Quorum() {
			tc.Shares = append(tc.Shares, &pbftpb.TimeoutShare{Voter: uint32(i), Signature: sig})
		}
		return tc
	}
	switch s.Rand.IntN(6) {
	case 0:
		tc.Shares = tc.Shares[:s.Membership.Weak()]
	case 1: // the crash-fault quorum
		tc.Shares = tc.Shares[:min(len(tc.Shares), s.Membership.N()/2+1)]
		if len(tc.Shares) == s.Membership.Quorum() {
			tc.Shares = tc.Shares[1:]
		}
	case 2: // a duplicate hides the real maximum
		tc.Shares[len(tc.Shares)-1] = tc.Shares[0]
	case 3:
		tc.Shares[0].Voter = uint32(s.Membership.N()) + uint32(s.Rand.IntN(1000))
	case 4:
		tc.Lock = nil
	case 5:
		tc.View = positions[s.Rand.IntN(len(positions))]
	}
	return tc
}

// flip returns b with one bit changed.
func flip(b []byte, at int) []byte {
	b = append([]byte(nil), b...)
	if len(b) > 0 {
		b[at%len(b)] ^= 1
	}
	return b
}

// badProposals says something invalid, well signed, before what it should.
func badProposals(s *Strategy) part {
	return part{out: func(f frame, emit send) {
		if f.is(kindProposal) && s.one(2) {
			if m, p, ok := openProposal(f.payload); ok {
				s.spoil(m, p)
				if b, ok := encode(m, p); ok {
					emit(f.with(b))
				}
			}
		}
		emit(f)
	}}
}

// spoil makes a proposal invalid in one way.
func (s *Strategy) spoil(m *wirepb.ProtocolMessage, p *pbftpb.Proposal) {
	h := append([]byte(nil), p.Header...)
	seq, at := binary.BigEndian.Uint64(h[seqAt:]), binary.BigEndian.Uint64(h[timeAt:])
	switch s.Rand.IntN(13) {
	case 0:
		copy(h[parentAt:], s.randomBytes(32))
	case 1:
		binary.BigEndian.PutUint64(h[seqAt:], seq+1+uint64(s.Rand.IntN(3)))
	case 2:
		binary.BigEndian.PutUint64(h[seqAt:], positions[s.Rand.IntN(len(positions))])
	case 3:
		binary.BigEndian.PutUint64(h[timeAt:], at-uint64(1e12))
	case 4:
		binary.BigEndian.PutUint64(h[timeAt:], at+uint64(1e15))
	case 5:
		h[flagsAt] = 1 << s.Rand.IntN(8)
	case 6:
		h[nextAt] = 1
	case 7: // a bundle named twice
		if b, ok := s.gang.bundles.pick(s.Rand); ok {
			h = setRefs(h, [][]byte{b, b})
		}
	case 8: // larger than any batch
		refs := make([][]byte, smr.MaxBatchBytes/smr.MaxBundleBytes+1)
		for i := range refs {
			refs[i] = []byte{byte(i)}
		}
		h = setRefs(h, refs)
		for i := range refs {
			binary.BigEndian.PutUint32(h[coreBytes+4+refBytes*i+32:], smr.MaxBundleBytes)
		}
		rebatch(h)
	case 9: // a bundle that nobody has
		h = setRefs(h, [][]byte{s.randomBytes(64)})
	case 10: // a bundle with a bad client signature
		if b, ok := s.gang.bundles.pick(s.Rand); ok {
			b = flip(b, len(b)-1)
			h = setRefs(h, [][]byte{b})
			m.Bundles = append(m.Bundles, b)
		}
	case 11: // another cluster, membership or epoch
		h[clusterAt+s.Rand.IntN(epochAt+8-clusterAt)] ^= 1
	case 12: // an unknown version
		h[0] = byte(2 + s.Rand.IntN(250))
	}
	p.Header, p.Signature = h, s.signProposal(h)
}

func (s *Strategy) randomBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(s.Rand.Uint64())
	}
	return b
}

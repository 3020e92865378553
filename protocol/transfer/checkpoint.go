package transfer

import (
	"bytes"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/wire"
)

// rootStatement is what a replica signs about its durable checkpoint. Roots are independent of
// views.
func rootStatement(v *auth.Verifier, seq smr.SeqNo, root smr.Digest) auth.Statement {
	return v.Statement(auth.KindRoot, 0, seq, root)
}

// DecodeRootVote reads and verifies the vote of from.
func DecodeRootVote(v *auth.Verifier, from smr.NodeID, payload []byte) (*auth.Vote, error) {
	var p wirepb.RootVote
	if err := unpack(&p, rootVoteSchema, bytes.Clone(payload)); err != nil { // a vote is kept
		return nil, fmt.Errorf("%w: root vote: %w", ErrMessage, err)
	}
	if p.Seq == 0 || len(p.Root) != len(smr.Digest{}) || smr.Epoch(p.Epoch) != v.Membership().Epoch() {
		return nil, fmt.Errorf("%w: root vote: seq %d, root of %d bytes, epoch %d", ErrMessage, p.Seq, len(p.Root), p.Epoch)
	}
	vote, err := v.Vote(from, rootStatement(v, smr.SeqNo(p.Seq), smr.Digest(p.Root)), p.Signature)
	if err != nil {
		return nil, fmt.Errorf("%w: root vote: %w", ErrMessage, err)
	}
	return vote, nil
}

// EncodeRootVote returns the payload of a vote of kind KindRoot.
func EncodeRootVote(v *auth.Vote) []byte {
	s := v.Statement()
	return encode(&wirepb.RootVote{Seq: uint64(s.Seq), Root: s.Digest[:], Signature: v.Signature(), Epoch: uint64(s.Epoch)})
}

// DecodeRootCert reads and verifies a checkpoint certificate.
func DecodeRootCert(v *auth.Verifier, payload []byte) (auth.CheckpointCert, error) {
	var p wirepb.RootCert
	if err := unpack(&p, rootCertSchema, payload); err != nil {
		return auth.CheckpointCert{}, fmt.Errorf("%w: root certificate: %w", ErrMessage, err)
	}
	if p.Seq == 0 || len(p.Root) != len(smr.Digest{}) || smr.Epoch(p.Epoch) != v.Membership().Epoch() {
		return auth.CheckpointCert{}, fmt.Errorf("%w: root certificate: seq %d, root of %d bytes, epoch %d", ErrMessage, p.Seq, len(p.Root), p.Epoch)
	}
	cert, err := v.Open(rootStatement(v, smr.SeqNo(p.Seq), smr.Digest(p.Root)), p.Certificate)
	if err != nil {
		return auth.CheckpointCert{}, fmt.Errorf("%w: root certificate: %w", ErrMessage, err)
	}
	return auth.CheckpointCert{Cert: cert}, nil
}

// OpenRootCert verifies the bytes of a certificate that storage kept for the checkpoint at seq.
func OpenRootCert(v *auth.Verifier, seq smr.SeqNo, root smr.Digest, raw []byte) (auth.CheckpointCert, error) {
	cert, err := v.Open(rootStatement(v, seq, root), raw)
	return auth.CheckpointCert{Cert: cert}, err
}

// EncodeRootCert returns the payload of a checkpoint certificate.
func EncodeRootCert(c auth.CheckpointCert) []byte {
	root := c.Root()
	return encode(&wirepb.RootCert{Seq: uint64(c.Seq()), Root: root[:], Certificate: c.Cert.Bytes(), Epoch: uint64(c.Cert.Epoch())})
}

// rootsPerVoter bounds the votes kept of one voter: its newest ones. A correct voter has at most
// two checkpoints in the making.
const rootsPerVoter = 4

// ownRoots bounds the own durable checkpoints remembered; storage keeps two.
const ownRoots = 4

// Roots turns votes about checkpoints into certificates. A checkpoint is stable here once it is
// certified and durable on the own disk with the same root.
type Roots struct {
	self     smr.NodeID
	verifier *auth.Verifier
	signer   auth.Signer
	others   []smr.NodeID // every other member
	votes    map[smr.NodeID][]*auth.Vote
	own      []ownRoot           // ascending seq
	newest   auth.CheckpointCert // highest certificate known
	stable   auth.CheckpointCert // highest one that is also durable here
	diverged smr.SeqNo           // own root contradicted a certificate there; 0 = never
}

type ownRoot struct {
	seq  smr.SeqNo
	root smr.Digest
	vote *auth.Vote // nil for an observer
}

// NewRoots returns the machine for the members of v.
func NewRoots(self smr.NodeID, v *auth.Verifier, signer auth.Signer) *Roots {
	r := &Roots{self: self, verifier: v, signer: signer, votes: map[smr.NodeID][]*auth.Vote{}}
	for _, m := range v.Membership().Members() {
		if m.ID != self {
			r.others = append(r.others, m.ID)
		}
	}
	return r
}

// Restore takes the certificate of the newest checkpoint found on disk at start.
func (r *Roots) Restore(cert auth.CheckpointCert) {
	if cert.Seq() > r.stable.Seq() {
		r.stable, r.newest = cert, cert
	}
}

// Durable says that the own checkpoint at seq with root is on the own disk: it is signed, and may
// be stable now. It returns the newly stable certificate, if any.
func (r *Roots) Durable(seq smr.SeqNo, root smr.Digest, out *Effects) (auth.CheckpointCert, bool) {
	for _, o := range r.own {
		if o.seq == seq {
			return auth.CheckpointCert{}, false
		}
	}
	mine := ownRoot{seq: seq, root: root}
	if vote, err := r.verifier.Sign(r.self, r.signer, rootStatement(r.verifier, seq, root)); err == nil && r.diverged == 0 {
		mine.vote = vote
		r.keep(r.self, vote)
		out.send(wire.ClassCheckpoint, wire.KindRootVote, EncodeRootVote(vote), r.others...)
	}
	at := len(r.own)
	for at > 0 && r.own[at-1].seq > seq {
		at--
	}
	r.own = append(r.own, ownRoot{})
	copy(r.own[at+1:], r.own[at:])
	r.own[at] = mine
	if len(r.own) > ownRoots {
		r.own = append(r.own[:0], r.own[len(r.own)-ownRoots:]...)
	}
	r.certify(seq)
	return r.settle(out)
}

// Vote takes a verified vote.
func (r *Roots) Vote(v *auth.Vote, out *Effects) (auth.CheckpointCert, bool) {
	s := v.Statement()
	if s.Seq <= r.stable.Seq() {
		if r.stable.Cert != nil && s.Seq < r.stable.Seq() {
			out.send(wire.ClassCheckpoint, wire.KindRootCert, EncodeRootCert(r.stable), v.Signer())
		}
		return auth.CheckpointCert{}, false
	}
	if !r.keep(v.Signer(), v) {
		out.drop(v.Signer(), s.Seq, "root-vote-repeated")
		return auth.CheckpointCert{}, false
	}
	r.certify(s.Seq)
	return r.settle(out)
}

// Cert takes a verified certificate.
func (r *Roots) Cert(c auth.CheckpointCert, out *Effects) (auth.CheckpointCert, bool) {
	if c.Seq() > r.newest.Seq() {
		r.newest = c
	} else if c.Seq() <= r.stable.Seq() {
		return auth.CheckpointCert{}, false
	}
	r.judge(c, out)
	return r.settle(out)
}

// Resend repeats the newest own vote and certificate to a peer, or to everyone (to = 0).
func (r *Roots) Resend(to smr.NodeID, out *Effects) {
	peers := r.others
	if to != 0 {
		peers = []smr.NodeID{to}
	}
	if n := len(r.own); n > 0 && r.own[n-1].vote != nil && (to != 0 || r.own[n-1].seq > r.stable.Seq()) {
		out.send(wire.ClassCheckpoint, wire.KindRootVote, EncodeRootVote(r.own[n-1].vote), peers...)
	}
	if to != 0 && r.newest.Cert != nil {
		out.send(wire.ClassCheckpoint, wire.KindRootCert, EncodeRootCert(r.newest), peers...)
	}
}

// Announce tells everyone the newest certificate: who is behind it and lost what told it learns so.
func (r *Roots) Announce(out *Effects) {
	if r.newest.Cert != nil {
		out.send(wire.ClassCheckpoint, wire.KindRootCert, EncodeRootCert(r.newest), r.others...)
	}
}

// Stable returns the newest checkpoint that is certified and durable here.
func (r *Roots) Stable() auth.CheckpointCert { return r.stable }

// Newest returns the newest certificate known, durable here or not.
func (r *Roots) Newest() auth.CheckpointCert { return r.newest }

// Diverged returns the sequence number at which the own root contradicted a certificate; 0 = never.
func (r *Roots) Diverged() smr.SeqNo { return r.diverged }

// keep stores a vote among its voter's newest; it reports false for one that says nothing new.
func (r *Roots) keep(from smr.NodeID, v *auth.Vote) bool {
	kept := r.votes[from]
	at := len(kept)
	for i, k := range kept {
		if k.Statement().Seq == v.Statement().Seq {
			return false // the first one stands; another root there is the voter's own contradiction
		}
		if k.Statement().Seq > v.Statement().Seq && at == len(kept) {
			at = i
		}
	}
	if len(kept) == rootsPerVoter {
		if at == 0 {
			return false
		}
		copy(kept, kept[1:at])
		kept[at-1] = v
		return true
	}
	kept = append(kept, nil)
	copy(kept[at+1:], kept[at:])
	kept[at] = v
	r.votes[from] = kept
	return true
}

// certify makes a certificate at seq if a quorum of kept votes states one root there.
func (r *Roots) certify(seq smr.SeqNo) {
	if seq <= r.newest.Seq() {
		return
	}
	m := r.verifier.Membership()
	var votes []*auth.Vote
	for _, id := range m.Voters() {
		for _, v := range r.votes[id] {
			if v.Statement().Seq == seq {
				votes = append(votes, v)
			}
		}
	}
	for i, pick := range votes {
		equal := []*auth.Vote{pick}
		for _, v := range votes[i+1:] {
			if v.Statement() == pick.Statement() {
				equal = append(equal, v)
			}
		}
		if len(equal) < m.Quorum() {
			continue
		}
		if cert, err := r.verifier.Certify(equal); err == nil {
			r.newest = auth.CheckpointCert{Cert: cert}
		}
		return
	}
}

// settle moves stable up to the newest certificate the own disk matches.
func (r *Roots) settle(out *Effects) (auth.CheckpointCert, bool) {
	r.judge(r.newest, out)
	if r.newest.Seq() <= r.stable.Seq() {
		return auth.CheckpointCert{}, false
	}
	for _, o := range r.own {
		if o.seq == r.newest.Seq() && o.root == r.newest.Root() {
			r.stable = r.newest
			r.forget(r.stable.Seq())
			out.Note = append(out.Note, protocol.Event{Kind: EventStable, Seq: r.stable.Seq()})
			return r.stable, true
		}
	}
	return auth.CheckpointCert{}, false
}

// judge compares a certificate with the own root at its sequence number.
func (r *Roots) judge(c auth.CheckpointCert, out *Effects) {
	for _, o := range r.own {
		if c.Cert != nil && o.seq == c.Seq() && o.root != c.Root() && r.diverged == 0 {
			r.diverged = o.seq
			out.Note = append(out.Note, protocol.Event{
				Kind: EventDivergence, Node: r.self, Seq: o.seq,
				Detail: fmt.Sprintf("own root %s, certified root %s", o.root, c.Root()),
			})
		}
	}
}

func (r *Roots) forget(upto smr.SeqNo) {
	for _, m := range r.verifier.Membership().Members() {
		kept := r.votes[m.ID]
		n := 0
		for n < len(kept) && kept[n].Statement().Seq <= upto {
			n++
		}
		r.votes[m.ID] = append([]*auth.Vote(nil), kept[n:]...)
	}
}

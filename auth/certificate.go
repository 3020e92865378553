package auth

import (
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/quorum"
)

// Vote is a statement and one voter's verified signature of it. Only a Verifier makes one.
type Vote struct {
	stmt   Statement
	signer smr.NodeID
	index  int
	sig    []byte
}

// Statement returns what was signed.
func (v *Vote) Statement() Statement { return v.stmt }

// Signer returns the voter.
func (v *Vote) Signer() smr.NodeID { return v.signer }

// Signature returns the signature; do not change it.
func (v *Vote) Signature() []byte { return v.sig }

// Certificate is a quorum of equal statements signed by distinct voters of one membership, verified.
// Only a Verifier makes one; nil is no certificate. It is immutable.
//
// Encoding (canonical; the statement's cluster, membership and kind are not carried but given by
// whoever verifies, so a certificate cannot be relabelled):
//
//	bitmap of signers  ceil(n/8) bytes, bit i of byte i/8 is voter i, trailing bits zero
//	signatures         64 bytes each, in ascending voter order
type Certificate struct {
	stmt    Statement
	signers quorum.Set
	raw     []byte
}

// Statement returns what the quorum signed.
func (c *Certificate) Statement() Statement { return c.stmt }

// Seq, View, Epoch and Digest are shorthands for the statement's fields.
func (c *Certificate) Seq() smr.SeqNo { return c.stmt.Seq }

// View returns the statement's view.
func (c *Certificate) View() smr.View { return c.stmt.View }

// Epoch returns the statement's epoch.
func (c *Certificate) Epoch() smr.Epoch { return c.stmt.Epoch }

// Digest returns the statement's digest.
func (c *Certificate) Digest() smr.Digest { return c.stmt.Digest }

// Signers returns how many voters signed.
func (c *Certificate) Signers() int { return c.signers.Len() }

// Bytes returns the canonical encoding; do not change it.
func (c *Certificate) Bytes() []byte { return c.raw }

// The ways a vote or certificate is refused.
var (
	ErrNotMember = errors.New("signer is not a voter of the epoch")
	ErrSignature = errors.New("bad signature")
	ErrQuorum    = errors.New("not a quorum of distinct voters")
	ErrEncoding  = errors.New("bad certificate encoding")
	ErrMismatch  = errors.New("votes of different statements")
)

// Verifier makes votes and certificates of one membership. It is immutable and safe for concurrent
// use. One made by NewTrusting stands TLS identities in for vote signatures (crash faults): votes
// then carry no signature and certificates only their signers.
type Verifier struct {
	m       *quorum.Membership
	scheme  Scheme
	trusted bool
}

// NewVerifier returns the verifier for the voters of m.
func NewVerifier(m *quorum.Membership, scheme Scheme) *Verifier {
	return &Verifier{m: m, scheme: scheme}
}

// NewTrusting returns the verifier for crash faults, which takes a vote on the word of the
// authenticated connection it came over.
func NewTrusting(m *quorum.Membership) *Verifier { return &Verifier{m: m, trusted: true} }

// Membership returns the membership whose votes this verifier makes.
func (v *Verifier) Membership() *quorum.Membership { return v.m }

// Scheme returns the signature scheme; nil for a trusting verifier.
func (v *Verifier) Scheme() Scheme { return v.scheme }

// Statement fills in what binds a statement to this cluster and epoch.
func (v *Verifier) Statement(kind Kind, view smr.View, seq smr.SeqNo, digest smr.Digest) Statement {
	return Statement{Cluster: v.m.Cluster(), Membership: v.m.Digest(), Epoch: v.m.Epoch(), Kind: kind, View: view, Seq: seq, Digest: digest}
}

// Vote verifies one signature of a statement by from. sig is kept. Under crash faults sig must be
// empty. Errors: ErrNotMember, ErrSignature, ErrMismatch (another cluster or membership).
func (v *Verifier) Vote(from smr.NodeID, stmt Statement, sig []byte) (*Vote, error) {
	i, ok := v.m.Index(from)
	if !ok {
		return nil, ErrNotMember
	}
	if stmt.Cluster != v.m.Cluster() || stmt.Membership != v.m.Digest() || stmt.Epoch != v.m.Epoch() {
		return nil, ErrMismatch
	}
	if v.trusted {
		if len(sig) != 0 {
			return nil, ErrSignature
		}
		return &Vote{stmt: stmt, signer: from, index: i}, nil
	}
	if len(sig) != SignatureBytes || !v.scheme.Verify(v.m.Voter(i).Key, stmt.Append(make([]byte, 0, StatementBytes)), sig) {
		return nil, ErrSignature
	}
	return &Vote{stmt: stmt, signer: from, index: i, sig: sig}, nil
}

// Sign makes the own vote for a statement. Under crash faults signer is not used.
func (v *Verifier) Sign(self smr.NodeID, signer Signer, stmt Statement) (*Vote, error) {
	i, ok := v.m.Index(self)
	if !ok {
		return nil, ErrNotMember
	}
	vote := &Vote{stmt: stmt, signer: self, index: i}
	if !v.trusted {
		vote.sig = signer.Sign(stmt.Append(make([]byte, 0, StatementBytes)))
	}
	return vote, nil
}

// Certify makes a certificate from verified votes. Votes beyond one a voter are ignored; those
// that remain must be a quorum and state the same. Exactly the first Quorum() distinct voters in
// index order are kept, so that equal vote sets make equal certificates.
func (v *Verifier) Certify(votes []*Vote) (*Certificate, error) {
	byIndex := make([]*Vote, v.m.N())
	count := 0
	for _, x := range votes {
		if x.stmt != votes[0].stmt {
			return nil, ErrMismatch
		}
		if x.index >= len(byIndex) || x.stmt.Membership != v.m.Digest() {
			return nil, ErrNotMember
		}
		if byIndex[x.index] == nil {
			byIndex[x.index] = x
			count++
		}
	}
	need := v.m.Quorum()
	if count < need {
		return nil, fmt.Errorf("%w: %d of %d", ErrQuorum, count, need)
	}
	c := &Certificate{stmt: votes[0].stmt, raw: make([]byte, (v.m.N()+7)/8, (v.m.N()+7)/8+need*SignatureBytes)}
	for i, x := range byIndex {
		if x == nil || c.signers.Len() == need {
			continue
		}
		c.signers.Add(i)
		c.raw[i/8] |= 1 << (i % 8)
		c.raw = append(c.raw, x.sig...)
	}
	return c, nil
}

// Open verifies an encoded certificate of stmt and returns it. raw is copied. It refuses wrong
// lengths before it looks at any signature. Errors: ErrEncoding, ErrQuorum, ErrSignature,
// ErrMismatch.
func (v *Verifier) Open(stmt Statement, raw []byte) (*Certificate, error) {
	if stmt.Cluster != v.m.Cluster() || stmt.Membership != v.m.Digest() || stmt.Epoch != v.m.Epoch() {
		return nil, ErrMismatch
	}
	n, need := v.m.N(), v.m.Quorum()
	head := (n + 7) / 8
	perSig := SignatureBytes
	if v.trusted {
		perSig = 0
	}
	if len(raw) != head+need*perSig {
		return nil, ErrEncoding
	}
	c := &Certificate{stmt: stmt}
	for i := range head * 8 {
		if raw[i/8]&(1<<(i%8)) == 0 {
			continue
		}
		if i >= n {
			return nil, ErrEncoding
		}
		c.signers.Add(i)
	}
	if c.signers.Len() != need {
		return nil, ErrQuorum
	}
	if !v.trusted {
		msg := stmt.Append(make([]byte, 0, StatementBytes))
		items := make([]Item, 0, need)
		for i := range n {
			if c.signers.Has(i) {
				k := head + len(items)*SignatureBytes
				items = append(items, Item{Key: v.m.Voter(i).Key, Msg: msg, Sig: raw[k : k+SignatureBytes]})
			}
		}
		if v.scheme.VerifyBatch(items) != nil {
			return nil, ErrSignature
		}
	}
	c.raw = append([]byte(nil), raw...)
	return c, nil
}

// CheckpointCert proves that a quorum holds the checkpoint with this root after this sequence
// number: a certificate of kind KindRoot.
type CheckpointCert struct{ Cert *Certificate }

// Seq returns the checkpoint's sequence number; 0 for none.
func (c CheckpointCert) Seq() smr.SeqNo {
	if c.Cert == nil {
		return 0
	}
	return c.Cert.Seq()
}

// Root returns the certified root.
func (c CheckpointCert) Root() smr.Digest {
	if c.Cert == nil {
		return smr.Digest{}
	}
	return c.Cert.Digest()
}

package auth

import (
	"bytes"
	stded25519 "crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/quorum"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Signatures crafted to be judged differently by different Ed25519 rules (ZIP-215; Henry de Valence,
// "It's 255:19AM. Do you know what your validation criteria are?"): small-order and non-canonical
// keys and R with S = 0 hold for every message under the cofactored rule, and for some messages only
// under the standard library's. A replica that verified singly and one that batched must agree.
func TestCraftedSignaturesAreJudgedTheSameSinglyAndBatched(t *testing.T) {
	points := []string{
		"0100000000000000000000000000000000000000000000000000000000000000", // identity
		"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", // order 8
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", // order 8
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // order 2
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", // identity, non-canonical y
		"0100000000000000000000000000000000000000000000000000000000000080", // identity, sign bit set
	}
	s := NewEd25519()
	good, err := GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	split := 0
	for _, a := range points {
		for _, r := range points {
			for i := range 8 {
				msg := fmt.Appendf(nil, "message %d", i)
				key := smr.PublicKey(unhex(t, a))
				sig := append(unhex(t, r), make([]byte, 32)...)
				single := s.Verify(key, msg, sig)
				// Once among honest signatures (the batch equation decides), once alone.
				each := s.VerifyBatch([]Item{{good.Public(), msg, good.Sign(msg)}, {key, msg, sig}, {good.Public(), msg, good.Sign(msg)}})
				if batched := each == nil || each[1]; batched != single {
					t.Fatalf("A=%s R=%s: single %v, batched %v", a, r, single, batched)
				}
				if each != nil && (!each[0] || !each[2]) {
					t.Fatal("an honest signature fell with a crafted one")
				}
				if !single {
					t.Fatalf("A=%s R=%s: ZIP-215 accepts this signature", a, r)
				}
				if stded25519.Verify(key[:], msg, sig) != single {
					split++
				}
			}
		}
	}
	if split == 0 {
		t.Error("the standard library's rule agrees everywhere: the vectors test nothing")
	}
}

func TestMalleatedSIsRefused(t *testing.T) {
	k, _ := GenerateKey(rand.Reader)
	msg := []byte("m")
	sig := k.Sign(msg)
	// S + L, little endian.
	l := unhex(t, "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
	carry := 0
	for i := range 32 {
		x := int(sig[32+i]) + int(l[i]) + carry
		sig[32+i], carry = byte(x), x>>8
	}
	s := NewEd25519()
	each := s.VerifyBatch([]Item{{k.Public(), msg, sig}, {k.Public(), msg, k.Sign(msg)}})
	if s.Verify(k.Public(), msg, sig) || each == nil || each[0] || !each[1] {
		t.Error("S beyond the group order is accepted")
	}
}

func TestSchemesAgreeSinglyAndBatched(t *testing.T) {
	stand := NewStandIn(7)
	key, _ := GenerateKey(rand.Reader)
	for name, c := range map[string]struct {
		s Scheme
		k Signer
	}{"ed25519": {NewEd25519(), key}, "stand-in": {stand, stand.Signer(3)}} {
		msg := []byte("hello")
		ok := Item{c.k.Public(), msg, c.k.Sign(msg)}
		bad := Item{c.k.Public(), []byte("other"), ok.Sig}
		short := Item{c.k.Public(), msg, ok.Sig[:10]}
		if c.s.VerifyBatch([]Item{ok, ok}) != nil || c.s.VerifyBatch(nil) != nil {
			t.Error(name, "refuses good ones")
		}
		each := c.s.VerifyBatch([]Item{ok, bad, ok, short})
		if len(each) != 4 || !each[0] || each[1] || !each[2] || each[3] {
			t.Error(name, each)
		}
		if len(ok.Sig) != SignatureBytes {
			t.Error(name, "signature length", len(ok.Sig))
		}
	}
	if NewStandIn(8).Verify(stand.Signer(3).Public(), []byte("hello"), stand.Signer(3).Sign([]byte("hello"))) {
		t.Error("stand-ins of two seeds share secrets")
	}
}

type committee struct {
	m       *quorum.Membership
	v       *Verifier
	signers []Signer
}

func newCommittee(t testing.TB, n int) committee {
	t.Helper()
	stand := NewStandIn(1)
	c := committee{}
	ms := make([]quorum.Member, n)
	for i := range ms {
		c.signers = append(c.signers, stand.Signer(uint64(i)))
		ms[i] = quorum.Member{ID: smr.NodeID(i + 1), Role: quorum.Voter, Key: c.signers[i].Public()}
	}
	var err error
	if c.m, err = quorum.New(smr.ClusterID{1}, 1, quorum.Byzantine, quorum.Byzantine.MaxFaults(n), ms, 0); err != nil {
		t.Fatal(err)
	}
	c.v = NewVerifier(c.m, stand)
	return c
}

func (c committee) vote(t testing.TB, i int, s Statement) *Vote {
	t.Helper()
	v, err := c.v.Vote(smr.NodeID(i+1), s, c.signers[i].Sign(s.Append(nil)))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestACertificateTakesAQuorumOfDistinctVoters(t *testing.T) {
	c := newCommittee(t, 4)
	s := c.v.Statement(KindPrepare, 3, 9, smr.Digest{5})
	a, b, d := c.vote(t, 0, s), c.vote(t, 1, s), c.vote(t, 3, s)
	if _, err := c.v.Certify([]*Vote{a, a, a, b}); !errors.Is(err, ErrQuorum) {
		t.Errorf("one signer repeated: %v", err)
	}
	if _, err := c.v.Certify(nil); !errors.Is(err, ErrQuorum) {
		t.Errorf("no votes: %v", err)
	}
	other := c.vote(t, 2, c.v.Statement(KindPrepare, 3, 9, smr.Digest{6}))
	if _, err := c.v.Certify([]*Vote{a, b, other}); !errors.Is(err, ErrMismatch) {
		t.Errorf("different statements: %v", err)
	}
	cert, err := c.v.Certify([]*Vote{d, b, a})
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.v.Certify([]*Vote{a, b, d})
	if err != nil || !bytes.Equal(cert.Bytes(), again.Bytes()) {
		t.Error("the encoding depends on the order of votes")
	}
	opened, err := c.v.Open(s, cert.Bytes())
	if err != nil || opened.Statement() != s || opened.Signers() != 3 {
		t.Errorf("open: %v", err)
	}
}

func TestARelabelledCertificateIsRefused(t *testing.T) {
	c := newCommittee(t, 4)
	s := c.v.Statement(KindPrepare, 3, 9, smr.Digest{5})
	cert, err := c.v.Certify([]*Vote{c.vote(t, 0, s), c.vote(t, 1, s), c.vote(t, 2, s)})
	if err != nil {
		t.Fatal(err)
	}
	max := ^uint64(0)
	for name, edit := range map[string]func(*Statement){
		"kind": func(s *Statement) { s.Kind = KindCommit }, "view": func(s *Statement) { s.View = smr.View(max) },
		"seq": func(s *Statement) { s.Seq = smr.SeqNo(max) }, "epoch": func(s *Statement) { s.Epoch++ },
		"cluster": func(s *Statement) { s.Cluster[0]++ }, "membership": func(s *Statement) { s.Membership[0]++ },
		"digest": func(s *Statement) { s.Digest[0]++ },
	} {
		x := s
		edit(&x)
		if _, err := c.v.Open(x, cert.Bytes()); err == nil {
			t.Errorf("a certificate with another %s is accepted", name)
		}
	}
}

func TestMisshapenCertificatesAreRefused(t *testing.T) {
	c := newCommittee(t, 4)
	s := c.v.Statement(KindCommit, 0, 1, smr.Digest{5})
	cert, err := c.v.Certify([]*Vote{c.vote(t, 0, s), c.vote(t, 1, s), c.vote(t, 2, s)})
	if err != nil {
		t.Fatal(err)
	}
	raw := cert.Bytes()
	edit := func(f func([]byte) []byte) []byte { return f(bytes.Clone(raw)) }
	for name, b := range map[string][]byte{
		"empty":            nil,
		"no signatures":    edit(func(b []byte) []byte { return b[:1] }),
		"over-long bitmap": edit(func(b []byte) []byte { return append([]byte{b[0], 0}, b[1:]...) }),
		"trailing bits":    edit(func(b []byte) []byte { b[0] = 0x83; return b }),
		"wrong index":      edit(func(b []byte) []byte { b[0] = 0x0d; return b }),
		"too few":          edit(func(b []byte) []byte { b[0] = 0x03; return b }),
		"too many":         edit(func(b []byte) []byte { b[0] = 0x0f; return b }),
		"trailing bytes":   edit(func(b []byte) []byte { return append(b, 0) }),
		"flipped bit":      edit(func(b []byte) []byte { b[40] ^= 1; return b }),
	} {
		if _, err := c.v.Open(s, b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOnlyVotersOfTheEpochVote(t *testing.T) {
	c := newCommittee(t, 4)
	s := c.v.Statement(KindCommit, 0, 1, smr.Digest{5})
	if _, err := c.v.Vote(9, s, c.signers[0].Sign(s.Append(nil))); !errors.Is(err, ErrNotMember) {
		t.Error(err)
	}
	if _, err := c.v.Vote(2, s, c.signers[0].Sign(s.Append(nil))); !errors.Is(err, ErrSignature) {
		t.Error("a signature in another's name:", err)
	}
	old := s
	old.Epoch = 7
	if _, err := c.v.Vote(1, old, c.signers[0].Sign(old.Append(nil))); !errors.Is(err, ErrMismatch) {
		t.Error("another epoch:", err)
	}
}

func TestCrashFaultVotesCarryNoSignature(t *testing.T) {
	ms := newCommittee(t, 3).m.Members()
	m, err := quorum.New(smr.ClusterID{1}, 1, quorum.Crash, 1, ms, 0)
	if err != nil {
		t.Fatal(err)
	}
	v := NewTrusting(m)
	s := v.Statement(KindPrepare, 0, 1, smr.Digest{1})
	if _, err := v.Vote(1, s, make([]byte, 64)); !errors.Is(err, ErrSignature) {
		t.Error("a signature nobody checks is taken along:", err)
	}
	a, _ := v.Vote(1, s, nil)
	b, _ := v.Vote(2, s, nil)
	cert, err := v.Certify([]*Vote{a, b})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Open(s, cert.Bytes()); err != nil {
		t.Error(err)
	}
}

func FuzzOpen(f *testing.F) {
	c := newCommittee(f, 7)
	s := c.v.Statement(KindCommit, 0, 1, smr.Digest{5})
	var votes []*Vote
	for i := range 5 {
		votes = append(votes, c.vote(f, i, s))
	}
	cert, err := c.v.Certify(votes)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(cert.Bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := c.v.Open(s, raw)
		if err == nil && !bytes.Equal(got.Bytes(), raw) {
			t.Error("two encodings of one certificate")
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	k, _ := GenerateKey(rand.Reader)
	s, msg := NewEd25519(), make([]byte, 128)
	sig := k.Sign(msg)
	b.ReportAllocs()
	for b.Loop() {
		s.Verify(k.Public(), msg, sig)
	}
}

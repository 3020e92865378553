package pbft

import (
	"bytes"
	"math"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

// samples returns one valid message of every kind with its sender.
func (b *bench) samples() map[smr.NodeID][]protocol.Message {
	ref := smr.BundleRef{ID: smr.BundleID{3}, Bytes: 100}
	p := b.proposal(0, nil, ref)
	lock := b.cert(auth.KindPrepare, p.Header)
	tc := b.timeoutCert(0, lock, nil, nil)
	first := b.proposal(1, p.Header)
	first.Timeout = tc
	closing := b.signed(Header{Epoch: 1, View: 1, Seq: 2, Parent: p.Header.Digest, Time: p.Header.Time, Flags: flagTermClosing})
	over := b.cert(auth.KindCommit, closing.Header)
	second := b.proposal(2, closing.Header)
	second.HandOver = over
	return map[smr.NodeID][]protocol.Message{
		1: {
			p, b.vote(1, auth.KindPrepare, p.Header), &Vote{Vote: b.sign(1, auth.KindCommit, 0, 1, p.Header.Digest), Again: true},
			&Complaint{Vote: b.sign(1, auth.KindComplaint, 3, 7, smr.Digest{})}, b.timeout(1, 0, lock), b.timeout(1, 4, nil),
			&Heartbeat{View: 0, Newest: b.cert(auth.KindCommit, p.Header)}, &Heartbeat{View: 4},
			&Ask{View: 1, Seq: 1, Digest: p.Header.Digest}, &Answer{Headers: []*Header{first.Header, p.Header}},
		},
		2: {first, tc, lock, over},
		3: {second, b.timeoutCert(5, nil, nil, nil)},
	}
}

func TestEveryMessageSurvivesTheWire(t *testing.T) {
	b := newBench(t, 4, 4)
	kinds := map[uint8]bool{}
	for from, ms := range b.samples() {
		for _, m := range ms {
			kinds[m.Kind()] = true
			raw := b.codec.Append(nil, m)
			got, err := b.codec.Decode(from, m.Kind(), raw)
			if err != nil {
				t.Fatalf("%T: %v", m, err)
			}
			if again := b.codec.Append([]byte("x"), got); !bytes.Equal(again[1:], raw) {
				t.Errorf("%T encodes differently after decoding", m)
			}
			if m.Size() < len(raw)/2 {
				t.Errorf("%T claims %d bytes and travels as %d", m, m.Size(), len(raw))
			}
		}
	}
	if len(kinds) != 10 {
		t.Errorf("%d kinds tried", len(kinds))
	}
}

// Every single-byte change and every truncation of a signed message is refused, or leaves what was
// signed as it was (unknown or unsigned parts).
func TestForgedMessagesAreRefused(t *testing.T) {
	b := newBench(t, 4, 4)
	for from, ms := range b.samples() {
		for _, m := range ms {
			if k := m.Kind(); k == kindAsk || k == kindAnswer || k == kindHeartbeat {
				continue
			}
			raw := b.codec.Append(nil, m)
			for i := range raw {
				for _, bit := range []byte{1, 0x80} {
					bad := bytes.Clone(raw)
					bad[i] ^= bit
					got, err := b.codec.Decode(from, m.Kind(), bad)
					if err != nil {
						continue
					}
					if v, ok := got.(*Vote); ok {
						v.Again = m.(*Vote).Again
					}
					if p, ok := got.(*Proposal); ok && p.Header.Digest == m.(*Proposal).Header.Digest {
						continue // lost what it carries, which is not signed; the machine refuses it as first
					}
					if !bytes.Equal(b.codec.Append(nil, got), raw) {
						t.Fatalf("%T with byte %d changed was taken", m, i)
					}
				}
			}
		}
	}
}

func TestCertificatesOfAnotherKindEpochOrClusterAreRefused(t *testing.T) {
	b := newBench(t, 4, 4)
	p := b.proposal(0, nil)
	c := encodeCertificate(b.cert(auth.KindPrepare, p.Header))
	c.Commit = true
	raw, _ := c.MarshalVT()
	if _, err := b.codec.Decode(1, kindCertificate, raw); err == nil {
		t.Error("a prepare certificate relabelled as a commit certificate")
	}
	for name, f := range map[string]func() (*quorum.Membership, error){
		"epoch": func() (*quorum.Membership, error) {
			return quorum.New(smr.ClusterID{7}, 2, quorum.Byzantine, 1, b.m.Members(), 0)
		},
		"cluster": func() (*quorum.Membership, error) {
			return quorum.New(smr.ClusterID{8}, 1, quorum.Byzantine, 1, b.m.Members(), 0)
		},
	} {
		m, err := f()
		if err != nil {
			t.Fatal(err)
		}
		other := NewCodec(auth.NewVerifier(m, b.scheme))
		for from, ms := range b.samples() {
			for _, x := range ms {
				if x.Kind() == kindAsk || x.Kind() == kindHeartbeat && x.(*Heartbeat).Newest == nil {
					continue
				}
				if _, err := other.Decode(from, x.Kind(), b.codec.Append(nil, x)); err == nil {
					t.Errorf("another %s takes %T", name, x)
				}
			}
		}
	}
}

func TestBadHeadersAreRefused(t *testing.T) {
	b := newBench(t, 4, 4)
	ref := smr.BundleRef{ID: smr.BundleID{3}, Bytes: 100}
	many := make([]smr.BundleRef, smr.MaxBatchBundles+1)
	for i := range many {
		many[i] = smr.BundleRef{ID: smr.BundleID{byte(i), byte(i >> 8)}, Bytes: 1}
	}
	big := make([]smr.BundleRef, 9)
	for i := range big {
		big[i] = smr.BundleRef{ID: smr.BundleID{byte(i)}, Bytes: 1 << 20}
	}
	for name, h := range map[string]Header{
		"sequence number 0": {Epoch: 1},
		"a huge position":   {Epoch: 1, Seq: math.MaxUint64},
		"a huge view":       {Epoch: 1, Seq: 1, View: math.MaxUint64},
		"epoch 0":           {Seq: 1},
		"a bundle twice":    {Epoch: 1, Seq: 1, Refs: []smr.BundleRef{ref, ref}},
		"an empty bundle":   {Epoch: 1, Seq: 1, Refs: []smr.BundleRef{{ID: smr.BundleID{1}}}},
		"a huge bundle":     {Epoch: 1, Seq: 1, Refs: []smr.BundleRef{{ID: smr.BundleID{1}, Bytes: math.MaxUint32}}},
		"too many bundles":  {Epoch: 1, Seq: 1, Refs: many},
		"too many bytes":    {Epoch: 1, Seq: 1, Refs: big},
		"time before 1970":  {Epoch: 1, Seq: 1, Time: -1},
		"an unknown flag":   {Epoch: 1, Seq: 1, Flags: 128},
		"epoch closing":     {Epoch: 1, Seq: 1, Flags: flagEpochClosing},
		"a next membership": {Epoch: 1, Seq: 1, Next: smr.Digest{1}},
	} {
		if _, err := parseHeader(newHeader(b.m, h).raw); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	good := newHeader(b.m, Header{Epoch: 1, Seq: 1, Refs: []smr.BundleRef{ref}})
	if _, err := parseHeader(good.raw[:len(good.raw)-1]); err == nil {
		t.Error("a truncated header was taken")
	}
	info, err := b.codec.Header(good.raw)
	if err != nil || info.Digest != good.Digest || len(info.Refs) != 1 {
		t.Error(info, err)
	}
}

func TestRangesAreProvenByOneCertificate(t *testing.T) {
	b := newBench(t, 4, 4)
	bundle := &smr.Bundle{ID: smr.BundleID{3}, Raw: make([]byte, 100)}
	p1 := b.proposal(0, nil, bundle.Ref())
	p2 := b.proposal(0, p1.Header)
	p3 := b.proposal(2, p2.Header)
	proof := b.cert(auth.KindCommit, p3.Header).Cert.Bytes()
	whole := protocol.Range{
		Headers: [][]byte{p1.Header.raw, p2.Header.raw, p3.Header.raw}, Bundles: [][]*smr.Bundle{{bundle}, {}, {}}, Proof: proof,
	}
	ds, err := b.codec.VerifyRange(0, smr.Digest{}, whole)
	if err != nil || len(ds) != 3 || ds[2].Proof == nil || ds[1].Proof != nil {
		t.Fatal(len(ds), err)
	}
	linking := protocol.Range{Headers: [][]byte{p1.Header.raw, p2.Header.raw, p3.Header.core()}, Bundles: [][]*smr.Bundle{{bundle}}, Proof: proof}
	if ds, err = b.codec.VerifyRange(0, smr.Digest{}, linking); err != nil || len(ds) != 1 || ds[0].Proof != nil {
		t.Fatal(len(ds), err)
	}
	for name, f := range map[string]func(r *protocol.Range){
		"a gap":            func(r *protocol.Range) { r.Headers = [][]byte{p1.Header.raw, p3.Header.raw}; r.Bundles = r.Bundles[:2] },
		"no proof":         func(r *protocol.Range) { r.Proof = nil },
		"a prepare proof":  func(r *protocol.Range) { r.Proof = b.cert(auth.KindPrepare, p3.Header).Cert.Bytes() },
		"another bundle":   func(r *protocol.Range) { r.Bundles[0] = []*smr.Bundle{{ID: smr.BundleID{4}, Raw: make([]byte, 100)}} },
		"another length":   func(r *protocol.Range) { r.Bundles[0] = []*smr.Bundle{{ID: smr.BundleID{3}, Raw: make([]byte, 99)}} },
		"a bundle short":   func(r *protocol.Range) { r.Bundles[0] = nil },
		"nothing":          func(r *protocol.Range) { r.Headers, r.Bundles = nil, nil },
		"too many batches": func(r *protocol.Range) { r.Bundles = append(r.Bundles, nil) },
	} {
		r := protocol.Range{Headers: append([][]byte(nil), whole.Headers...), Bundles: append([][]*smr.Bundle(nil), whole.Bundles...), Proof: proof}
		f(&r)
		if _, err := b.codec.VerifyRange(0, smr.Digest{}, r); err == nil {
			t.Errorf("a range with %s was taken", name)
		}
	}
	if _, err := b.codec.VerifyRange(1, smr.Digest{}, whole); err == nil {
		t.Error("a range that starts elsewhere was taken")
	}
}

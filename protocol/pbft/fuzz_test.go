package pbft

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

// lax takes every signature, so that what lies behind the checks is reached.
type lax struct{}

func (lax) Verify(smr.PublicKey, []byte, []byte) bool { return true }
func (lax) VerifyBatch([]auth.Item) []bool            { return nil }

// fuzzWorld is what honest seeds are made with.
type fuzzWorld struct {
	tb    testing.TB
	m     *quorum.Membership
	v     *auth.Verifier
	stand *auth.StandIn
}

func newFuzzWorld(tb testing.TB) fuzzWorld {
	w := fuzzWorld{tb: tb, stand: auth.NewStandIn(5)}
	members := make([]quorum.Member, 4)
	for i := range members {
		members[i] = quorum.Member{ID: smr.NodeID(i + 1), Role: quorum.Voter, Key: w.stand.Signer(uint64(i + 1)).Public()}
	}
	var err error
	if w.m, err = quorum.New(smr.ClusterID{7}, 1, quorum.Byzantine, 1, members, 0); err != nil {
		tb.Fatal(err)
	}
	w.v = auth.NewVerifier(w.m, w.stand)
	return w
}

func (w fuzzWorld) vote(id smr.NodeID, stmt auth.Statement) *auth.Vote {
	v, err := w.v.Sign(id, w.stand.Signer(uint64(id)), stmt)
	if err != nil {
		w.tb.Fatal(err)
	}
	return v
}

func (w fuzzWorld) certificate(kind auth.Kind, h *Header) *Certificate {
	stmt := w.v.Statement(kind, h.View, h.Seq, h.Digest)
	cert, err := w.v.Certify([]*auth.Vote{w.vote(1, stmt), w.vote(2, stmt), w.vote(3, stmt)})
	if err != nil {
		w.tb.Fatal(err)
	}
	return &Certificate{Core: h, Cert: cert}
}

// chain returns three headers, the last closing its term.
func (w fuzzWorld) chain() []*Header {
	ref := smr.BundleRef{ID: smr.BundleID{1}, Bytes: 10}
	a := newHeader(w.m, Header{Epoch: 1, Seq: 1, Time: 5, Refs: []smr.BundleRef{ref}})
	b := newHeader(w.m, Header{Epoch: 1, Seq: 2, Time: 6, Parent: a.Digest})
	return []*Header{a, b, newHeader(w.m, Header{Epoch: 1, Seq: 3, Time: 7, Parent: b.Digest, Flags: flagTermClosing})}
}

// said is a message and its sender.
type said struct {
	from smr.NodeID
	m    protocol.Message
}

// messages returns honest messages of every kind.
func (w fuzzWorld) messages() []said {
	hs := w.chain()
	lock, top := w.certificate(auth.KindPrepare, hs[1]), w.certificate(auth.KindCommit, hs[2])
	timeouts := make([]*Timeout, 4)
	for i := range timeouts {
		t := &Timeout{}
		if i == 1 {
			t.Lock = lock
		}
		t.Vote = w.vote(smr.NodeID(i+1), w.v.Statement(auth.KindTimeout, 0, 0, nameLock(t.Lock).bind()))
		timeouts[i] = t
	}
	tc, err := newTimeoutCertificate(w.v, 0, timeouts)
	if err != nil {
		w.tb.Fatal(err)
	}
	propose := func(h *Header) *Proposal {
		id := w.m.Primary(h.View)
		return &Proposal{Header: h, Signature: w.vote(id, w.v.Statement(auth.KindProposal, h.View, h.Seq, h.Digest)).Signature()}
	}
	opened := propose(newHeader(w.m, Header{Epoch: 1, View: 1, Seq: 3, Time: 8, Parent: hs[1].Digest}))
	opened.Timeout = tc
	handed := propose(newHeader(w.m, Header{Epoch: 1, View: 1, Seq: 4, Time: 8, Parent: hs[2].Digest}))
	handed.HandOver = top
	return []said{
		{1, propose(hs[0])}, {2, opened}, {2, handed},
		{2, &Vote{Vote: w.vote(2, w.v.Statement(auth.KindPrepare, 0, 1, hs[0].Digest))}},
		{2, &Vote{Vote: w.vote(2, w.v.Statement(auth.KindCommit, 0, 1, hs[0].Digest)), Again: true}},
		{1, lock}, {1, top}, {3, tc}, {1, timeouts[0]}, {2, timeouts[1]},
		{3, &Complaint{Vote: w.vote(3, w.v.Statement(auth.KindComplaint, 0, 2, smr.Digest{}))}},
		{1, &Heartbeat{View: 0}}, {1, &Heartbeat{View: 0, Newest: top}},
		{4, &Ask{View: 1, Seq: 3, Digest: hs[2].Digest, Above: 1}},
		{4, &Answer{Headers: []*Header{hs[2], hs[1], hs[0]}}},
	}
}

// What a codec takes it writes again so that it is taken again, as the same bytes.
func FuzzDecode(f *testing.F) {
	w := newFuzzWorld(f)
	strict, open := NewCodec(w.v), NewCodec(auth.NewVerifier(w.m, lax{}))
	for _, s := range w.messages() {
		b := strict.Append(nil, s.m)
		if _, err := strict.Decode(s.from, s.m.Kind(), b); err != nil {
			f.Fatalf("%T: %v", s.m, err)
		}
		f.Add(uint8(s.from), s.m.Kind(), b)
	}
	f.Fuzz(func(t *testing.T, sender, kind uint8, payload []byte) {
		from := smr.NodeID(sender)
		if _, err := strict.Decode(from, kind, payload); err == nil {
			if _, err := open.Decode(from, kind, payload); err != nil {
				t.Fatalf("refused with fewer checks: %v", err)
			}
		}
		m, err := open.Decode(from, kind, payload)
		if err != nil {
			return
		}
		if m.Kind() != kind || m.Size() <= 0 {
			t.Fatalf("kind %d decodes as %d of %d bytes", kind, m.Kind(), m.Size())
		}
		b := open.Append(nil, m)
		again, err := open.Decode(from, kind, b)
		if err != nil {
			t.Fatalf("%T is not taken again: %v", m, err)
		}
		if !bytes.Equal(open.Append(nil, again), b) {
			t.Fatalf("%T changes when it is passed on", m)
		}
	})
}

// fixBatch puts the batch digest right, so that what lies behind it is reached.
func fixBatch(raw []byte) []byte {
	raw = bytes.Clone(raw)
	if len(raw) >= coreBytes {
		d := batchDigest(raw[coreBytes:])
		copy(raw[162:], d[:])
	}
	return raw
}

// A header has one encoding.
func FuzzHeader(f *testing.F) {
	w := newFuzzWorld(f)
	for _, h := range w.chain() {
		f.Add(h.raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		raw = fixBatch(raw)
		h, err := parseHeader(raw)
		if err != nil || !h.belongs(w.m) {
			return
		}
		if again := newHeader(w.m, *h); !bytes.Equal(again.raw, raw) || again.Digest != h.Digest {
			t.Fatal("a header has two encodings")
		}
	})
}

// A range that is taken is contiguous and as long as what was asked for. The headers come as two
// bytes of length and the bytes.
func FuzzRange(f *testing.F) {
	w := newFuzzWorld(f)
	codec := NewCodec(auth.NewVerifier(w.m, lax{}))
	hs := w.chain()
	var in []byte
	for _, h := range hs {
		in = append(binary.BigEndian.AppendUint16(in, uint16(len(h.raw))), h.raw...)
	}
	top := w.certificate(auth.KindCommit, hs[2])
	f.Add(uint64(0), uint8(3), in, top.Cert.Bytes())
	f.Add(uint64(0), uint8(1), in, top.Cert.Bytes())
	f.Add(uint64(1), uint8(1), in[2+len(hs[0].raw):], appendMessage(nil, w.certificate(auth.KindPrepare, hs[1])))
	f.Fuzz(func(t *testing.T, after uint64, whole uint8, in, proof []byte) {
		if mark, err := codec.OpenLock(proof); err == nil && mark.Seq == 0 {
			t.Fatal("a lock of nothing")
		}
		r := protocol.Range{Proof: proof}
		var parent smr.Digest
		for len(in) >= 2 {
			n := min(int(binary.BigEndian.Uint16(in)), len(in)-2)
			raw := fixBatch(in[2 : 2+n])
			if len(raw) >= coreBytes {
				if len(r.Headers) > 0 { // linked, whatever it said
					copy(raw[89:], parent[:])
				}
				parent = chainDigest(raw[:coreBytes])
			}
			r.Headers = append(r.Headers, raw)
			in = in[2+n:]
		}
		for i := range min(int(whole), len(r.Headers)+1) {
			var bundles []*smr.Bundle
			if i < len(r.Headers) {
				if h, err := parseHeader(r.Headers[i]); err == nil {
					for _, ref := range h.Refs {
						bundles = append(bundles, &smr.Bundle{ID: ref.ID, Raw: make([]byte, min(ref.Bytes, 1<<12))})
					}
				}
			}
			r.Bundles = append(r.Bundles, bundles)
		}
		var first smr.Digest
		if len(r.Headers) > 0 && len(r.Headers[0]) >= coreBytes {
			copy(first[:], r.Headers[0][89:])
		}
		out, err := codec.VerifyRange(smr.SeqNo(after), first, r)
		if err != nil {
			return
		}
		if len(out) != len(r.Bundles) {
			t.Fatalf("%d decisions of %d batches", len(out), len(r.Bundles))
		}
		for i, d := range out {
			if d.Seq != smr.SeqNo(after)+smr.SeqNo(i)+1 || i > 0 && d.Parent != out[i-1].Digest {
				t.Fatalf("decision %d does not follow", i)
			}
		}
	})
}

// Evidence of a vote has a position, or is refused.
func FuzzEvidence(f *testing.F) {
	w := newFuzzWorld(f)
	codec := NewCodec(auth.NewVerifier(w.m, lax{}))
	digest := w.chain()[0].Digest
	for _, kind := range []uint8{kindPrepare, kindCommit, kindTimeout} {
		v := &Vote{Vote: w.vote(2, w.v.Statement(auth.KindPrepare, 1, 1, digest))}
		f.Add(uint8(2), appendMessage([]byte{kind}, v))
	}
	f.Fuzz(func(t *testing.T, from uint8, raw []byte) {
		mark, err := codec.OpenEvidence(smr.NodeID(from), raw)
		if _, voter := w.m.Index(smr.NodeID(from)); err == nil && (mark == (protocol.Mark{}) || !voter) {
			t.Fatalf("%d showed %+v", from, mark)
		}
	})
}

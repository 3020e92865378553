package transfer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"runtime"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// plainCodec is a codec of headers without signatures: sequence number, parent, references.
type plainCodec struct{}

var errPlain = errors.New("refused")

func (plainCodec) Append(dst []byte, _ protocol.Message) []byte { return dst }

func (plainCodec) Decode(smr.NodeID, uint8, []byte) (protocol.Message, error) { return nil, errPlain }

func (plainCodec) Header(raw []byte) (protocol.HeaderInfo, error) {
	if len(raw) < 40 || (len(raw)-40)%36 != 0 {
		return protocol.HeaderInfo{}, errPlain
	}
	h := protocol.HeaderInfo{Epoch: 1, Seq: smr.SeqNo(binary.BigEndian.Uint64(raw)), Digest: sha256.Sum256(raw)}
	copy(h.Parent[:], raw[8:40])
	for b := raw[40:]; len(b) > 0; b = b[36:] {
		h.Refs = append(h.Refs, smr.BundleRef{ID: smr.BundleID(b[:32]), Bytes: binary.BigEndian.Uint32(b[32:])})
	}
	return h, nil
}

// VerifyRange takes any chain of headers.
func (c plainCodec) VerifyRange(after smr.SeqNo, parent smr.Digest, r protocol.Range) (out []protocol.Decision, err error) {
	for i, raw := range r.Headers {
		h, err := c.Header(raw)
		if err != nil || h.Seq != after+1+smr.SeqNo(i) || h.Parent != parent {
			return nil, errPlain
		}
		if parent = h.Digest; i < len(r.Bundles) {
			out = append(out, protocol.Decision{HeaderInfo: h, Header: raw})
		}
	}
	return out, nil
}

func (plainCodec) OpenLock(raw []byte) (protocol.Mark, error) {
	if len(raw) != 8 {
		return protocol.Mark{}, errPlain
	}
	return protocol.Mark{Epoch: 1, Seq: smr.SeqNo(binary.BigEndian.Uint64(raw))}, nil
}

func (c plainCodec) OpenEvidence(_ smr.NodeID, raw []byte) (protocol.Mark, error) {
	return c.OpenLock(raw)
}

// lax takes every signature, so that what lies behind the checks is reached.
type lax struct{}

func (lax) Verify(smr.PublicKey, []byte, []byte) bool { return true }
func (lax) VerifyBatch([]auth.Item) []bool            { return nil }

// fuzzWorld returns a verifier that takes every signature and honest messages, by kind.
func fuzzWorld(tb testing.TB) (*auth.Verifier, [][]byte) {
	stand := auth.NewStandIn(3)
	var members []quorum.Member
	for i := 1; i <= 4; i++ {
		members = append(members, quorum.Member{ID: smr.NodeID(i), Role: quorum.Voter, Key: stand.Signer(uint64(i)).Public(), Addr: "h:1"})
	}
	m, err := quorum.New(smr.ClusterID{1}, 1, quorum.Byzantine, 1, members, 1)
	if err != nil {
		tb.Fatal(err)
	}
	v := auth.NewVerifier(m, lax{})
	var votes []*auth.Vote
	for id := smr.NodeID(1); id <= 3; id++ {
		vote, err := v.Sign(id, stand.Signer(uint64(id)), rootStatement(v, 7, smr.Digest{7}))
		if err != nil {
			tb.Fatal(err)
		}
		votes = append(votes, vote)
	}
	cert, err := v.Certify(votes)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := wire.EncodeBundle(m.Cluster(), stand.Signer(9), smr.Bundle{Kind: smr.BundleOpen, Client: 1, Nonce: 1})
	if err != nil {
		tb.Fatal(err)
	}
	first := binary.BigEndian.AppendUint64(nil, 1)
	first = append(first, make([]byte, 32)...)
	first = binary.BigEndian.AppendUint32(append(first, b.ID[:]...), uint32(len(b.Raw)))
	digest := sha256.Sum256(first)
	second := append(binary.BigEndian.AppendUint64(nil, 2), digest[:]...)
	q := LogRequest{ID: 2, After: 0, Upto: 2, MaxBytes: 10_000}
	log, _ := EncodeLogReply(q, []LogEntry{{Header: first, Bundles: [][]byte{b.Raw}}, {Header: second, Proof: []byte("p")}}, 1)
	return v, [][]byte{
		EncodeRootVote(votes[0]), EncodeRootCert(auth.CheckpointCert{Cert: cert}), EncodeViewQuery(ViewQuery{ID: 4}),
		encode(&wirepb.ViewReply{Id: 4, Epoch: 1, View: 2, Decided: 3, Lock: make([]byte, 8)}), EncodeLogRequest(q), log,
	}
}

// No message reaches a panic; what is taken is bounded, and is taken again when it is passed on.
func FuzzMessages(f *testing.F) {
	v, seeds := fuzzWorld(f)
	for kind, b := range seeds {
		if !takes(f, v, uint8(kind), b) {
			f.Fatalf("seed %d is refused", kind)
		}
		f.Add(uint8(kind), b)
	}
	f.Fuzz(func(t *testing.T, kind uint8, payload []byte) { takes(t, v, kind, payload) })
}

// takes decodes a message and reports whether it is taken.
func takes(t testing.TB, v *auth.Verifier, kind uint8, payload []byte) bool {
	var err error
	switch kind {
	case 0:
		var vote *auth.Vote
		if vote, err = DecodeRootVote(v, 2, payload); err == nil {
			again, err := DecodeRootVote(v, 2, EncodeRootVote(vote))
			if err != nil || again.Statement() != vote.Statement() || !bytes.Equal(again.Signature(), vote.Signature()) {
				t.Fatalf("root vote changes: %v", err)
			}
		}
	case 1:
		var cert auth.CheckpointCert
		if cert, err = DecodeRootCert(v, payload); err == nil {
			again, err := DecodeRootCert(v, EncodeRootCert(cert))
			if err != nil || again.Seq() != cert.Seq() || again.Root() != cert.Root() || !bytes.Equal(again.Cert.Bytes(), cert.Cert.Bytes()) {
				t.Fatalf("root certificate changes: %v", err)
			}
		}
	case 2:
		var q ViewQuery
		if q, err = DecodeViewQuery(payload); err == nil {
			if again, err := DecodeViewQuery(EncodeViewQuery(q)); err != nil || again != q {
				t.Fatalf("view query changes: %v", err)
			}
		}
	case 3:
		var r ViewReply
		if r, err = DecodeViewReply(plainCodec{}, payload); err == nil {
			if r.Lock.Epoch > 1 || r.Seen.Epoch > 1 {
				t.Fatalf("unproven marks: %v, %v", r.Lock, r.Seen)
			}
		}
	case 4:
		var q LogRequest
		if q, err = DecodeLogRequest(payload); err == nil {
			if again, err := DecodeLogRequest(EncodeLogRequest(q)); err != nil || again != q {
				t.Fatalf("log request changes: %v", err)
			}
			if q.MaxBytes < 0 || q.MaxBytes > MaxLogBytes {
				t.Fatalf("asks for %d bytes", q.MaxBytes)
			}
		}
	case 5:
		var r *LogReply
		if r, err = DecodeLogReply(v, plainCodec{}, lax{}, payload); err == nil {
			if len(r.Decisions) != len(r.Bundles) || len(r.Decisions) > MaxLogEntries {
				t.Fatalf("%d decisions, %d batches", len(r.Decisions), len(r.Bundles))
			}
			for i, d := range r.Decisions {
				if d.Seq != r.After+smr.SeqNo(i)+1 || len(d.Refs) != len(r.Bundles[i]) {
					t.Fatalf("decision %d does not follow", i)
				}
			}
		}
	default:
		return false
	}
	if err != nil && !errors.Is(err, ErrMessage) {
		t.Fatalf("kind %d: error of another kind: %v", kind, err)
	}
	return err == nil
}

// What a frame makes its receiver allocate before it is refused is a small multiple of its bytes.
func TestALogReplyOfEmptyBundlesIsRefusedBeforeItIsUnpacked(t *testing.T) {
	v, _ := fuzzWorld(t)
	one := encode(&wirepb.LogReply{Entries: []*wirepb.LogEntry{{Bundles: make([][]byte, 1<<20)}}})
	entries := make([]*wirepb.LogEntry, MaxLogEntries)
	for i := range entries {
		entries[i] = &wirepb.LogEntry{Bundles: make([][]byte, 256)}
	}
	for _, payload := range [][]byte{one, encode(&wirepb.LogReply{Entries: entries})} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := DecodeLogReply(v, plainCodec{}, lax{}, payload); !errors.Is(err, ErrMessage) {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > uint64(len(payload)) {
			t.Errorf("%d bytes allocated for %d received", n, len(payload))
		}
	}
}

// No message about a checkpoint holds more than its bytes describe, whatever it claims, and a page that
// is right fits its own claims.
func FuzzStateMessages(f *testing.F) {
	m, parts, data := divisible(7, map[smr.PartID]string{1: "x", 4: "yz"}, 1, 4)
	q := StateRequest{Seq: 7, Root: Root(m, parts), What: WhatPage}
	f.Add(EncodePage(q, m, parts, NewPages(m, parts)))
	f.Add(EncodeGone(q))
	q.What, q.Index = WhatPart, 1
	f.Add(EncodePart(q, data[1]))
	f.Add(EncodeStateRequest(q))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := DecodeStateRequest(b); err == nil && (q.What == WhatGone || q.Seq == 0 || q.Index >= MaxParts) {
			t.Fatalf("%+v", q)
		}
		r, err := DecodeStateReply(b)
		if err != nil {
			return
		}
		if len(r.Parts)*PartBytes > len(b) || len(r.Data) > len(b) || len(r.Data) > MaxPartBytes {
			t.Fatal("more than was sent")
		}
		if r.What == WhatPage && !r.Wrong && (uint64(len(r.Parts)) > r.Leaves || r.Index == 0 && r.Meta.Parts+1 != r.Leaves) {
			t.Fatalf("a page of %d parts and %d leaves is right", len(r.Parts), r.Leaves)
		}
	})
}

package client

import (
	"bytes"
	"crypto/sha256"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// The walk and the generated decoder read the same results out of what both accept.
func FuzzOrderedReply(f *testing.F) {
	f.Add(replyFrame(firstSession, false, outcomeResult(1, smr.OutcomeExecuted, "x", 9), outcomeResult(2, smr.OutcomeNoSession, "", 9)))
	f.Add(replyFrame(0, true, outcomeResult(77, smr.OutcomeExecuted, "12345678", 1)))
	f.Add([]byte{0x0a, 0x02, 0x1a, 0x00})
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		var got []result
		if err := eachResult(b, func(r result) { got = append(got, r) }); err != nil {
			return
		}
		var m wirepb.OrderedReply
		if err := m.UnmarshalVT(b); err != nil {
			return
		}
		i := 0
		for _, s := range m.Sessions {
			for _, x := range s.Results {
				if i == len(got) {
					t.Fatal("a result is missing")
				}
				r := got[i]
				if r.session != smr.SessionID(s.Session) || r.open != s.Open || r.op != x.Op || uint32(r.outcome) != x.Outcome ||
					!bytes.Equal(r.data, x.Data) || r.seq != smr.SeqNo(x.Seq) {
					t.Fatalf("%+v, not %v", r, x)
				}
				i++
			}
		}
		if i != len(got) {
			t.Fatal("a result too many")
		}
	})
}

// No frame reaches a panic, and a single replica ends no call.
func FuzzReceive(f *testing.F) {
	f.Add(uint8(wire.ClassOrderedReply), replyFrame(firstSession, false, outcomeResult(1, smr.OutcomeExecuted, "x", 9)))
	f.Add(uint8(wire.ClassOrderedReply), replyFrame(0, true, outcomeResult(77, smr.OutcomeExecuted, "12345678", 1)))
	ur := wirepb.UnorderedReply{Id: 1, Code: 1, Data: []byte("x"), Version: 3, Executed: 4}
	b, _ := ur.MarshalVT()
	f.Add(uint8(wire.ClassUnorderedReply), b)
	f.Add(uint8(wire.ClassAdvice), adviceFrame(wire.AdviceRejected, &smr.Bundle{Kind: smr.BundleOps, Session: firstSession, First: 1}, "no", 1<<63))
	f.Fuzz(func(t *testing.T, class uint8, payload []byte) {
		s := newScript(t, quorum.Byzantine, 4)
		calls := s.submit("a", "b")
		s.opened(firstSession)
		s.core.lastQuery = 0
		calls = append(calls, s.query("q", Level{}))
		for range 3 {
			_ = s.receive(2, wire.Class(class), payload)
		}
		s.wait(time.Minute)
		for _, call := range calls {
			s.mustWait(call)
		}
	})
}

func FuzzSessionState(f *testing.F) {
	s := newScript(f, quorum.Byzantine, 4, keep)
	s.submit("a", "b")
	s.opened(firstSession)
	s.submit("c")
	good := s.save.Append(nil)
	f.Add(good[:len(good)-32])
	f.Fuzz(func(t *testing.T, b []byte) {
		// The checksum is put right, so that what lies behind it is reached.
		state, err := DecodeSessionState(checksummed(b))
		if err != nil {
			return
		}
		if !bytes.Equal(state.Append(nil), checksummed(b)) {
			t.Fatal("two encodings of one state")
		}
		core := NewCore(CoreConfig{Membership: s.core.m, Client: state.Client, Signer: stand.Signer(100), Rand: rand.New(rand.NewPCG(1, 2)), Resume: state, Keep: true})
		var out Output
		core.Flush(time.Unix(1, 0), &out)
	})
}

func checksummed(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(bytes.Clone(b), sum[:]...)
}

func BenchmarkOrderedCall(b *testing.B) {
	s := newScript(b, quorum.Byzantine, 4)
	s.submit("open")
	s.opened(firstSession)
	s.all(3, firstSession, 1, smr.OutcomeExecuted, "")
	const n = 128
	op := make([]byte, 128)
	next := uint64(2)
	var out Output
	b.ReportAllocs()
	for b.Loop() {
		out.Reset()
		calls := make([]Call, n)
		for i := range calls {
			_ = s.core.Submit(&calls[i], op)
		}
		s.core.Flush(s.now, &out)
		results := make([]*wirepb.OpResult, n)
		for i := range results {
			results[i] = outcomeResult(next+uint64(i), smr.OutcomeExecuted, string(op), 9)
		}
		frame := replyFrame(firstSession, false, results...)
		for id := range smr.NodeID(4) {
			_ = s.core.Receive(s.now, id+1, wire.ClassOrderedReply, wire.KindOnly, frame, &out)
		}
		if len(out.Done) != n {
			b.Fatal(len(out.Done))
		}
		next += n
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/op-call")
}

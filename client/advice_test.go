package client

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

func adviceFrame(code wire.AdviceCode, b *smr.Bundle, text string, after uint64) []byte {
	first := uint64(b.First)
	if b.Kind == smr.BundleOpen {
		first = b.Nonce
	}
	m := wirepb.Advice{Code: uint32(code), Session: uint64(b.Session), First: first, Text: text, RetryAfterMs: after}
	raw, _ := m.MarshalVT()
	return raw
}

func TestBusyMovesTheRetransmissionOnlyIfACorrectReplicaSaysSo(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	a := s.submit("a")[0]
	s.opened(firstSession)
	b := s.bundles()[1]
	before := s.core.Next()
	for range 5 {
		_ = s.receive(1, wire.ClassAdvice, adviceFrame(wire.AdviceBusy, b, "full", 1<<40))
	}
	if s.core.Next() != before {
		t.Fatal("one replica moves the clock")
	}
	_ = s.receive(2, wire.ClassAdvice, adviceFrame(wire.AdviceBusy, b, "full", 50))
	if d := s.core.Next().Sub(s.now); d < 50*time.Millisecond || d > 75*time.Millisecond {
		t.Fatal("not when they said:", d)
	}
	s.mustWait(a)
	s.wait(100 * time.Millisecond)
	if bs := s.bundles(); len(bs) != 1 || bs[0].ID != b.ID {
		t.Fatal("not the same bundle again")
	}
	s.mustWait(a)
}

func TestRejectedOpsAreFoundByHalvingAndEndUnknownWithTheLimit(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	calls := s.submit("a", "bad", "c", "d")
	s.opened(firstSession)
	s.sent = nil
	reject := func(b *smr.Bundle) {
		for id := range smr.NodeID(3) {
			_ = s.receive(id+1, wire.ClassAdvice, adviceFrame(wire.AdviceRejected, b, "no bad ones", 0))
		}
	}
	_ = s.receive(1, wire.ClassAdvice, adviceFrame(wire.AdviceRejected, s.core.flights[0].bundle, "lie", 0))
	if len(s.sent) != 0 {
		t.Fatal("one replica splits")
	}
	for range 3 {
		for _, f := range s.core.flights {
			if bytes.Contains(f.bundle.Raw, []byte("bad")) {
				reject(f.bundle)
				break
			}
		}
	}
	d := s.mustEnd(calls[1], "", ErrUnknown)
	var ae *AdviceError
	if !errors.As(d.Err, &ae) || ae.Text != "no bad ones" {
		t.Fatal(d.Err)
	}
	for i, n := range []uint64{1, 3, 4} {
		s.all(3, firstSession, n, smr.OutcomeExecuted, fmt.Sprint(n))
		s.mustEnd(calls[[]int{0, 2, 3}[i]], fmt.Sprint(n), nil)
	}
	if len(s.core.flights) != 0 {
		t.Fatal("a given up op is still being sent")
	}
	// Retry sends the same number again, and a result ends it for good.
	var out Output
	s.core.Retry(s.now, calls[1], &out)
	s.sent = nil
	s.take(&out)
	if bs := s.bundles(); len(bs) != 1 || bs[0].First != 2 || string(bs[0].Ops[0]) != "bad" {
		t.Fatal(bs)
	}
	s.all(3, firstSession, 2, smr.OutcomeExecuted, "after all")
	s.mustEnd(calls[1], "after all", nil)
}

func TestAHoleAtTheBaseOfAFullWindowMovesOnToANewSession(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4, func(c *CoreConfig) { c.Window = 4 })
	s.submit("bad")
	s.opened(firstSession)
	for id := range smr.NodeID(2) {
		_ = s.receive(id+1, wire.ClassAdvice, adviceFrame(wire.AdviceRejected, s.core.flights[0].bundle, "no", 0))
	}
	calls := s.submit("a", "b", "c", "d")
	for n := uint64(2); n <= 4; n++ {
		s.all(3, firstSession, n, smr.OutcomeExecuted, "")
	}
	if s.core.opening == nil {
		t.Fatal("stuck behind the hole")
	}
	next := smr.NewSessionID(3, 0)
	s.opened(next)
	s.all(3, next, 1, smr.OutcomeExecuted, "D")
	s.mustEnd(calls[3], "D", nil)
}

func TestCancelWithdrawsOnlyWhatIsNotSigned(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	calls := s.submit("a", "b")
	var out Output
	cause := errors.New("enough")
	if !s.core.Cancel(calls[1], cause, &out) {
		t.Fatal("not withdrawn")
	}
	s.take(&out)
	if d := s.mustEnd(calls[1], "", ErrNotExecuted); !errors.Is(d.Err, cause) {
		t.Error(d.Err)
	}
	s.opened(firstSession)
	if bs := s.bundles(); len(bs[1].Ops) != 1 {
		t.Fatal("the withdrawn op left")
	}
	if s.core.Cancel(calls[0], cause, &out) {
		t.Fatal("a signed op is withdrawn")
	}
	s.all(3, firstSession, 1, smr.OutcomeExecuted, "A")
	s.mustEnd(calls[0], "A", nil)
}

func TestStopGivesEveryCallItsFate(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	signed := s.submit("a")[0]
	s.opened(firstSession)
	s.submit("b")
	queued := s.submit("c")[0]
	asked := &Call{}
	var out Output
	if err := s.core.Query(s.now, asked, []byte("q"), Level{}, &out); err != nil {
		t.Fatal(err)
	}
	s.core.Stop(ErrClosed, &out)
	s.take(&out)
	for call, fate := range map[*Call]error{signed: ErrUnknown, queued: ErrNotExecuted, asked: ErrNotExecuted} {
		if d := s.mustEnd(call, "", fate); !errors.Is(d.Err, ErrClosed) {
			t.Error(d.Err)
		}
	}
	if err := s.core.Submit(&Call{}, nil); !errors.Is(err, ErrClosed) || !errors.Is(err, ErrNotExecuted) {
		t.Error(err)
	}
}

func TestStrangersAndGarbageChangeNothing(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	a := s.submit("a")[0]
	s.opened(firstSession)
	for range 5 {
		_ = s.receive(77, wire.ClassOrderedReply, replyFrame(firstSession, false, outcomeResult(1, smr.OutcomeExecuted, "x", 1)))
	}
	if s.receive(1, wire.ClassOrderedReply, []byte{0xff}) == nil || s.receive(1, wire.ClassProtocol, nil) == nil || s.receive(1, wire.ClassAdvice, []byte{1}) == nil {
		t.Error("garbage is not told")
	}
	for _, op := range []uint64{0, 2, 1 << 63, ^uint64(0)} {
		s.all(4, firstSession, op, smr.OutcomeExecuted, "x")
	}
	s.all(4, 12345, 1, smr.OutcomeExecuted, "x")
	s.mustWait(a)
	if st := s.core.Status(); st.DropsStranger != 5 || st.DropsMalformed != 3 || st.DropsLate == 0 {
		t.Errorf("%+v", st)
	}
}

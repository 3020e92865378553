package client

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

func TestOpsGatherBehindTheOpenAndThenBehindBundlesInFlight(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	s.submit("a", "b")
	if bs := s.bundles(); len(bs) != 1 || bs[0].Kind != smr.BundleOpen || bs[0].Nonce>>24 != uint64(s.now.UnixNano())>>24 {
		t.Fatalf("first an open: %v", bs)
	}
	s.opened(firstSession)
	bs := s.bundles()
	if len(bs) != 1 || len(bs[0].Ops) != 2 || bs[0].First != 1 || bs[0].Session != firstSession {
		t.Fatalf("then one bundle of both: %+v", bs)
	}
	s.submit("c")
	if bs := s.bundles(); len(bs) != 1 || bs[0].First != 3 {
		t.Fatal("with one bundle in flight the next goes at once")
	}
	s.submit("d")
	s.submit("e")
	if bs := s.bundles(); len(bs) != 0 {
		t.Fatal("with two in flight ops gather")
	}
	s.all(3, firstSession, 1, smr.OutcomeExecuted, "A")
	s.all(3, firstSession, 2, smr.OutcomeExecuted, "B")
	if bs := s.bundles(); len(bs) != 1 || len(bs[0].Ops) != 2 || bs[0].First != 4 || bs[0].Acked != 3 {
		t.Fatalf("a slot came free: %+v", bs)
	}
}

func TestBundlesGoToAllThePrimaryLast(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	s.submit("a")
	var to []smr.NodeID
	for _, f := range s.sent {
		to = append(to, f.To)
	}
	if fmt.Sprint(to) != "[2 3 4 1]" {
		t.Error(to)
	}
}

func TestFLiarsWithFastEqualWrongRepliesDecideNothing(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 7) // f = 2, quorum 5
	a := s.submit("a")[0]
	s.openReply(1, smr.OutcomeExecuted, 99)
	s.openReply(2, smr.OutcomeExecuted, 99)
	for i := 3; i <= 7; i++ {
		if s.core.current != nil {
			t.Fatal("a session before a quorum")
		}
		s.openReply(smr.NodeID(i), smr.OutcomeExecuted, firstSession)
	}
	for range 10 { // repeated ones count once
		s.reply(1, firstSession, 1, smr.OutcomeExecuted, "wrong")
		s.reply(2, firstSession, 1, smr.OutcomeExecuted, "wrong")
	}
	for i := 3; i <= 7; i++ {
		s.mustWait(a)
		s.reply(smr.NodeID(i), firstSession, 1, smr.OutcomeExecuted, "right")
	}
	if d := s.mustEnd(a, "right", nil); d.Seq != 9 || !d.Ordered {
		t.Error(d)
	}
}

func TestEqualityIgnoresTheSequenceNumberAndSeqNeedsACorrectReplica(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	a := s.submit("a")[0]
	s.opened(firstSession)
	for i, seq := range []uint64{1 << 60, 9, 9} {
		if err := s.receive(smr.NodeID(i+1), wire.ClassOrderedReply, replyFrame(firstSession, false, outcomeResult(1, smr.OutcomeExecuted, "x", seq))); err != nil {
			t.Fatal(err)
		}
	}
	if d := s.mustEnd(a, "x", nil); d.Seq != 9 || s.core.seen != 9 {
		t.Error(d.Seq, s.core.seen)
	}
}

func TestForgedEvictionDoesNothingAndAQuorumOfItReopens(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	a := s.submit("a")[0]
	s.opened(firstSession)
	s.bundles()
	s.reply(1, firstSession, 1, smr.OutcomeNoSession, "")
	s.mustWait(a)
	if s.core.current.gone {
		t.Fatal("one replica evicts")
	}
	s.all(3, firstSession, 1, smr.OutcomeNoSession, "")
	d := s.mustEnd(a, "", ErrUnknown)
	var oe *OutcomeError
	if !errors.As(d.Err, &oe) || oe.Outcome != smr.OutcomeNoSession || oe.Executed() {
		t.Fatal(d.Err)
	}
	// New ops get a new session by themselves.
	b := s.submit("b")[0]
	if bs := s.bundles(); len(bs) != 1 || bs[0].Kind != smr.BundleOpen {
		t.Fatal(bs)
	}
	next := smr.NewSessionID(5, 0)
	s.opened(next)
	s.all(3, next, 1, smr.OutcomeExecuted, "B")
	s.mustEnd(b, "B", nil)
}

func TestOutcomesHaveTheirFates(t *testing.T) {
	for outcome, want := range map[smr.Outcome]struct {
		fate     error
		executed bool
	}{
		smr.OutcomeMalformed: {ErrNotExecuted, false}, smr.OutcomeSkipped: {ErrNotExecuted, false},
		smr.OutcomeNoSession: {ErrUnknown, false}, smr.OutcomeNotAdmitted: {ErrUnknown, false},
		smr.OutcomeReplyGone: {ErrUnknown, true}, smr.OutcomeTooLarge: {ErrUnknown, true},
	} {
		s := newScript(t, quorum.Byzantine, 4)
		a := s.submit("a")[0]
		s.opened(firstSession)
		s.all(2, firstSession, 1, outcome, "")
		s.mustWait(a)
		s.all(3, firstSession, 1, outcome, "")
		d := s.mustEnd(a, "", want.fate)
		var oe *OutcomeError
		if !errors.As(d.Err, &oe) || oe.Executed() != want.executed || !strings.Contains(d.Err.Error(), outcome.String()) {
			t.Errorf("%s: %v", outcome, d.Err)
		}
	}
}

func TestBeyondWindowIsNoResult(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	a := s.submit("a")[0]
	s.opened(firstSession)
	s.all(4, firstSession, 1, smr.OutcomeBeyondWindow, "")
	s.mustWait(a)
	s.all(4, firstSession, 1, smr.OutcomeUnknown, "")
	s.all(4, firstSession, 1, smr.Outcome(200), "")
	s.mustWait(a)
	s.all(3, firstSession, 1, smr.OutcomeExecuted, "A")
	s.mustEnd(a, "A", nil)
}

func TestRefusedOpensEndWhatWaitsAsNotExecuted(t *testing.T) {
	for _, o := range []smr.Outcome{smr.OutcomeNotAdmitted, smr.OutcomeTableFull} {
		s := newScript(t, quorum.Byzantine, 4)
		a := s.submit("a")[0]
		for i := 1; i <= 3; i++ {
			s.mustWait(a)
			s.openReply(smr.NodeID(i), o, 0)
		}
		s.mustEnd(a, "", ErrNotExecuted)
		if a.Signed() {
			t.Error("signed")
		}
		s.bundles()
		s.submit("b")
		if bs := s.bundles(); len(bs) != 1 || bs[0].Kind != smr.BundleOpen {
			t.Error("the next op does not try again")
		}
	}
}

func TestTwoProcessesOfOneClientAtOneMomentDrawDifferentNonces(t *testing.T) {
	seen := map[uint64]bool{}
	for seed := range uint64(20) {
		s := newScript(t, quorum.Byzantine, 4, func(c *CoreConfig) { c.Rand = rand.New(rand.NewPCG(seed, 0)) })
		s.submit("a")
		seen[s.bundles()[0].Nonce] = true
	}
	if len(seen) != 20 {
		t.Error(len(seen))
	}
}

func TestAStaleNonceIsSteppedOver(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	a := s.submit("a")[0]
	first := s.bundles()[0].Nonce
	for i := 1; i <= 3; i++ {
		s.openReply(smr.NodeID(i), smr.OutcomeStaleNonce, 0)
	}
	bs := s.bundles()
	if len(bs) != 1 || bs[0].Nonce < first+uint64(time.Second) {
		t.Fatalf("no higher nonce: %v", bs)
	}
	s.opened(firstSession)
	s.all(3, firstSession, 1, smr.OutcomeExecuted, "A")
	s.mustEnd(a, "A", nil)
}

func TestLateBundlesAreSentAgainByteForByteToAllWithBackOff(t *testing.T) {
	for _, model := range []quorum.Model{quorum.Byzantine, quorum.Crash} {
		s := newScript(t, model, 4)
		s.core.spray = 0
		s.submit("a")
		s.opened(firstSession)
		first := s.sent[len(s.sent)-1].Payload
		s.sent = nil
		last := s.now
		var gaps []time.Duration
		for len(gaps) < 6 {
			s.wait(s.core.Next().Sub(s.now))
			if len(s.sent) != 4 {
				t.Fatalf("%s: sent to %d", model, len(s.sent))
			}
			for _, f := range s.sent {
				if !bytes.Equal(f.Payload, first) {
					t.Fatal("other bytes")
				}
			}
			s.sent = nil
			gaps = append(gaps, s.now.Sub(last))
			last = s.now
		}
		for i, base := range []time.Duration{500, 1000, 2000, 4000, 8000, 10000} {
			if base *= time.Millisecond; gaps[i] < base || gaps[i] > base*3/2 {
				t.Errorf("%s: gap %d is %s", model, i, gaps[i])
			}
		}
	}
}

func TestCrashModeTakesOneReplyAndSendsToTheLeaderThatAnswersFirst(t *testing.T) {
	s := newScript(t, quorum.Crash, 3)
	a := s.submit("a")[0]
	if len(s.sent) != 3 {
		t.Fatal("who leads is not known yet")
	}
	s.openReply(2, smr.OutcomeExecuted, firstSession)
	s.reply(2, firstSession, 1, smr.OutcomeExecuted, "A")
	s.mustEnd(a, "A", nil)
	s.core.spray = 0
	s.sent = nil
	s.submit("b")
	if len(s.sent) != 1 || s.sent[0].To != 2 {
		t.Errorf("sent to %v", s.sent)
	}
}

func TestTheWindowHoldsAndBundlesStayWithinTheirBounds(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4, func(c *CoreConfig) { c.MaxInFlightBundles = 64 })
	s.submit("open")
	s.opened(firstSession)
	s.all(3, firstSession, 1, smr.OutcomeExecuted, "")
	s.bundles()
	big := string(make([]byte, smr.MaxOpBytes))
	half := big[:smr.MaxOpBytes/2-100]
	s.submit(big, half, half, half)
	if bs := s.bundles(); len(bs) != 3 || len(bs[0].Ops) != 1 || len(bs[1].Ops) != 2 || len(bs[2].Ops) != 1 {
		t.Fatalf("%d bundles", len(bs))
	}
	small := make([]string, 2*smr.SessionWindow)
	s.submit(small...)
	ops := 4
	for _, b := range s.bundles() {
		ops += len(b.Ops)
		if len(b.Ops) > smr.MaxBundleOps || len(b.Raw) > smr.MaxBundleBytes {
			t.Fatal("bundle of", len(b.Ops), len(b.Raw))
		}
	}
	if ops != smr.SessionWindow {
		t.Fatalf("%d ops unanswered, the window is %d", ops, smr.SessionWindow)
	}
	s.all(3, firstSession, 3, smr.OutcomeExecuted, "") // not the lowest: the window stays
	if bs := s.bundles(); len(bs) != 0 {
		t.Fatal("beyond the window")
	}
	s.all(3, firstSession, 2, smr.OutcomeExecuted, "")
	if bs := s.bundles(); len(bs) != 1 || len(bs[0].Ops) != 2 || bs[0].Acked != 4 {
		t.Fatal("two numbers came free", bs)
	}
}

func TestTooLargeAnOpFailsHereAndNamesTheLimit(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	err := s.core.Submit(&Call{}, make([]byte, smr.MaxOpBytes+1))
	var le *LimitError
	if !errors.As(err, &le) || !errors.Is(err, ErrNotExecuted) || le.Limit != smr.MaxOpBytes || !strings.Contains(err.Error(), "op bytes") {
		t.Error(err)
	}
}

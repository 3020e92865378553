package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

var stand = auth.NewStandIn(1)

const self smr.ClientID = 7

// tester is what helpers need of a test, rapid's included.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func testMembership(t tester, model quorum.Model, n int) *quorum.Membership {
	t.Helper()
	ms := make([]quorum.Member, n)
	for i := range ms {
		ms[i] = quorum.Member{ID: smr.NodeID(i + 1), Role: quorum.Voter, Key: stand.Signer(uint64(i)).Public()}
	}
	m, err := quorum.New(smr.ClusterID{1}, 1, model, model.MaxFaults(n), ms, 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// script drives a Core by hand.
type script struct {
	t    tester
	core *Core
	now  time.Time
	sent []Frame
	done []Completion
	save *SessionState
}

func newScript(t tester, model quorum.Model, n int, edit ...func(*CoreConfig)) *script {
	t.Helper()
	cfg := CoreConfig{
		Membership: testMembership(t, model, n), Client: self, Signer: stand.Signer(100), Rand: rand.New(rand.NewPCG(1, 2)),
	}
	for _, e := range edit {
		e(&cfg)
	}
	return &script{t: t, core: NewCore(cfg), now: time.Unix(1000, 0)}
}

func (s *script) take(out *Output) {
	s.sent = append(s.sent, out.Send...)
	s.done = append(s.done, out.Done...)
	if out.Save != nil {
		s.save = out.Save
	}
}

func (s *script) submit(ops ...string) []*Call {
	s.t.Helper()
	calls := make([]*Call, len(ops))
	for i, op := range ops {
		calls[i] = &Call{Tag: op}
		if err := s.core.Submit(calls[i], []byte(op)); err != nil {
			s.t.Fatal(err)
		}
	}
	s.flush()
	return calls
}

func (s *script) flush() {
	var out Output
	s.core.Flush(s.now, &out)
	s.take(&out)
}

func (s *script) wait(d time.Duration) {
	s.now = s.now.Add(d)
	var out Output
	s.core.Expire(s.now, &out)
	s.core.Flush(s.now, &out)
	s.take(&out)
}

func (s *script) receive(from smr.NodeID, class wire.Class, payload []byte) error {
	var out Output
	err := s.core.Receive(s.now, from, class, wire.KindOnly, payload, &out)
	s.core.Flush(s.now, &out)
	s.take(&out)
	return err
}

func replyFrame(session smr.SessionID, open bool, results ...*wirepb.OpResult) []byte {
	m := wirepb.OrderedReply{Sessions: []*wirepb.SessionReply{{Session: uint64(session), Open: open, Results: results}}}
	b, err := m.MarshalVT()
	if err != nil {
		panic(err)
	}
	return b
}

func outcomeResult(op uint64, outcome smr.Outcome, data string, seq uint64) *wirepb.OpResult {
	return &wirepb.OpResult{Op: op, Outcome: uint32(outcome), Data: []byte(data), Seq: seq}
}

func (s *script) reply(from smr.NodeID, session smr.SessionID, op uint64, outcome smr.Outcome, data string) {
	s.t.Helper()
	if err := s.receive(from, wire.ClassOrderedReply, replyFrame(session, false, outcomeResult(op, outcome, data, 9))); err != nil {
		s.t.Fatal(err)
	}
}

// all lets replicas 1..k answer alike.
func (s *script) all(k int, session smr.SessionID, op uint64, outcome smr.Outcome, data string) {
	s.t.Helper()
	for i := 1; i <= k; i++ {
		s.reply(smr.NodeID(i), session, op, outcome, data)
	}
}

func (s *script) openReply(from smr.NodeID, outcome smr.Outcome, id smr.SessionID) {
	s.t.Helper()
	var data string
	if outcome == smr.OutcomeExecuted {
		data = string(binary.BigEndian.AppendUint64(nil, uint64(id)))
	}
	if s.core.opening == nil {
		s.t.Fatal("no open in flight")
	}
	if err := s.receive(from, wire.ClassOrderedReply, replyFrame(0, true, outcomeResult(s.core.opening.bundle.Nonce, outcome, data, 1))); err != nil {
		s.t.Fatal(err)
	}
}

var firstSession = smr.NewSessionID(1, 0)

// opened gives the Core a session.
func (s *script) opened(id smr.SessionID) {
	s.t.Helper()
	for i := 1; i <= s.core.replies; i++ {
		s.openReply(smr.NodeID(i), smr.OutcomeExecuted, id)
	}
	if s.core.current == nil || s.core.current.id != id {
		s.t.Fatal("not open")
	}
}

// bundles takes the distinct bundles sent so far, in order.
func (s *script) bundles() []*smr.Bundle {
	s.t.Helper()
	var out []*smr.Bundle
	seen := map[smr.BundleID]bool{}
	for _, f := range s.sent {
		if f.Class != wire.ClassOrderedRequest {
			continue
		}
		bs, err := wire.DecodeBundles(f.Payload)
		if err != nil {
			s.t.Fatal(err)
		}
		if bad := wire.VerifyBundles(stand, s.core.m.Cluster(), bs); bad != nil {
			s.t.Fatal("bad signature")
		}
		for _, b := range bs {
			if !seen[b.ID] {
				seen[b.ID] = true
				out = append(out, b)
			}
		}
	}
	s.sent = nil
	return out
}

func (s *script) ended(call *Call) (Completion, bool) {
	for i := len(s.done) - 1; i >= 0; i-- {
		if s.done[i].Call == call {
			return s.done[i], true
		}
	}
	return Completion{}, false
}

func (s *script) mustEnd(call *Call, data string, fate error) Completion {
	s.t.Helper()
	d, ok := s.ended(call)
	if !ok {
		s.t.Fatalf("%v has not ended", call.Tag)
	}
	if fate == nil && d.Err != nil || fate != nil && !errors.Is(d.Err, fate) || string(d.Data) != data {
		s.t.Fatalf("%v ended with %q, %v; want %q, %v", call.Tag, d.Data, d.Err, data, fate)
	}
	if errors.Is(d.Err, ErrNotExecuted) && errors.Is(d.Err, ErrUnknown) {
		s.t.Fatal("two fates:", d.Err)
	}
	return d
}

func (s *script) mustWait(call *Call) {
	s.t.Helper()
	if d, ok := s.ended(call); ok {
		s.t.Fatalf("%v ended with %q, %v", call.Tag, d.Data, d.Err)
	}
}

func TestOpsGatherBehindTheOpenAndThenBehindBundlesInFlight(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	s.submit("a", "b")
	if bs := s.bundles(); len(bs) != 1 || bs[0].Kind != smr.BundleOpen || bs[0].Nonce != uint64(s.now.UnixNano()) {
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

package client

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
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

package client

import (
	"errors"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

func (s *script) query(op string, level Level) *Call {
	s.t.Helper()
	call := &Call{Tag: op}
	var out Output
	if err := s.core.Query(s.now, call, []byte(op), level, &out); err != nil {
		s.t.Fatal(err)
	}
	s.take(&out)
	return call
}

// answer lets a replica answer the newest query.
func (s *script) answer(from smr.NodeID, code wire.QueryCode, data string, version, executed smr.SeqNo) {
	s.t.Helper()
	m := wirepb.UnorderedReply{Id: s.core.lastQuery, Code: uint32(code), Data: []byte(data), Version: uint64(version), Executed: uint64(executed)}
	b, _ := m.MarshalVT()
	if err := s.receive(from, wire.ClassUnorderedReply, b); err != nil {
		s.t.Fatal(err)
	}
}

func (s *script) mustFallBack(call *Call) {
	s.t.Helper()
	s.mustWait(call)
	if call.phase != phaseQueued && call.phase != phaseSigned {
		s.t.Fatalf("%v did not fall back", call.Tag)
	}
}

func TestLinearizableReadsNeedAQuorumOfEqualValueAndVersion(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	q := s.query("x", Linearizable())
	if len(s.sent) != 4 {
		t.Fatal("not asked all")
	}
	s.answer(1, wire.QueryOK, "v", 5, 9)
	s.answer(1, wire.QueryOK, "v", 5, 9)
	s.answer(2, wire.QueryOK, "v", 5, 7)
	s.mustWait(q)
	s.answer(4, wire.QueryOK, "v", 5, 5)
	if d := s.mustEnd(q, "v", nil); d.Ordered || d.Version != 5 || d.Seq != 5 {
		t.Errorf("%+v", d)
	}
}

// The value went a, b, a: two correct replicas at different heights and a liar show equal values.
// Taking them lets a later read go back to b.
func TestAValueThatCameBackIsNotTakenForOneThatStayed(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	q := s.query("x", Linearizable())
	s.answer(1, wire.QueryOK, "a", 1, 1) // behind: before b
	s.answer(2, wire.QueryOK, "a", 3, 3) // ahead: after b
	s.answer(3, wire.QueryOK, "a", 3, 3)
	s.mustWait(q)
	s.answer(4, wire.QueryOK, "b", 2, 2)
	s.mustFallBack(q)
	s.opened(firstSession)
	s.all(3, firstSession, 1, smr.OutcomeExecuted, "a")
	if d := s.mustEnd(q, "a", nil); !d.Ordered {
		t.Error("not ordered")
	}
}

func TestStaleReadsOfFLiarsDoNotDecide(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 7)
	q := s.query("x", Linearizable())
	for id := smr.NodeID(1); id <= 2; id++ {
		s.answer(id, wire.QueryOK, "old", 1, 9)
	}
	for id := smr.NodeID(3); id <= 6; id++ {
		s.answer(id, wire.QueryOK, "new", 8, 9)
	}
	s.mustWait(q)
	s.answer(7, wire.QueryOK, "new", 8, 8)
	s.mustEnd(q, "new", nil)
}

func TestQueriesFallBackWhenAQuorumIsOutOfReachOrLate(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	q := s.query("x", Linearizable())
	s.answer(1, wire.QueryNotReady, "", 0, 0)
	s.mustWait(q)
	s.answer(2, wire.QueryBusy, "", 0, 0)
	s.mustFallBack(q)

	late := s.query("y", Linearizable())
	s.wait(time.Second - 1)
	if late.phase != phaseQuery {
		t.Fatal("too early")
	}
	s.wait(time.Millisecond)
	s.mustFallBack(late)
	if st := s.core.Status(); st.Fallbacks != 2 || st.Unordered != 0 {
		t.Errorf("%+v", st)
	}
}

func TestMalformedQueriesNeedACorrectReplicaToSaySo(t *testing.T) {
	for code, outcome := range map[wire.QueryCode]smr.Outcome{wire.QueryMalformed: smr.OutcomeMalformed, wire.QueryTooLarge: smr.OutcomeTooLarge} {
		s := newScript(t, quorum.Byzantine, 4)
		q := s.query("x", Linearizable())
		s.answer(1, code, "", 0, 3)
		s.mustWait(q)
		s.answer(2, code, "", 0, 4)
		d := s.mustEnd(q, "", ErrNotExecuted)
		var oe *OutcomeError
		if !errors.As(d.Err, &oe) || oe.Outcome != outcome {
			t.Error(d.Err)
		}
	}
}

func TestWeakLevelsNeedOneCorrectReplicaAtTheHeightAskedFor(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	q := s.query("x", AtLeast(10))
	s.answer(1, wire.QueryOK, "v", 4, 9) // behind what was asked for
	s.answer(2, wire.QueryOK, "v", 4, 10)
	s.mustWait(q)
	s.answer(3, wire.QueryOK, "v", 4, 12)
	if d := s.mustEnd(q, "v", nil); d.Seq != 10 {
		t.Error(d.Seq)
	}
	// This client has now seen 10 attested.
	q = s.query("y", Stale(3))
	if got := s.core.queries[s.core.lastQuery].query.atLeast; got != 7 {
		t.Error("asks for", got)
	}
	s.answer(1, wire.QueryOK, "v", 4, 7)
	s.answer(2, wire.QueryOK, "v", 8, 8) // written again meanwhile: no matter
	s.mustEnd(q, "v", nil)
	s.query("z", Stale(1<<60))
	if got := s.core.queries[s.core.lastQuery].query.atLeast; got != 0 {
		t.Error("asks for", got)
	}
}

func TestAVersionAheadOfTheStateIsNoAnswer(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	q := s.query("x", AtLeast(0))
	s.answer(1, wire.QueryOK, "v", 9, 8)
	s.answer(2, wire.QueryOK, "v", 9, 8)
	s.mustWait(q)
}

func TestACancelledQueryIsNotExecuted(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	q := s.query("x", Linearizable())
	var out Output
	if !s.core.Cancel(q, errors.New("enough"), &out) {
		t.Fatal("not withdrawn")
	}
	s.take(&out)
	s.mustEnd(q, "", ErrNotExecuted)
	if !s.core.Next().IsZero() {
		t.Error("its timer stays")
	}
}

package transfer

import (
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

type world struct {
	scheme *auth.StandIn
	m      *quorum.Membership
	v      *auth.Verifier
}

func newWorld(t *testing.T, n int) world {
	w := world{scheme: auth.NewStandIn(3)}
	var members []quorum.Member
	for i := 1; i <= n; i++ {
		members = append(members, quorum.Member{ID: smr.NodeID(i), Role: quorum.Voter, Key: w.scheme.Signer(uint64(i)).Public(), Addr: "h:1"})
	}
	m, err := quorum.New(smr.ClusterID{1}, 1, quorum.Byzantine, (n-1)/3, members, 1)
	if err != nil {
		t.Fatal(err)
	}
	w.m, w.v = m, auth.NewVerifier(m, w.scheme)
	return w
}

func (w world) root(t *testing.T, from smr.NodeID, seq smr.SeqNo, root byte) *auth.Vote {
	v, err := w.v.Sign(from, w.scheme.Signer(uint64(from)), rootStatement(w.v, seq, smr.Digest{root}))
	if err != nil {
		t.Fatal(err)
	}
	v, err = DecodeRootVote(w.v, from, EncodeRootVote(v))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestACheckpointIsStableOnlyWithTheOwnDurableOne(t *testing.T) {
	w := newWorld(t, 4)
	r := NewRoots(1, w.v, w.scheme.Signer(1))
	var out Effects
	for from := smr.NodeID(2); from <= 4; from++ {
		if _, ok := r.Vote(w.root(t, from, 10, 1), &out); ok {
			t.Fatal("stable without the own checkpoint")
		}
	}
	if r.Newest().Seq() != 10 || r.Stable().Seq() != 0 {
		t.Fatal("no certificate, or stable")
	}
	c, ok := r.Durable(10, smr.Digest{1}, &out)
	if !ok || c.Seq() != 10 || r.Stable().Seq() != 10 {
		t.Fatal("not stable")
	}
	// A laggard's vote is answered with the certificate.
	out.Reset()
	r.Vote(w.root(t, 2, 5, 1), &out)
	if len(out.Send) != 1 {
		t.Fatal("no answer")
	}
	got, err := DecodeRootCert(w.v, out.Send[0].Payload)
	if err != nil || got.Seq() != 10 || got.Root() != c.Root() {
		t.Fatal(err)
	}
}

func TestAnotherRootThanTheCertifiedOneIsNamedDivergence(t *testing.T) {
	w := newWorld(t, 4)
	r := NewRoots(1, w.v, w.scheme.Signer(1))
	var out Effects
	r.Durable(10, smr.Digest{9}, &out)
	for from := smr.NodeID(2); from <= 4; from++ {
		if _, ok := r.Vote(w.root(t, from, 10, 1), &out); ok {
			t.Fatal("stable with another root")
		}
	}
	found := 0
	for _, ev := range out.Note {
		if ev.Kind == EventDivergence && ev.Seq == 10 {
			found++
		}
	}
	if found != 1 || r.Diverged() != 10 {
		t.Fatalf("%d events, diverged at %d", found, r.Diverged())
	}
}

func TestAVoterThatSpamsRootsCostsItsOwnSlotsOnly(t *testing.T) {
	w := newWorld(t, 4)
	r := NewRoots(1, w.v, w.scheme.Signer(1))
	var out Effects
	for seq := range smr.SeqNo(100) {
		r.Vote(w.root(t, 4, seq+1, 3), &out)
	}
	if len(r.votes[4]) != rootsPerVoter {
		t.Fatalf("%d votes kept", len(r.votes[4]))
	}
	r.Vote(w.root(t, 2, 20, 1), &out)
	r.Vote(w.root(t, 3, 20, 1), &out)
	if _, ok := r.Durable(20, smr.Digest{1}, &out); !ok {
		t.Fatal("three equal votes do not certify")
	}
}

func decision(seq smr.SeqNo, parent smr.Digest, proof bool) protocol.Decision {
	d := protocol.Decision{HeaderInfo: protocol.HeaderInfo{Epoch: 1, Seq: seq, Parent: parent, Digest: smr.Digest{byte(seq), 1}}}
	if proof {
		d.Proof = new(auth.Certificate)
	}
	return d
}

func asked(t *testing.T, out *Effects) (smr.NodeID, LogRequest) {
	t.Helper()
	if len(out.Send) != 1 || len(out.Send[0].To) != 1 {
		t.Fatalf("%d messages", len(out.Send))
	}
	q, err := DecodeLogRequest(out.Send[0].Payload)
	if err != nil {
		t.Fatal(err)
	}
	to := out.Send[0].To[0]
	out.Reset()
	return to, q
}

func TestLogCatchUpRotatesAwayFromStaleAndLyingPeers(t *testing.T) {
	w := newWorld(t, 4)
	l := NewLog(1, w.m, LogConfig{Retry: time.Second, MaxBytes: 1000, MaxHeld: 5000})
	var out Effects
	now := time.Unix(0, 0)
	l.Catch(now, Position{}, 3, []smr.NodeID{3}, &out)
	to, q := asked(t, &out)
	if to != 3 {
		t.Fatalf("asked %d first", to)
	}
	l.Reply(now, 2, &LogReply{ID: q.ID, Decisions: []protocol.Decision{decision(1, smr.Digest{}, true)}}, &out)
	if len(out.Send) != 0 || l.at.Seq != 0 {
		t.Fatal("an answer of a peer that was not asked counts")
	}
	// A verified range of another chain.
	l.Reply(now, 3, &LogReply{ID: q.ID, Decisions: []protocol.Decision{decision(1, smr.Digest{66}, true)}}, &out)
	second, q := asked(t, &out)
	if second == 3 {
		t.Fatal("asked again at once")
	}
	l.Expire(now.Add(time.Second), &out) // silent
	third, q := asked(t, &out)
	if third == 3 || third == second {
		t.Fatal("no rotation")
	}
	d1 := decision(1, smr.Digest{}, false)
	d2 := decision(2, d1.Digest, true)
	if _, ok := l.Reply(now, third, &LogReply{ID: q.ID, Decisions: []protocol.Decision{d1}, Bundles: make([][]*smr.Bundle, 1)}, &out); ok {
		t.Fatal("installed without a certificate")
	}
	_, q = asked(t, &out)
	run, ok := l.Reply(now, third, &LogReply{ID: q.ID, Decisions: []protocol.Decision{d2}, Bundles: make([][]*smr.Bundle, 1), Proof: []byte{1}}, &out)
	if !ok || len(run.Decisions) != 2 || len(run.Proof) != 1 || !l.Active() {
		t.Fatalf("run of %d", len(run.Decisions))
	}
	asked(t, &out)
	l.Advanced(now, Position{Seq: 3}, &out)
	if l.Active() {
		t.Fatal("goes on after the target was reached")
	}
}

func TestStateTransferIsNeededOnceOneCorrectPeerSaysSo(t *testing.T) {
	w := newWorld(t, 4)
	l := NewLog(1, w.m, LogConfig{Retry: time.Second, MaxBytes: 1000, MaxHeld: 5000})
	var out Effects
	now := time.Unix(0, 0)
	l.Catch(now, Position{}, 30, nil, &out)
	for i := range 2 {
		to, q := asked(t, &out)
		l.Reply(now, to, &LogReply{ID: q.ID, First: 20}, &out)
		if l.NeedsState() != (i == 1) {
			t.Fatalf("after %d answers: %v", i+1, l.NeedsState())
		}
		out.Reset()
		now = now.Add(time.Second)
		l.Expire(now, &out)
	}
	if !l.Active() {
		t.Fatal("stopped asking")
	}
}

func TestTheReadGateIsTheHighestLockOfAQuorum(t *testing.T) {
	w := newWorld(t, 4)
	v := NewView(1, w.m, time.Second)
	var out Effects
	v.Start(time.Unix(0, 0), protocol.Mark{}, protocol.Mark{Epoch: 1, View: 1, Seq: 4}, true, &out)
	v.Reply(2, ViewReply{ID: 1, Lock: protocol.Mark{Epoch: 1, View: 0, Seq: 9}}, &out)
	v.Reply(2, ViewReply{ID: 1, Lock: protocol.Mark{Epoch: 1, View: 0, Seq: 9}}, &out)
	if _, known := v.Gate(); known || v.Voting() {
		t.Fatal("one peer answered twice and counts as a quorum")
	}
	v.Reply(9, ViewReply{ID: 1}, &out)
	v.Reply(3, ViewReply{ID: 1, Lock: protocol.Mark{Epoch: 1, View: 2, Seq: 6}}, &out)
	if gate, known := v.Gate(); !known || gate != 6 || !v.Voting() || v.Active() {
		t.Fatalf("gate %d %v", gate, known)
	}
}

func TestALogReplyIsCutAtAProof(t *testing.T) {
	q := LogRequest{After: 0, Upto: 9, MaxBytes: 100}
	e := func(n int, proof string) LogEntry { return LogEntry{Header: make([]byte, n), Proof: []byte(proof)} }
	counted := func(payload []byte) [2]int {
		c, err := logReplySchema.Check(payload)
		if err != nil {
			t.Fatal(err)
		}
		return [2]int(c[:2])
	}
	payload, more := EncodeLogReply(q, []LogEntry{e(10, ""), e(10, "p"), e(10, "")}, 1)
	if got := counted(payload); more || got != [2]int{2, 0} {
		t.Fatalf("entries and links: %d", got)
	}
	payload, more = EncodeLogReply(q, []LogEntry{e(70, ""), e(70, ""), e(10, "p")}, 1)
	if got := counted(payload); more || got != [2]int{1, 2} {
		t.Fatalf("entries and links: %d", got)
	}
	if _, more = EncodeLogReply(q, []LogEntry{e(70, ""), e(70, "")}, 1); !more {
		t.Fatal("does not read on for a proof")
	}
}

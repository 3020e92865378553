package engine

import (
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/wire"
)

func must1(t *testing.T, s *shuttle, ok bool, what string) {
	t.Helper()
	if !ok {
		s.report()
		t.Fatal(what)
	}
}

func all(n int) []smr.NodeID {
	var ids []smr.NodeID
	for i := 1; i <= n; i++ {
		ids = append(ids, smr.NodeID(i))
	}
	return ids
}

func TestAClusterDecidesWhatClientsSend(t *testing.T) {
	s := newShuttle(t, 4, fakeFactory(), nil)
	s.startAll()
	s.run(50*time.Millisecond, nil)
	var bs []*smr.Bundle
	for i := range 20 {
		b := s.bundle(smr.ClientID(1 + i%3))
		bs = append(bs, b)
		s.submit(b, all(4)...)
	}
	must1(t, s, s.run(5*time.Second, s.allHave(bs...)), "not everything was decided")
	s.agree()
	for _, n := range s.nodes {
		st := n.e.Status()
		if st.Pool.Bundles != 0 || st.Pool.Bytes != 0 || st.Pool.Proposable != 0 || st.Mode != ModeNormal || !st.Readable {
			t.Fatalf("node %d: %+v", n.id, st)
		}
	}
}

func TestABundleThatOnlyThePrimaryHoldsIsFetched(t *testing.T) {
	s := newShuttle(t, 4, fakeFactory(), nil)
	s.startAll()
	s.run(50*time.Millisecond, nil)
	b := s.bundle(1)
	s.submit(b, 1)
	must1(t, s, s.run(5*time.Second, s.allHave(b)), "not decided")
	fetches, inlined := 0, 0
	s.cut = func(_, _ smr.NodeID, f Frame) bool {
		if f.Class == wire.ClassFetch {
			fetches++
		}
		if f.Class == wire.ClassProtocol && f.Kind == 1 {
			inlined++
		}
		return false
	}
	c := s.bundle(1)
	s.submit(c, 1)
	must1(t, s, s.run(5*time.Second, s.allHave(c)), "not decided")
	if fetches != 0 || inlined == 0 {
		t.Fatalf("a client's bundle that had to be fetched before is not inlined: %d fetches", fetches)
	}
}

func TestABundleThatOnlyABackupHoldsIsForwarded(t *testing.T) {
	s := newShuttle(t, 4, fakeFactory(), nil)
	s.startAll()
	s.run(50*time.Millisecond, nil)
	b := s.bundle(1)
	s.submit(b, 3)
	must1(t, s, s.run(5*time.Second, s.allHave(b)), "not decided")
}

func TestNothingLeavesBeforeItIsDurable(t *testing.T) {
	s := newShuttle(t, 4, fakeFactory(), nil)
	s.startAll()
	s.run(50*time.Millisecond, nil)
	s.nodes[1].unsynced = 1 << 30
	acks := 0
	s.cut = func(from, _ smr.NodeID, f Frame) bool {
		if from == 2 && f.Class == wire.ClassProtocol {
			acks++
		}
		return false
	}
	b := s.bundle(1)
	s.submit(b, all(4)...)
	s.run(time.Second, nil)
	if acks != 0 || s.nodes[1].e.Status().Pool.UnwrittenFrames == 0 {
		t.Fatalf("%d messages left a replica whose disk stands still", acks)
	}
	if !s.nodes[0].has(b) {
		t.Fatal("the others do not go on")
	}
}

func TestALaggingReplicaCatchesUpFromLogs(t *testing.T) {
	s := newShuttle(t, 4, fakeFactory(), nil)
	s.startAll()
	s.run(50*time.Millisecond, nil)
	s.stop(4)
	var bs []*smr.Bundle
	for range 200 {
		b := s.bundle(1)
		bs = append(bs, b)
		s.submit(b, 1, 2, 3)
		s.run(2*time.Millisecond, nil)
	}
	must1(t, s, s.run(5*time.Second, s.allHave(bs...)), "three do not decide")
	s.start(4)
	s.run(100*time.Millisecond, nil)
	last := s.bundle(1)
	s.submit(last, 1, 2, 3)
	must1(t, s, s.run(10*time.Second, s.allHave(append(bs, last)...)), "the lagging one stays behind")
	s.agree()
	// What it took over is in its own log.
	s.stop(4)
	n := s.start(4)
	if got := n.e.Status().Decided; got < 10 {
		t.Fatalf("after a restart %d decisions are known", got)
	}
}

func TestARestartDeliversTheLogAgain(t *testing.T) {
	s := newShuttle(t, 4, fakeFactory(), nil)
	s.startAll()
	s.run(50*time.Millisecond, nil)
	var bs []*smr.Bundle
	for range 10 {
		b := s.bundle(2)
		bs = append(bs, b)
		s.submit(b, all(4)...)
		s.run(20*time.Millisecond, nil)
	}
	must1(t, s, s.run(time.Second, s.allHave(bs...)), "not decided")
	for id := range smr.NodeID(4) {
		s.stop(id + 1)
	}
	s.startAll()
	must1(t, s, s.run(2*time.Second, s.allHave(bs...)), "not delivered again")
	b := s.bundle(2)
	s.submit(b, all(4)...)
	must1(t, s, s.run(2*time.Second, s.allHave(b)), "does not go on")
}

func TestCheckpointsAreDueAtEqualPlacesAndBecomeStable(t *testing.T) {
	s := newShuttle(t, 4, fakeFactory(), func(c *Config) { c.CheckpointBytes = 2000 })
	s.startAll()
	s.run(50*time.Millisecond, nil)
	for range 60 {
		s.submit(s.bundle(1), all(4)...)
		s.run(5*time.Millisecond, nil)
	}
	s.run(time.Second, nil)
	stable := s.nodes[0].e.Status().Stable
	if stable == 0 {
		s.report()
		t.Fatal("no checkpoint became stable")
	}
	due := func(n *node) (seqs []smr.SeqNo) {
		for _, d := range n.applied {
			if d.Checkpoint {
				seqs = append(seqs, d.Decision.Seq)
			}
		}
		return seqs
	}
	want := due(s.nodes[0])
	for _, n := range s.nodes {
		got := due(n)
		for i := range min(len(got), len(want)) {
			if got[i] != want[i] {
				t.Fatalf("checkpoints of node %d are due at %v, of node 1 at %v", n.id, got, want)
			}
		}
		if n.cert.Seq() != stable {
			t.Fatalf("node %d holds the certificate of %d, want %d", n.id, n.cert.Seq(), stable)
		}
	}
}

func TestAForgottenVoteKeepsAReplicaAnObserver(t *testing.T) {
	s := newShuttle(t, 4, fakeFactory(), nil)
	n := s.nodes[0]
	n.e = New(s.config(1))
	var out Output
	n.e.Start(s.now, Boot{}, &out)
	if len(out.Send) == 0 || !out.ReadClosed {
		t.Fatal("nobody is asked, or reads are open")
	}
	reply := func(from smr.NodeID, seen, lock smr.SeqNo) {
		r := transfer.ViewReply{ID: 1, Asker: 1, Seen: protocol.Mark{Epoch: 1, Seq: seen}, Lock: protocol.Mark{Epoch: 1, Seq: lock}}
		n.e.Receive(s.now, from, viewReply{r}, &out)
	}
	reply(2, 9, 5)
	reply(3, 0, 0)
	if st := n.e.Status(); st.Mode != ModeObserver || st.Ordering.Voting || st.Readable || st.ReadGate != 5 {
		t.Fatalf("%+v", st)
	}
	reply(2, 0, 5) // what was proven stays proven
	reply(4, 0, 0)
	if st := n.e.Status(); st.Mode != ModeObserver || st.Ordering.Voting {
		t.Fatalf("%+v", st)
	}
}

func TestABoundedPoolKeepsASlotForForwarders(t *testing.T) {
	s := newShuttle(t, 4, fakeFactory(), nil)
	lim := Config{Limits: Limits{ClientBundles: 2}}
	lim.setDefaults()
	st := newStore(lim.Limits, nil)
	client := auth.ClientIdentity(1)
	var bs []*smr.Bundle
	for range 6 {
		bs = append(bs, s.bundle(1))
	}
	for i, want := range []string{"", "", "client-full"} {
		if got := st.admit(s.now, bs[i+1], client); got != want {
			t.Fatalf("bundle %d: %q, want %q", i, got, want)
		}
	}
	if got := st.admit(s.now, bs[5], auth.NodeIdentity(2)); got != "" {
		t.Fatalf("forwarded: %q", got)
	}
	if got := st.admit(s.now, bs[0], auth.NodeIdentity(2)); got != "" {
		t.Fatalf("a lower op does not take the slot: %q", got)
	}
	if _, ok := st.get(bs[5].ID); ok || st.pooled != 3 || st.free != 3 {
		t.Fatalf("the higher op stays: pooled %d free %d", st.pooled, st.free)
	}
	x, _ := st.get(bs[1].ID)
	st.propose(x)
	st.hold(x)
	if st.free != 2 || !st.release(x) || st.free != 3 {
		t.Fatalf("free %d", st.free)
	}
	st.hold(x)
	st.decide(x, true)
	if st.free != 2 || st.pooled != 2 || st.retained.count != 1 {
		t.Fatalf("after decision: %+v", st.retained)
	}
	if got := st.admit(s.now, bs[1], client); got != "bundle-duplicate" {
		t.Fatalf("a decided bundle is pooled again: %q", got)
	}
}

func TestTimersStoppedOrSetAgainDoNotExpire(t *testing.T) {
	var o Output
	o.setTimer(5, time.Second)
	o.stopTimer(5)
	if len(o.SetTimer) != 0 {
		t.Fatal("a stopped timer is set")
	}
	o.setTimer(5, time.Second)
	o.setTimer(5, 2*time.Second)
	if len(o.SetTimer) != 1 || o.SetTimer[0].After != 2*time.Second {
		t.Fatal("the newest wish does not stand")
	}
}

package engine

import (
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/wire"
)

// load submits count bundles to the running nodes, one every gap.
func (s *shuttle) load(count int, gap time.Duration, to ...smr.NodeID) []*smr.Bundle {
	var bs []*smr.Bundle
	for i := range count {
		b := s.bundle(smr.ClientID(1 + i%4))
		bs = append(bs, b)
		s.submit(b, to...)
		s.run(gap, nil)
	}
	return bs
}

func (s *shuttle) noDivergence(t *testing.T) {
	t.Helper()
	s.agree()
	for _, n := range s.nodes {
		for _, ev := range n.notes {
			switch ev.Kind {
			case transfer.EventDivergence, transfer.EventAmnesia, protocol.EventEvidence:
				t.Fatalf("node %d: %+v", n.id, ev)
			}
		}
	}
}

func TestPBFTDecides(t *testing.T) {
	s := newShuttle(t, 4, pbft.Factory(), nil)
	s.startAll()
	s.run(100*time.Millisecond, nil)
	bs := s.load(100, time.Millisecond, all(4)...)
	must1(t, s, s.run(5*time.Second, s.allHave(bs...)), "not everything was decided")
	s.noDivergence(t)
	for _, n := range s.nodes {
		st := n.e.Status()
		if st.Pool.Bundles != 0 || st.Pool.Proposable != 0 || st.Pool.Wanted != 0 || st.Ordering.View != 0 {
			t.Fatalf("node %d: %+v", n.id, st)
		}
	}
}

func TestPBFTFetchesWhatOnlyOneHolds(t *testing.T) {
	s := newShuttle(t, 4, pbft.Factory(), nil)
	s.startAll()
	s.run(100*time.Millisecond, nil)
	bs := append(s.load(10, time.Millisecond, 1), s.load(10, time.Millisecond, 3)...)
	must1(t, s, s.run(5*time.Second, s.allHave(bs...)), "not everything was decided")
	s.noDivergence(t)
}

func TestPBFTReplacesADeadPrimary(t *testing.T) {
	s := newShuttle(t, 4, pbft.Factory(), nil)
	s.startAll()
	s.run(100*time.Millisecond, nil)
	bs := s.load(20, time.Millisecond, all(4)...)
	s.stop(1)
	bs = append(bs, s.load(20, time.Millisecond, 2, 3, 4)...)
	must1(t, s, s.run(20*time.Second, s.allHave(bs...)), "nobody takes over")
	must1(t, s, s.nodes[1].e.Status().Ordering.View > 0, "decided without a primary")
	s.start(1)
	must1(t, s, s.run(20*time.Second, s.allHave(bs...)), "the old primary does not catch up")
	bs = append(bs, s.load(20, time.Millisecond, all(4)...)...)
	must1(t, s, s.run(20*time.Second, s.allHave(bs...)), "does not go on")
	s.noDivergence(t)
}

func TestPBFTSurvivesTheRestartOfAll(t *testing.T) {
	s := newShuttle(t, 4, pbft.Factory(), func(c *Config) { c.CheckpointBytes = 4000 })
	s.startAll()
	s.run(100*time.Millisecond, nil)
	var acked []*smr.Bundle
	for round := range 5 {
		bs := s.load(30, time.Millisecond, all(4)...)
		if round%2 == 0 { // cut off in mid-flight
			for _, b := range bs {
				if s.nodes[1].has(b) && s.nodes[2].has(b) && s.nodes[3].has(b) {
					acked = append(acked, b)
				}
			}
		} else {
			must1(t, s, s.run(20*time.Second, s.allHave(bs...)), "not decided")
			acked = append(acked, bs...)
		}
		for _, id := range all(4) {
			s.stop(id)
		}
		s.startAll()
		must1(t, s, s.run(20*time.Second, s.allHave(acked...)), "acknowledged bundles are lost")
		s.noDivergence(t)
		for _, n := range s.nodes {
			must1(t, s, s.run(20*time.Second, func() bool { st := n.e.Status(); return st.Mode == ModeNormal && st.Readable }), "a replica does not come back")
		}
	}
}

func TestPBFTCatchesUpAReplicaThatWasAway(t *testing.T) {
	s := newShuttle(t, 4, pbft.Factory(), nil)
	s.startAll()
	s.run(100*time.Millisecond, nil)
	s.stop(3)
	bs := s.load(400, time.Millisecond, 1, 2, 4)
	s.start(3)
	must1(t, s, s.run(20*time.Second, s.allHave(bs...)), "stays behind")
	s.noDivergence(t)
}

func TestPBFTAPrimaryThatIgnoresAClientIsReplaced(t *testing.T) {
	s := newShuttle(t, 4, pbft.Factory(), func(c *Config) { c.Limits.OvertakeBytes = 10_000 })
	s.startAll()
	s.run(100*time.Millisecond, nil)
	s.nodes[0].admit = false // drops whatever is forwarded to it
	victim := s.bundle(9)
	s.submit(victim, 2, 3, 4)
	for range 400 {
		s.submit(s.bundle(1), all(4)...)
		if s.run(10*time.Millisecond, s.allHave(victim)) {
			break
		}
	}
	must1(t, s, s.run(20*time.Second, s.allHave(victim)), "censored for ever")
	suspected := false
	for _, ev := range s.nodes[1].notes {
		suspected = suspected || ev.Kind == "suspect" && ev.Detail == "censorship"
	}
	must1(t, s, suspected && s.nodes[1].e.Status().Ordering.View > 0, "the primary was not replaced for censorship")
	s.noDivergence(t)
}

func TestPBFTALiarDoesNotKeepARestartedReplicaFromVoting(t *testing.T) {
	s := newShuttle(t, 4, pbft.Factory(), nil)
	s.startAll()
	s.run(100*time.Millisecond, nil)
	s.load(10, time.Millisecond, all(4)...)
	s.stop(4)
	s.stop(3) // away: the liar's answer is needed
	s.cut = func(from, _ smr.NodeID, f Frame) bool { return from == 2 && f.Class == wire.ClassViewTransfer }
	n := s.start(4)
	evidence := s.nodes[0].e.ord.Evidence(4)
	evidence[len(evidence)-1] ^= 1
	lie := transfer.EncodeViewReply(transfer.ViewReply{ID: 1, Epoch: 1, Asker: 4}, nil, evidence)
	m, err := n.dec.Decode(2, wire.ClassViewTransfer, wire.KindAnswer, lie)
	if err != nil {
		t.Fatal(err)
	}
	n.do(func() { n.e.Receive(s.now, 2, m, &n.out) })
	must1(t, s, s.run(5*time.Second, func() bool { return n.e.Status().Ordering.Voting }), "a lie keeps it an observer")
	for _, c := range n.e.Status().Drops {
		if c.Reason == "view-reply-unproven" && c.N == 1 {
			return
		}
	}
	t.Fatal("the lie is not counted")
}

func TestPBFTAReplicaThatLostItsLogStaysAnObserver(t *testing.T) {
	s := newShuttle(t, 4, pbft.Factory(), nil)
	s.startAll()
	s.run(100*time.Millisecond, nil)
	s.load(10, time.Millisecond, all(4)...)
	s.run(time.Second, nil)
	s.stop(4)
	s.nodes[3].records, s.nodes[3].bundles, s.nodes[3].logged = nil, nil, map[smr.SeqNo]transfer.LogEntry{}
	n := s.start(4)
	s.run(5*time.Second, nil)
	if st := n.e.Status(); st.Ordering.Voting || st.Mode == ModeNormal {
		t.Fatalf("%+v", st)
	}
	bs := s.load(10, time.Millisecond, 1, 2, 3)
	must1(t, s, s.run(20*time.Second, s.allHave(bs...)), "it does not follow")
}

func TestPBFTRunsAreRepeatable(t *testing.T) {
	trace := func() (d smr.Digest) {
		s := newShuttle(t, 4, pbft.Factory(), nil)
		s.startAll()
		s.run(100*time.Millisecond, nil)
		s.load(30, time.Millisecond, all(4)...)
		s.stop(1)
		s.load(30, time.Millisecond, 2, 3, 4)
		s.run(5*time.Second, nil)
		return s.nodes[1].applied[len(s.nodes[1].applied)-1].Decision.Digest
	}
	if a, b := trace(), trace(); a != b {
		t.Fatal("equal inputs, other effects")
	}
}

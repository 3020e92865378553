package pbft

import (
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
)

// resent lists the prepares that a replica sends again to a peer.
func (b *bench) resent(to smr.NodeID) []*Vote {
	out := b.do(func(out *protocol.Effects) { b.r.Connected(b.now, to, out) })
	var vs []*Vote
	for _, o := range out.SendDurable {
		if v, ok := o.Msg.(*Vote); ok && v.Kind() == kindPrepare {
			vs = append(vs, v)
		}
	}
	return vs
}

func TestNoPrepareIsSentAgainThatWasNeverSent(t *testing.T) {
	t.Run("the record of the vote was lost", func(t *testing.T) {
		b := newBench(t, 4, 2)
		p := b.proposal(0, nil)
		twin := b.signed(Header{Epoch: 1, Seq: 1, Time: p.Header.Time + 1})
		b.receive(1, p)
		if b.log[0].Kind != protocol.RecordProposal {
			t.Fatalf("records: %+v", b.log)
		}
		b.log = b.log[:1] // the vote was not durable, so it never left
		b.restart()
		wantVotes(t, b.receive(1, twin), kindPrepare, 1, "the only vote")
		if vs := b.resent(3); len(vs) != 1 || vs[0].digest() != twin.Header.Digest {
			t.Fatalf("%d prepares are sent again", len(vs))
		}
	})
	t.Run("the record of the decision was lost", func(t *testing.T) {
		b := newBench(t, 4, 2)
		p := b.proposal(0, nil)
		twin := b.signed(Header{Epoch: 1, Seq: 1, Time: p.Header.Time + 1})
		b.receive(1, p)
		before := len(b.log)
		b.receive(1, b.cert(auth.KindCommit, twin.Header))
		if len(b.log) == before || b.log[before].Kind != protocol.RecordProposal {
			t.Fatalf("records: %+v", b.log[before:])
		}
		b.log = b.log[:before+1]
		b.restart()
		if vs := b.resent(3); len(vs) != 1 || vs[0].digest() != p.Header.Digest {
			t.Fatalf("%d prepares are sent again", len(vs))
		}
	})
	t.Run("those on the way to the newest are", func(t *testing.T) {
		b := newBench(t, 4, 2)
		p := b.proposal(0, nil)
		b.receive(1, p)
		b.receive(1, b.proposal(0, p.Header))
		b.restart()
		if vs := b.resent(3); len(vs) != 2 {
			t.Fatalf("%d prepares are sent again", len(vs))
		}
	})
}

func TestProgressDoesNotVoidASuspicion(t *testing.T) {
	suspect := func(b *bench) *Complaint {
		cs := sends[*Complaint](b.do(func(out *protocol.Effects) { b.r.Suspect(b.now, nil, out) }).Send)
		if len(cs) != 1 {
			t.Fatalf("%d complaints", len(cs))
		}
		return cs[0]
	}
	other, b := newBench(t, 4, 3), newBench(t, 4, 2)
	c := suspect(other)
	var parent *Header
	for range 3 { // a censor orders what others send
		p := b.proposal(0, parent, smr.BundleRef{ID: smr.BundleID{byte(len(b.log) + 1)}, Bytes: 5})
		b.receive(1, p)
		b.receive(1, b.cert(auth.KindCommit, p.Header))
		parent = p.Header
	}
	if b.r.decided.seq != 3 {
		t.Fatal("nothing was decided")
	}
	b.receive(3, c)
	suspect(b)
	if b.r.own == nil {
		t.Fatal("two replicas that suspect the primary at the same time cannot remove it while it decides")
	}
	// A suspicion that is not said again ends with time.
	b = newBench(t, 4, 2)
	b.receive(3, c)
	b.now = b.now.Add(time.Minute)
	suspect(b)
	if b.r.own != nil {
		t.Fatal("an old suspicion counts for ever")
	}
}

func TestAReferenceThatLiesAboutTheLengthIsRefused(t *testing.T) {
	b := newBench(t, 4, 2)
	id := smr.BundleID{1}
	b.r.p.Length = func(smr.BundleID) int { return 5 }
	wantVotes(t, b.receive(1, b.proposal(0, nil, smr.BundleRef{ID: id, Bytes: 4})), kindPrepare, 0, "a bundle of another length")
	wantVotes(t, b.receive(1, b.proposal(0, nil, smr.BundleRef{ID: id, Bytes: 5})), kindPrepare, 1, "the true length")
}

func TestQuestionsThatAViewChangeMadeMootAreWithdrawn(t *testing.T) {
	b := newBench(t, 4, 3)
	p := b.proposal(0, nil)
	for _, id := range []smr.NodeID{1, 2, 4} { // prepared, but this replica lacks the header
		b.receive(id, b.vote(id, auth.KindPrepare, p.Header))
	}
	if len(b.r.wanted) != 1 {
		t.Fatalf("wanted %v", b.r.wanted)
	}
	b.receive(2, b.timeoutCert(0, nil, nil, nil))
	found := 0
	for range 2 {
		var out protocol.Effects
		b.r.Expire(b.now, timerResend, &out)
		found += len(out.Found)
		for _, n := range out.Fetch {
			if n.Ask != nil {
				t.Fatalf("asks again for %s", n.Key)
			}
		}
	}
	if found != 1 {
		t.Fatalf("%d questions were withdrawn", found)
	}
}

func TestARestartDoesNotHoldWhatTheViewPassedOver(t *testing.T) {
	b := newBench(t, 4, 2) // primary of view 1
	p := b.proposal(0, nil, smr.BundleRef{ID: smr.BundleID{1}, Bytes: 5})
	b.receive(1, p)
	b.receive(3, b.timeoutCert(0, nil, nil, nil))
	if x := b.r.blocks[p.Header.Digest]; b.r.view != 1 || x == nil || x.live {
		t.Fatalf("view %d, %+v", b.r.view, x)
	}
	b.restart()
	if x := b.r.blocks[p.Header.Digest]; x == nil || x.live {
		t.Fatal("the bundles of a proposal that was passed over cannot be proposed after a restart")
	}
}

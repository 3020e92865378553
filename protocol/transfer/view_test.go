package transfer

import (
	"testing"
	"time"

	"github.com/atlas-smr/smr/protocol"
)

func drops(out *Effects, reason string) (n int) {
	for _, ev := range out.Note {
		if ev.Kind == protocol.EventDrop && ev.Detail == reason {
			n++
		}
	}
	return n
}

func TestAWordWithoutEvidenceKeepsNobodyFromVoting(t *testing.T) {
	w := newWorld(t, 4)
	v := NewView(1, w.m, time.Second)
	var out Effects
	v.Start(time.Unix(0, 0), protocol.Mark{Epoch: 1, Seq: 3}, protocol.Mark{}, true, &out)
	high := protocol.Mark{Epoch: 1, View: 99, Seq: 1}
	v.Reply(2, ViewReply{ID: 1, Asker: 1, Unproven: true}, &out)
	v.Reply(2, ViewReply{ID: 1, Asker: 3, Seen: high}, &out) // evidence, but against another
	if drops(&out, "view-reply-unproven") != 2 || v.Blocked() || v.Voting() {
		t.Fatalf("%d drops, blocked %v", drops(&out, "view-reply-unproven"), v.Blocked())
	}
	v.Reply(3, ViewReply{ID: 1, Asker: 1, Seen: protocol.Mark{Epoch: 1, Seq: 3}}, &out)
	if !v.Voting() || v.Active() {
		t.Fatal("a liar is no answer: the replica never votes")
	}
}

func TestEvidenceOfAForgottenVoteStands(t *testing.T) {
	w := newWorld(t, 4)
	v := NewView(1, w.m, time.Second)
	var out Effects
	v.Start(time.Unix(0, 0), protocol.Mark{Epoch: 1, Seq: 3}, protocol.Mark{}, true, &out)
	v.Reply(2, ViewReply{ID: 1, Asker: 1, Seen: protocol.Mark{Epoch: 1, Seq: 4}}, &out)
	v.Reply(2, ViewReply{ID: 1, Asker: 1}, &out) // it forgot, too
	v.Reply(3, ViewReply{ID: 1, Asker: 1, Lock: protocol.Mark{Epoch: 1, Seq: 9}}, &out)
	gate, known := v.Gate()
	if v.Voting() || !v.Blocked() || v.Active() || !known || gate != 9 || v.Why() == "" {
		t.Fatalf("voting %v blocked %v active %v gate %d %v", v.Voting(), v.Blocked(), v.Active(), gate, known)
	}
}

func TestAViewReplyCarriesItsEvidence(t *testing.T) {
	raw := EncodeViewReply(ViewReply{ID: 4, Epoch: 1, View: 2, Decided: 3, Asker: 7}, make([]byte, 8), []byte{0, 0, 0, 0, 0, 0, 0, 5})
	r, err := DecodeViewReply(plainCodec{}, raw)
	if err != nil || r.Asker != 7 || r.Seen.Seq != 5 || r.Unproven || r.Decided != 3 {
		t.Fatalf("%+v %v", r, err)
	}
	r, err = DecodeViewReply(plainCodec{}, EncodeViewReply(ViewReply{ID: 4, Asker: 7}, nil, []byte{5}))
	if err != nil || r.Seen != (protocol.Mark{}) || !r.Unproven {
		t.Fatalf("bad evidence: %+v %v", r, err)
	}
}

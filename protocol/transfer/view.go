package transfer

import (
	"fmt"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// View is view transfer as a starting replica needs it. It asks every voter for the highest vote
// of this replica that it has seen and for its lock, until a quorum (this replica included)
// answered. Two things follow:
//
//   - amnesia check: if no answer shows a vote above the own log's, the replica may vote;
//   - read gate: the highest lock of the quorum must be decided and executed here before the
//     replica answers an unordered request again.
//
// An answer that shows a vote the own log lacks keeps the replica an observer for good. The answer
// must carry that vote, signed by this replica: an answerer's word alone keeps nobody from voting.
type View struct {
	self    smr.NodeID
	m       *quorum.Membership
	retry   time.Duration
	answers *Answers[ViewReply]
	id      uint64
	voted   protocol.Mark // highest own vote in the own log
	lock    protocol.Mark // own lock at start
	active  bool
	check   bool // the amnesia check is wanted
	complete
}

type complete struct {
	votes bool       // the amnesia check passed
	locks bool       // a quorum reported its locks
	gate  smr.SeqNo  // valid if locks
	above smr.NodeID // who proved a vote above ours; 0 = nobody
	seen  protocol.Mark
}

// NewView returns the idle machine; retry is the time between two askings.
func NewView(self smr.NodeID, m *quorum.Membership, retry time.Duration) *View {
	return &View{self: self, m: m, retry: retry}
}

// Start begins asking. voted and lock are the replica's own, from its log. check says whether the
// amnesia check is wanted; the read gate always is.
func (v *View) Start(now time.Time, voted, lock protocol.Mark, check bool, out *Effects) {
	v.answers = NewAnswers[ViewReply](v.m, v.self, 1, v.retry)
	v.id++
	v.voted, v.lock, v.check, v.active, v.complete = voted, lock, check, true, complete{}
	v.judge(out)
	v.ask(now, out)
}

// Reopen closes the read gate and asks a quorum for its locks anew. The amnesia check is not repeated:
// a replica that may vote goes on, and one whose check is under way or failed keeps it.
func (v *View) Reopen(now time.Time, voted, lock protocol.Mark, out *Effects) {
	votes, above, seen, check := v.votes, v.above, v.seen, v.check && !v.votes
	v.Start(now, voted, lock, check, out)
	if above != 0 || votes {
		v.votes, v.above, v.seen = votes, above, seen
	}
}

// Expire asks again.
func (v *View) Expire(now time.Time, out *Effects) { v.ask(now, out) }

func (v *View) ask(now time.Time, out *Effects) {
	if !v.active {
		return
	}
	out.send(wire.ClassViewTransfer, wire.KindQuery, EncodeViewQuery(ViewQuery{ID: v.id}), v.answers.Ask(now, false)...)
	out.arm(TimerView, v.retry)
}

// Connected asks a peer that came up, if its answer is still missing.
func (v *View) Connected(peer smr.NodeID, out *Effects) {
	if !v.active {
		return
	}
	if _, ok := v.answers.Stated(peer); ok {
		return
	}
	if _, voter := v.m.Index(peer); voter {
		out.send(wire.ClassViewTransfer, wire.KindQuery, EncodeViewQuery(ViewQuery{ID: v.id}), peer)
	}
}

// Reply takes an answer.
func (v *View) Reply(from smr.NodeID, r ViewReply, out *Effects) {
	if !v.active || r.ID != v.id {
		return
	}
	r.ID = 0
	if _, voter := v.m.Index(from); !voter || from == v.self {
		out.drop(from, 0, "view-reply-from-stranger")
		return
	}
	if r.Unproven || r.Asker != v.self && r.Seen != (protocol.Mark{}) {
		out.drop(from, 0, "view-reply-unproven")
		r.Unproven, r.Seen = false, protocol.Mark{}
	}
	v.answers.State(from, r)
	v.judge(out)
}

func (v *View) judge(out *Effects) {
	best, before := v.lock, v.above
	for _, id := range v.answers.Peers() {
		r, ok := v.answers.Stated(id)
		if !ok {
			continue
		}
		if best.Less(r.Lock) {
			best = r.Lock
		}
		if v.voted.Less(r.Seen) && v.seen.Less(r.Seen) {
			v.above, v.seen = id, r.Seen
		}
	}
	if v.check && before == 0 && v.above != 0 {
		out.Note = append(out.Note, protocol.Event{Kind: EventAmnesia, Node: v.above, View: v.seen.View, Seq: v.seen.Seq, Detail: v.Why()})
	}
	if v.answers.Answered()+1 < v.m.Quorum() {
		return
	}
	if !v.locks {
		v.locks, v.gate = true, best.Seq
	}
	v.votes = v.votes || !v.check || v.above == 0
	if v.votes || v.above != 0 {
		v.active = false
		out.disarm(TimerView)
	}
}

// Voting reports whether the amnesia check passed (or was not wanted and a quorum answered).
func (v *View) Voting() bool { return v.votes }

// Gate returns the read gate, and whether it is known.
func (v *View) Gate() (smr.SeqNo, bool) { return v.gate, v.locks }

// Active reports whether answers are still awaited.
func (v *View) Active() bool { return v.active }

// Why says in a sentence what is missing, for an operator.
func (v *View) Why() string {
	switch {
	case v.check && v.above != 0:
		return fmt.Sprintf("node %d has seen a vote of this replica (epoch %d, view %d, seq %d) that its log lacks: it does not vote until replaced",
			v.above, v.seen.Epoch, v.seen.View, v.seen.Seq)
	case v.active:
		return fmt.Sprintf("asking what others have seen of this replica: %d of %d answered", v.answers.Answered()+1, v.m.Quorum())
	}
	return ""
}

// Blocked reports whether an answer shows a vote of this replica that its log lacks.
func (v *View) Blocked() bool { return v.check && v.above != 0 }

package transfer

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// Position is a place in the chain of decisions.
type Position struct {
	Seq    smr.SeqNo
	Digest smr.Digest // chain digest at Seq
}

// Run is what log transfer yields: verified decisions with their bundles, the last of which carries
// its certificate.
type Run struct {
	Decisions []protocol.Decision
	Bundles   [][]*smr.Bundle
	Proof     []byte // encoded certificate of the last decision
}

// LogConfig bounds log transfer.
type LogConfig struct {
	Retry    time.Duration // a peer that has not answered by then is passed over
	MaxBytes int           // asked for per reply
	// MaxHeld bounds the bytes of verified decisions held while no certificate for one of them has
	// come; beyond it they are dropped and asked for again elsewhere.
	MaxHeld int
}

// Log is log catch-up: it fetches the decisions above a position from one peer at a time, in
// rotation, until a target is reached. Replies arrive verified; Log checks that they continue the
// own chain. It holds back decisions until one with a certificate has come, since only that can be
// installed.
type Log struct {
	cfg     LogConfig
	self    smr.NodeID
	m       *quorum.Membership
	peers   []smr.NodeID // rotation
	next    int
	active  bool
	at      Position // newest decision held or installed
	from    Position // where held starts
	target  smr.SeqNo
	id      uint64
	asked   smr.NodeID
	held    Run
	bytes   int
	gone    *Answers[bool] // true: the answerer's log begins above what is lacking
	needing bool
	replies uint64
}

// NewLog returns the idle machine.
func NewLog(self smr.NodeID, m *quorum.Membership, cfg LogConfig) *Log {
	return &Log{cfg: cfg, self: self, m: m}
}

// Active reports whether decisions are being fetched.
func (l *Log) Active() bool { return l.active }

// Target returns the sequence number to reach.
func (l *Log) Target() smr.SeqNo { return l.target }

// NeedsState reports whether f+1 peers said that their logs no longer hold what is lacking: state
// transfer is needed. Asking goes on meanwhile.
func (l *Log) NeedsState() bool { return l.active && l.needing }

// Catch starts, or widens, the fetching of everything above at up to target, from peers first.
func (l *Log) Catch(now time.Time, at Position, target smr.SeqNo, peers []smr.NodeID, out *Effects) {
	if target <= at.Seq {
		return
	}
	l.target = max(l.target, target)
	if l.active {
		return
	}
	l.active, l.next, l.needing = true, 0, false
	l.peers = l.rotation(peers, at.Seq)
	l.gone = NewAnswers[bool](l.m, l.self, l.m.Weak(), l.cfg.Retry)
	l.reset(at)
	l.ask(now, out)
}

// rotation puts preferred peers first, then every other voter, starting at a place that differs
// between replicas and positions.
func (l *Log) rotation(preferred []smr.NodeID, at smr.SeqNo) []smr.NodeID {
	var ids []smr.NodeID
	add := func(id smr.NodeID) {
		for _, have := range ids {
			if have == id {
				return
			}
		}
		if _, ok := l.m.Index(id); ok && id != l.self {
			ids = append(ids, id)
		}
	}
	for _, id := range preferred {
		add(id)
	}
	voters := l.m.Voters()
	for i := range voters {
		add(voters[(i+int(l.self)+int(at%smr.SeqNo(len(voters))))%len(voters)])
	}
	return ids
}

func (l *Log) reset(at Position) {
	l.at, l.from, l.held, l.bytes = at, at, Run{}, 0
}

func (l *Log) ask(now time.Time, out *Effects) {
	if len(l.peers) == 0 {
		l.stop(out)
		return
	}
	l.asked = l.peers[l.next%len(l.peers)]
	l.id++
	q := LogRequest{ID: l.id, After: l.at.Seq, Upto: l.target, MaxBytes: l.cfg.MaxBytes}
	out.send(wire.ClassLogTransfer, wire.KindQuery, EncodeLogRequest(q), l.asked)
	out.arm(TimerLog, l.cfg.Retry)
}

// Advanced says that the replica decided up to at by itself.
func (l *Log) Advanced(now time.Time, at Position, out *Effects) {
	if !l.active || at.Seq <= l.from.Seq {
		return
	}
	switch {
	case at.Seq >= l.target:
		l.stop(out)
	case at.Seq >= l.at.Seq:
		l.reset(at)
		l.gone, l.needing = NewAnswers[bool](l.m, l.self, l.m.Weak(), l.cfg.Retry), false
	default:
		n := int(at.Seq - l.from.Seq)
		l.held.Decisions, l.held.Bundles, l.from = l.held.Decisions[n:], l.held.Bundles[n:], at
	}
}

// Installed says that a checkpoint took the replica to at: what follows is asked for at once.
func (l *Log) Installed(now time.Time, at Position, out *Effects) {
	l.Advanced(now, at, out)
	if l.active {
		l.ask(now, out)
	}
}

// Expire passes over a peer that did not answer in time.
func (l *Log) Expire(now time.Time, out *Effects) {
	if l.active {
		if l.asked != 0 {
			out.drop(l.asked, l.at.Seq, "log-reply-late")
			l.next++
		}
		l.ask(now, out)
	}
}

// Reply takes a verified reply and returns a run to install, if one is complete.
func (l *Log) Reply(now time.Time, from smr.NodeID, r *LogReply, out *Effects) (Run, bool) {
	if !l.active || from != l.asked || r.ID != l.id {
		return Run{}, false // late or unasked: harmless
	}
	if len(r.Decisions) == 0 {
		l.empty(from, r, out)
		return Run{}, false
	}
	skip := 0
	for skip < len(r.Decisions) && r.Decisions[skip].Seq <= l.at.Seq {
		skip++
	}
	if skip == len(r.Decisions) || r.Decisions[skip].Seq != l.at.Seq+1 || r.Decisions[skip].Parent != l.at.Digest {
		// A verified range that does not continue our chain at a place we did not ask for.
		out.drop(from, l.at.Seq, "log-reply-elsewhere")
		l.next++
		l.ask(now, out)
		return Run{}, false
	}
	l.gone, l.needing = NewAnswers[bool](l.m, l.self, l.m.Weak(), l.cfg.Retry), false
	l.replies++
	l.held.Decisions = append(l.held.Decisions, r.Decisions[skip:]...)
	l.held.Bundles = append(l.held.Bundles, r.Bundles[skip:]...)
	l.bytes += r.Bytes
	last := r.Decisions[len(r.Decisions)-1]
	l.at = Position{Seq: last.Seq, Digest: last.Digest}
	if r.Proof == nil || last.Proof == nil {
		if l.bytes > l.cfg.MaxHeld {
			out.drop(from, l.at.Seq, "log-reply-without-certificate")
			l.reset(l.from)
			l.next++
		}
		l.ask(now, out)
		return Run{}, false
	}
	run := l.held
	run.Proof = r.Proof
	l.reset(l.at)
	if l.at.Seq >= l.target {
		l.stop(out)
	} else {
		l.ask(now, out)
	}
	return run, true
}

// empty handles an answer without decisions: another peer is asked at the retry tick, or at once
// the first time round.
func (l *Log) empty(from smr.NodeID, r *LogReply, out *Effects) {
	gone := r.First > l.at.Seq+1
	if l.gone.State(from, gone) && gone && !l.needing {
		l.needing = true
		out.Note = append(out.Note, protocol.Event{Kind: EventNeedState, Seq: l.at.Seq, Detail: "peers' logs begin above what this replica lacks"})
	}
	l.next++
	wait := l.cfg.Retry
	if l.next < len(l.peers) {
		wait = l.cfg.Retry / 16
	}
	l.asked = 0
	out.arm(TimerLog, wait)
}

func (l *Log) stop(out *Effects) {
	l.active, l.needing, l.target, l.held, l.bytes = false, false, 0, Run{}, 0
	out.disarm(TimerLog)
}

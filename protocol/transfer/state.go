package transfer

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// StateConfig bounds state transfer.
type StateConfig struct {
	Deadline  time.Duration // for one answer of a source that has not been late
	Window    int           // bytes asked for and not yet stored
	PerSource int           // questions open at one source
}

// The bounds that nobody has needed to change.
const (
	openQuestions = 256 // asked for or being stored
	pageBytes     = PageLeaves * PartBytes
	lateDoubles   = 5 // a source's deadline doubles so often at most
)

// State is the receiving side of state transfer. It fetches the checkpoint that a certificate names,
// part by part, from several sources at once. What a source says moves nothing: a page must imply the
// certified root, a part must have the digest and length that its page states.
//
// Everything stored goes through StateOps, whose results come back through Done in order.
type State struct {
	cfg   StateConfig
	self  smr.NodeID
	m     *quorum.Membership
	next  auth.CheckpointCert // the newest certificate worth having
	cert  auth.CheckpointCert // what is being transferred; zero: nothing
	phase statePhase
	try   uint64 // results of ops of earlier tries are void
	meta  Meta
	shape *Shape
	pages uint64 // of the descriptor
	paged uint64 // pages taken so far
	begun bool   // the meta is known and storage was told to begin

	queue   []*question // to be asked, in order
	open    []*question // asked, not answered
	storing int         // bytes being stored
	puts    int         // parts being stored
	staging bool

	sources []*source
	turn    int
	gone    *Answers[bool]
	retryAt time.Time // after a failure of storage

	progress Progress
}

type statePhase uint8

const (
	stateIdle statePhase = iota
	stateFetching
	stateAdopting
	stateFailed // storage failed; tried again later
)

// question is a page or part that is lacking.
type question struct {
	what  What
	index uint64
	part  Part
	from  *source // asked; nil: in the queue
	last  *source // who did not deliver it
	due   time.Time
}

func (q *question) bytes() int {
	if q.what == WhatPage {
		return pageBytes
	}
	return int(q.part.Bytes)
}

// source is a voter that may hold the checkpoint.
type source struct {
	id     smr.NodeID
	open   int
	streak int       // late answers since the last good one
	rest   time.Time // it is not asked before
	gone   bool      // it says that it does not hold the checkpoint
	wrong  bool      // it answered wrongly: asked only if nobody else is left
	stats  SourceStats
}

// SourceStats is what one source delivered in this life of the replica.
type SourceStats struct {
	Node                           smr.NodeID
	Parts, Bytes                   uint64 // good ones
	Wrong, Late, Unasked, Refusals uint64
}

// Progress describes a transfer, for status.
type Progress struct {
	Active       bool
	Seq          smr.SeqNo
	Parts, Total uint64 // held here; of the checkpoint, 0 until its meta is known
	Moved, Saved uint64 // bytes that came from sources; that were here already
	Resumed      uint64 // of Saved: left by an interrupted transfer
	Installed    uint64 // transfers completed
	Changed      uint64 // transfers given up for a newer checkpoint
	Adopting     bool
	Failure      string // of storage, until the next try
	Sources      []SourceStats
}

// NewState returns the idle machine.
func NewState(self smr.NodeID, m *quorum.Membership, cfg StateConfig) *State {
	s := &State{cfg: cfg, self: self, m: m}
	for _, id := range m.Voters() {
		if id != self {
			s.sources = append(s.sources, &source{id: id, stats: SourceStats{Node: id}})
		}
	}
	return s
}

// Active reports whether a checkpoint is being transferred or adopted.
func (s *State) Active() bool { return s.phase != stateIdle }

// Progress describes the transfer under way, or the last one.
func (s *State) Progress() Progress {
	p := s.progress
	p.Active, p.Adopting = s.Active(), s.phase == stateAdopting
	for _, x := range s.sources {
		p.Sources = append(p.Sources, x.stats)
	}
	return p
}

// Want says that this replica needs the checkpoint of cert, or a newer one. A transfer under way goes
// on; it changes to cert when its own checkpoint has gone.
func (s *State) Want(now time.Time, cert auth.CheckpointCert, out *Effects) {
	if cert.Seq() > s.next.Seq() {
		s.next = cert
	}
	switch {
	case s.phase == stateIdle, s.phase == stateFailed && !now.Before(s.retryAt):
		s.start(now, out)
	case s.phase == stateFetching && s.next.Seq() > s.cert.Seq() && s.gone.Agreed(true):
		s.progress.Changed++
		s.start(now, out)
	}
}

// Cancel says that the replica decided up to seq by itself: a checkpoint at or below it is pointless.
func (s *State) Cancel(seq smr.SeqNo, out *Effects) {
	if s.Active() && s.phase != stateAdopting && s.cert.Seq() <= seq {
		s.stop(out)
		out.State = append(out.State, StateOp{Try: s.try, Kind: OpDrop})
		s.try++
	}
}

func (s *State) start(now time.Time, out *Effects) {
	s.cert, s.phase = s.next, stateFetching
	s.try++
	s.queue, s.open, s.storing, s.puts, s.staging = nil, nil, 0, 0, false
	s.meta, s.shape, s.pages, s.paged, s.begun = Meta{}, nil, 0, 0, false
	s.gone = NewAnswers[bool](s.m, s.self, s.m.Weak(), s.cfg.Deadline)
	for _, x := range s.sources {
		x.open, x.streak, x.rest, x.gone, x.wrong = 0, 0, time.Time{}, false, false
	}
	p := &s.progress
	p.Seq, p.Parts, p.Total, p.Moved, p.Saved, p.Resumed, p.Failure = s.cert.Seq(), 0, 0, 0, 0, 0, ""
	out.Note = append(out.Note, protocol.Event{Kind: EventStateTransfer, Seq: s.cert.Seq(), Detail: "begins"})
	s.queue = append(s.queue, &question{what: WhatPage})
	s.pump(now, out)
}

func (s *State) stop(out *Effects) {
	s.phase, s.queue, s.open, s.shape = stateIdle, nil, nil, nil
	out.disarm(TimerState)
}

// Expire looks for late answers and asks again.
func (s *State) Expire(now time.Time, out *Effects) {
	if s.phase != stateFetching {
		return // a failed one waits for the next Want
	}
	kept := s.open[:0]
	var again []*question
	for _, q := range s.open {
		if now.Before(q.due) {
			kept = append(kept, q)
			continue
		}
		x := q.from
		x.open--
		x.streak = min(x.streak+1, lateDoubles)
		x.rest = now.Add(s.deadline(x) / 4)
		x.stats.Late++
		out.drop(x.id, s.cert.Seq(), "state-answer-late")
		q.from, q.last = nil, x
		again = append(again, q)
	}
	clear(s.open[len(kept):])
	s.open, s.queue = kept, append(again, s.queue...)
	s.pump(now, out)
}

func (s *State) deadline(x *source) time.Duration { return s.cfg.Deadline << x.streak }

// pump asks for what may be asked for, and goes on to the next page or to adopting.
func (s *State) pump(now time.Time, out *Effects) {
	if s.phase != stateFetching {
		return
	}
	if s.begun && !s.staging && s.paged < s.pages && len(s.queue) < openQuestions && !s.asking(WhatPage) {
		s.queue = append(s.queue, &question{what: WhatPage, index: s.paged})
	}
	if s.begun && s.paged == s.pages && !s.staging && s.puts == 0 && len(s.queue)+len(s.open) == 0 {
		s.phase = stateAdopting
		out.State = append(out.State, StateOp{Try: s.try, Kind: OpAdopt, Root: s.cert.Root(), Meta: s.meta})
		out.disarm(TimerState)
		return
	}
	used := s.storing
	for _, q := range s.open {
		used += q.bytes()
	}
	n := 0
	for _, q := range s.queue {
		if used > 0 && used+q.bytes() > s.cfg.Window || len(s.open)+s.puts >= openQuestions {
			break
		}
		x := s.pick(now, q.last)
		if x == nil {
			break
		}
		used += q.bytes()
		n++
		x.open++
		q.from, q.due = x, now.Add(s.deadline(x))
		s.open = append(s.open, q)
		out.send(wire.ClassStateTransfer, wire.KindQuery, EncodeStateRequest(s.request(q.what, q.index)), x.id)
	}
	clear(s.queue[:n])
	s.queue = s.queue[n:]
	out.arm(TimerState, s.cfg.Deadline/4)
}

func (s *State) request(what What, index uint64) StateRequest {
	return StateRequest{Seq: s.cert.Seq(), Root: s.cert.Root(), What: what, Index: index}
}

func (s *State) asking(what What) bool {
	for _, qs := range [][]*question{s.queue, s.open} {
		for _, q := range qs {
			if q.what == what {
				return true
			}
		}
	}
	return false
}

// pick returns whom to ask: the source that was late least, then the least busy one, in turn; not the
// one that did not deliver if there is another. If all that are left were wrong or said that they do
// not hold the checkpoint, they are asked again.
func (s *State) pick(now time.Time, not *source) *source {
	usable := func(x *source) bool { return !x.gone && !x.wrong }
	any := false
	for _, x := range s.sources {
		any = any || usable(x)
	}
	if !any {
		usable = func(*source) bool { return true }
	}
	var best *source
	for i := range s.sources {
		x := s.sources[(s.turn+i)%len(s.sources)]
		switch {
		case !usable(x) || x.open >= s.cfg.PerSource || now.Before(x.rest):
		case best == nil, best == not, x != not && (x.streak < best.streak || x.streak == best.streak && x.open < best.open):
			best = x
		}
	}
	s.turn++
	return best
}

// Reply takes a decoded answer.
func (s *State) Reply(now time.Time, from smr.NodeID, r *StateReply, out *Effects) {
	x := s.source(from)
	if x == nil || s.phase != stateFetching || r.Seq != s.cert.Seq() || r.Root != s.cert.Root() {
		return // of an earlier transfer: harmless
	}
	q, open := s.find(r)
	switch {
	case r.What == WhatGone:
		s.refused(now, x, r, out)
	case q == nil:
		x.stats.Unasked++
		out.drop(from, r.Seq, "state-answer-unasked")
	case r.Wrong || r.What == WhatPart && (r.Digest != q.part.Digest || len(r.Data) != int(q.part.Bytes)):
		s.blame(now, x, out)
	default:
		s.take(q, open)
		x.streak = 0
		x.rest = time.Time{}
		if r.What == WhatPage {
			s.page(now, r, out)
		} else {
			x.stats.Parts++
			x.stats.Bytes += uint64(len(r.Data))
			s.progress.Moved += uint64(len(r.Data))
			s.storing += len(r.Data)
			s.puts++
			out.State = append(out.State, StateOp{Try: s.try, Kind: OpPut, Index: r.Index, Data: r.Data})
		}
	}
	s.pump(now, out)
}

func (s *State) source(id smr.NodeID) *source {
	for _, x := range s.sources {
		if x.id == id {
			return x
		}
	}
	return nil
}

// find returns the question that r answers, whoever was asked, and whether it is open.
func (s *State) find(r *StateReply) (q *question, open bool) {
	for _, q := range s.open {
		if q.what == r.What && q.index == r.Index {
			return q, true
		}
	}
	for _, q := range s.queue {
		if q.last != nil && q.what == r.What && q.index == r.Index {
			return q, false // it was asked for before
		}
	}
	return nil, false
}

// take ends a question.
func (s *State) take(q *question, open bool) {
	list := &s.queue
	if open {
		list = &s.open
		q.from.open--
	}
	for i, y := range *list {
		if y == q {
			*list = append((*list)[:i:i], (*list)[i+1:]...)
			return
		}
	}
}

// requeue asks everything that is open at x elsewhere.
func (s *State) requeue(x *source) {
	kept := s.open[:0:0]
	var again []*question
	for _, q := range s.open {
		if q.from == x {
			q.from, q.last = nil, x
			again = append(again, q)
		} else {
			kept = append(kept, q)
		}
	}
	x.open = 0
	s.open, s.queue = kept, append(again, s.queue...)
}

// blame leaves a source out that answered wrongly.
func (s *State) blame(now time.Time, x *source, out *Effects) {
	x.wrong = true
	x.stats.Wrong++
	x.rest = now.Add(s.cfg.Deadline)
	out.drop(x.id, s.cert.Seq(), "state-answer-wrong")
	s.requeue(x)
}

// refused notes that a source does not hold the checkpoint. f+1 of them include a correct one: the
// cluster has moved on.
func (s *State) refused(now time.Time, x *source, r *StateReply, out *Effects) {
	if x.open == 0 {
		x.stats.Unasked++
		out.drop(x.id, r.Seq, "state-answer-unasked")
		return
	}
	x.gone = true
	x.stats.Refusals++
	x.rest = now.Add(s.cfg.Deadline)
	s.requeue(x)
	if s.gone.State(x.id, true) && s.next.Seq() > s.cert.Seq() {
		s.progress.Changed++
		s.start(now, out)
	}
}

// page takes a verified page.
func (s *State) page(now time.Time, r *StateReply, out *Effects) {
	if r.Index == 0 {
		s.meta, s.shape, s.begun = r.Meta, NewShape(r.Meta), true
		s.pages = (r.Leaves + PageLeaves - 1) / PageLeaves
		s.progress.Total = r.Meta.Parts
		out.State = append(out.State, StateOp{Try: s.try, Kind: OpBegin, Meta: r.Meta, Root: s.cert.Root()})
	}
	for _, p := range r.Parts {
		if err := s.shape.Next(p); err != nil {
			// A quorum certified what correct replicas cannot have written.
			s.fail(now, err.Error(), out)
			return
		}
	}
	s.paged = r.Index + 1
	s.staging = true
	out.State = append(out.State, StateOp{Try: s.try, Kind: OpStage, Index: firstPart(r.Index), Parts: r.Parts})
}

func (s *State) fail(now time.Time, why string, out *Effects) {
	s.stop(out)
	s.retryAt = now.Add(s.cfg.Deadline)
	s.phase = stateFailed
	s.progress.Failure = why
	out.Note = append(out.Note, protocol.Event{Kind: EventStateTransfer, Seq: s.cert.Seq(), Detail: "failed: " + why})
}

// Done takes the result of a StateOp. It reports true once the checkpoint is adopted and restored:
// the machine is idle again.
func (s *State) Done(now time.Time, d StateDone, out *Effects) bool {
	if d.Try != s.try || s.phase == stateIdle || s.phase == stateFailed {
		return false
	}
	if d.Err != nil {
		s.fail(now, d.Err.Error(), out)
		return false
	}
	switch d.Kind {
	case OpStage:
		s.staged(d)
	case OpPut:
		s.storing -= d.Bytes
		s.puts--
		s.progress.Parts++
	case OpAdopt:
		s.progress.Installed++
		s.stop(out)
		out.Note = append(out.Note, protocol.Event{Kind: EventStateTransfer, Seq: s.cert.Seq(), Detail: "complete"})
		return true
	}
	s.pump(now, out)
	return false
}

// staged learns which parts of a page are here already.
func (s *State) staged(d StateDone) {
	s.staging = false
	for i, p := range d.Parts {
		switch d.Held[i] {
		case Lacking:
			s.queue = append(s.queue, &question{what: WhatPart, index: d.Index + uint64(i), part: p})
			continue
		case Left:
			s.progress.Resumed += uint64(p.Bytes)
		}
		s.progress.Saved += uint64(p.Bytes)
		s.progress.Parts++
	}
}

// Cert returns the certificate of the checkpoint that is or was transferred last.
func (s *State) Cert() auth.CheckpointCert { return s.cert }

// OpKind names an operation on storage.
type OpKind uint8

// The operations.
const (
	OpBegin OpKind = 1 // Meta, Root: begin to receive, or go on
	OpStage OpKind = 2 // Parts from Index on: which are held?
	OpPut   OpKind = 3 // Data of the part at Index
	OpAdopt OpKind = 4 // make it a checkpoint and restore execution from it
	OpDrop  OpKind = 5 // give up and delete what was staged
)

// StateOp asks the driver for an operation on storage, beside the loop and in order. Every one but
// OpDrop is answered by a StateDone.
type StateOp struct {
	Try   uint64
	Kind  OpKind
	Meta  Meta
	Root  smr.Digest
	Index uint64
	Parts []Part
	Data  []byte
}

// Holding says where a part was found.
type Holding uint8

// Where parts are found.
const (
	Lacking Holding = 0
	Left    Holding = 1 // an interrupted transfer of this checkpoint left it
	Found   Holding = 2 // another checkpoint, or another transfer, here holds it
)

// StateDone is the result of a StateOp.
type StateDone struct {
	Try   uint64
	Kind  OpKind
	Err   error     // a local fault
	Index uint64    // as asked
	Bytes int       // OpPut
	Parts []Part    // OpStage: as asked
	Held  []Holding // OpStage: of each
	Meta  Meta      // OpAdopt
}

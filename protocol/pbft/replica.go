package pbft

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

// Factory returns the factory of this ordering.
func Factory() protocol.Factory {
	return protocol.Factory{Name: "pbft", Model: quorum.Byzantine, New: New, NewCodec: NewCodec}
}

// Replica is one replica's ordering machine. It belongs to one goroutine.
type Replica struct {
	p     protocol.Params
	m     *quorum.Membership
	v     *auth.Verifier
	codec *Codec
	index int // own position among the voters; -1 for an observer
	n     int // voters
	now   time.Time
	out   *protocol.Effects // of the current input only

	voting bool

	// The view. A timeout signed for the view bans prepares and commits in it and below.
	view     smr.View
	timedOut bool
	opening  protocol.Message // what opened the view, or the newest known opening; nil in view 0
	base     *Header          // core that the first proposal of the view extends, where known; nil: the epoch's start
	hasBase  bool             // base is known
	mayLead  bool             // did not lead this view in an earlier life
	opened   bool             // as primary: the record of leading this view is durable
	led      bool             // as primary: a proposal of this view was made
	entered  time.Time
	closing  bool // as primary: a hand-over was asked for

	// The tip, bound to the view by the first proposal accepted or certificate seen in it.
	bound bool
	tip   point
	voted lockName // own highest prepare
	lock  *Certificate

	start   point // the epoch's start: genesis, or the decision that closed the epoch before
	decided point
	stable  smr.SeqNo
	top     *Certificate // highest commit certificate; its core may await its header only in slots
	proof   *Certificate // commit certificate of the highest decision that has one
	tail    smr.SeqNo    // highest sequence number certified on the way of this view

	blocks map[smr.Digest]*block
	bySeq  map[smr.SeqNo][]*block
	bundle map[smr.BundleID]*holding
	slots  map[smr.SeqNo]*slot
	ahead  map[smr.SeqNo]*block // not yet accepted proposals of this view
	first  *block               // not yet accepted first proposal of this view
	wanted map[smr.Digest]smr.SeqNo
	stale  map[smr.Digest]smr.SeqNo // wanted before the questions were repeated in this input
	early  []earlyBuffer            // by voter: messages of later views

	complaints []complaint // by voter, newest
	timeouts   []*Timeout  // by voter, newest
	own        *Timeout    // own newest
	ownVote    bool        // complaining about this view

	timers timerState
	peers  []peerState // by voter

	dirty  bool // headers may be lacking
	replay bool // a view was entered: early messages are due
}

// point is a place in the chain.
type point struct {
	seq    smr.SeqNo
	digest smr.Digest
	time   int64
}

func (h *Header) point() point { return point{h.Seq, h.Digest, h.Time} }

// peerState is what is remembered about a voter.
type peerState struct {
	newest   signedVote // newest vote seen of it: the evidence against it should it forget
	answered time.Time  // last told of a newer view or decision
	asked    time.Time
}

// New returns the machine; Start begins it.
func New(p protocol.Params) protocol.Ordering {
	p.Pipeline = max(p.Pipeline, 1)
	if p.Window == 0 {
		p.Window = 1024
	}
	if p.BaseTimeout <= 0 {
		p.BaseTimeout = time.Second
	}
	p.MaxTimeout = max(p.MaxTimeout, p.BaseTimeout)
	if p.Heartbeat <= 0 {
		p.Heartbeat = p.BaseTimeout / 4
	}
	if p.Resend <= 0 {
		p.Resend = p.BaseTimeout / 2
	}
	r := &Replica{p: p}
	r.adopt(p.Membership, p.Verifier)
	return r
}

// adopt empties r for the membership of an epoch.
func (r *Replica) adopt(m *quorum.Membership, v *auth.Verifier) {
	*r = Replica{
		p: r.p, m: m, v: v, codec: &Codec{v: v}, index: -1, n: m.N(), voting: r.voting, out: r.out, now: r.now,
		start: r.decided, decided: r.decided, stable: r.stable, hasBase: true, mayLead: true, proof: nil,
		blocks: map[smr.Digest]*block{}, bySeq: map[smr.SeqNo][]*block{}, bundle: map[smr.BundleID]*holding{},
		slots: map[smr.SeqNo]*slot{}, ahead: map[smr.SeqNo]*block{}, wanted: map[smr.Digest]smr.SeqNo{},
		early: make([]earlyBuffer, m.N()), complaints: make([]complaint, m.N()), timeouts: make([]*Timeout, m.N()),
		peers: make([]peerState, m.N()), entered: r.now,
	}
	r.timers.timeout = r.p.BaseTimeout
	if i, ok := m.Index(r.p.Self); ok {
		r.index = i
	} else {
		r.voting = false
	}
}

// begin and end frame every input.
func (r *Replica) begin(now time.Time, out *protocol.Effects) { r.now, r.out = now, out }

func (r *Replica) end() {
	for {
		r.replayEarly()
		if !r.acceptNext() && !r.replay {
			break
		}
	}
	r.lead()
	r.seek()
	r.arm()
	r.check()
	r.out = nil
}

// check asserts what must hold after every input.
func (r *Replica) check() {
	invariant.Check(!r.bound || r.tip.seq >= r.votedHere(), "the tip %d lies below the own vote %d of view %d", r.tip.seq, r.votedHere(), r.view)
	invariant.Check(r.voted.view <= r.view && (r.lock == nil || r.lock.view() <= r.view), "a vote of a later view than %d", r.view)
	invariant.Check(r.own == nil || r.own.view() < r.view || r.timedOut, "a timeout for %d binds in view %d", r.own.safeView(), r.view)
}

func (t *Timeout) safeView() smr.View {
	if t == nil {
		return 0
	}
	return t.view()
}

// votedHere returns the highest sequence number of the own prepares of this view.
func (r *Replica) votedHere() smr.SeqNo {
	if r.voted.view != r.view {
		return 0
	}
	return r.voted.seq
}

// Receive implements protocol.Machine.
func (r *Replica) Receive(now time.Time, from smr.NodeID, m protocol.Message, out *protocol.Effects) {
	r.begin(now, out)
	r.dispatch(from, m)
	r.end()
}

func (r *Replica) dispatch(from smr.NodeID, m protocol.Message) {
	if from == r.m.Primary(r.view) {
		r.timers.heard = r.now
	}
	if a, ok := m.(*Ask); ok {
		r.onAsk(from, a)
		return
	}
	i, voter := r.m.Index(from)
	if !voter {
		r.drop(from, "not-a-voter")
		return
	}
	switch m := m.(type) {
	case *Proposal:
		r.onProposal(i, from, m)
	case *Vote:
		r.onVote(i, from, m)
	case *Certificate:
		r.onCertificate(m)
	case *Complaint:
		r.onComplaint(i, from, m)
	case *Timeout:
		r.onTimeout(i, from, m)
	case *TimeoutCertificate:
		r.onTimeoutCertificate(i, from, m)
	case *Heartbeat:
		r.onHeartbeat(i, from, m)
	case *Answer:
		r.onAnswer(from, m)
	default:
		r.drop(from, "unknown-message")
	}
}

// Held implements protocol.Ordering.
func (r *Replica) Held(now time.Time, ids []smr.BundleID, out *protocol.Effects) {
	r.begin(now, out)
	for _, id := range ids {
		r.bundleHeld(id)
	}
	r.decide()
	r.end()
}

// Pending implements protocol.Ordering.
func (r *Replica) Pending(now time.Time, waiting bool, out *protocol.Effects) {
	r.begin(now, out)
	if waiting && !r.timers.waiting {
		r.timers.progressed = true
	}
	r.timers.waiting = waiting
	r.end()
}

// Suspect implements protocol.Ordering.
func (r *Replica) Suspect(now time.Time, _ []smr.BundleID, out *protocol.Effects) {
	r.begin(now, out)
	r.complain(suspicion)
	r.end()
}

func (r *Replica) primary() smr.NodeID { return r.m.Primary(r.view) }

// top of the window of sequence numbers in use.
func (r *Replica) windowEnd() smr.SeqNo { return r.stable + r.p.Window }

func (r *Replica) send(to smr.NodeID, m protocol.Message) {
	r.out.Send = append(r.out.Send, protocol.Outbound{To: to, Msg: m})
}

// cast sends an own signed vote to everyone and to itself, once it is durable.
func (r *Replica) cast(m protocol.Message) {
	r.sendDurable(protocol.Everyone, m)
	r.sendDurable(r.p.Self, m)
}

func (r *Replica) sendDurable(to smr.NodeID, m protocol.Message) {
	r.out.SendDurable = append(r.out.SendDurable, protocol.Outbound{To: to, Msg: m})
}

func (r *Replica) persist(rec protocol.Record) {
	rec.Epoch = r.m.Epoch()
	r.out.Persist = append(r.out.Persist, rec)
}

func (r *Replica) note(kind protocol.EventKind, node smr.NodeID, view smr.View, seq smr.SeqNo, detail string) {
	r.out.Note = append(r.out.Note, protocol.Event{Kind: kind, Node: node, View: view, Seq: seq, Detail: detail})
}

func (r *Replica) drop(from smr.NodeID, reason string) {
	r.note(protocol.EventDrop, from, r.view, 0, reason)
}

// sign makes an own vote.
func (r *Replica) sign(kind auth.Kind, view smr.View, seq smr.SeqNo, d smr.Digest) *auth.Vote {
	v, err := r.v.Sign(r.p.Self, r.p.Signer, r.v.Statement(kind, view, seq, d))
	invariant.Check(err == nil, "signing as a voter: %v", err)
	return v
}

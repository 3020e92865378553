package engine

import (
	"fmt"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// Engine is one replica. It belongs to one goroutine.
type Engine struct {
	cfg      Config
	self     smr.NodeID
	voters   []smr.NodeID // every other voter
	members  []smr.NodeID // every other member
	ord      protocol.Ordering
	codec    protocol.Codec
	roots    *transfer.Roots
	log      *transfer.Log
	view     *transfer.View
	state    *transfer.State
	store    *store
	gate     gate
	fetch    fetcher
	watch    watch
	counts   counters
	deliver  deliveries
	serve    map[smr.NodeID]*serving
	reads    map[uint64]pendingRead
	readID   uint64
	loop     []protocol.Message // addressed to self, past the gate
	held     []smr.BundleID     // to be reported to the ordering
	eff      protocol.Effects
	teff     transfer.Effects
	due      map[TimerID]time.Time
	started  bool
	observe  bool // never vote
	enabled  bool
	pending  bool // what Ordering.Pending heard last
	failed   error
	viewSeen smr.View
}

// New returns an engine; Start begins it. It panics if the membership lacks self.
func New(cfg Config) *Engine {
	cfg.setDefaults()
	m := cfg.Params.Membership
	self := cfg.Params.Self
	_, ok := m.Member(self)
	invariant.Check(ok, "node %d is not a member", self)
	e := &Engine{
		cfg: cfg, self: self, codec: cfg.Factory.NewCodec(cfg.Params.Verifier),
		roots: transfer.NewRoots(self, cfg.Params.Verifier, cfg.Params.Signer),
		view:  transfer.NewView(self, m, cfg.RetryTime),
		log:   transfer.NewLog(self, m, transfer.LogConfig{Retry: max(4*cfg.RetryTime, cfg.Params.BaseTimeout), MaxBytes: 4 << 20, MaxHeld: 64 << 20}),
		state: transfer.NewState(self, m, transfer.StateConfig{
			Deadline: max(8*cfg.RetryTime, 2*cfg.Params.BaseTimeout), Window: cfg.Limits.StateWindow, PerSource: cfg.Limits.StatePerSource,
		}),
		serve: map[smr.NodeID]*serving{}, reads: map[uint64]pendingRead{}, due: map[TimerID]time.Time{},
	}
	for _, x := range m.Members() {
		if x.ID != self {
			e.members = append(e.members, x.ID)
			if _, voter := m.Index(x.ID); voter {
				e.voters = append(e.voters, x.ID)
			}
		}
	}
	e.store = newStore(cfg.Limits, e.members)
	e.fetch.init()
	params := cfg.Params
	params.Length = e.store.length
	e.ord = cfg.Factory.New(params)
	return e
}

// Start begins from what the disk held. It is called once, first. Recovered decisions are delivered
// again; the ordering only observes until the amnesia check passed.
func (e *Engine) Start(now time.Time, boot Boot, out *Output) {
	invariant.Check(!e.started, "started twice")
	e.started = true
	base := boot.Recovered.Base
	e.deliver.init(base, boot.Executed, boot.CheckpointSize)
	e.roots.Restore(boot.Checkpoint)
	for _, b := range boot.Bundles {
		e.store.put(b).written = true // recovered proposals claim it below, or it is promised
	}
	_, voter := e.cfg.Params.Membership.Index(e.self)
	e.observe = boot.Observe || !voter
	e.ord.Start(now, boot.Recovered, &e.eff)
	e.absorb(now, out)
	e.redeliver(now, boot.Recovered, out)
	for _, b := range boot.Bundles {
		if x, ok := e.store.get(b.ID); ok && !x.inFlight() && !x.decided && !x.pooled {
			e.store.promise(x)
		}
	}
	st := e.ord.Status()
	e.view.Start(now, st.Voted, st.Locked, !boot.SkipVoteCheck && !e.observe, &e.teff)
	if boot.SkipVoteCheck {
		e.enable(now, out)
	}
	e.viewSeen = st.View
	e.setTimer(now, ownerWatch, 0, e.cfg.TickTime, out)
	e.finish(now, out)
}

// redeliver delivers the recovered decisions that the ordering's Start did not decide again.
func (e *Engine) redeliver(now time.Time, rec protocol.Recovered, out *Output) {
	if e.ord.Status().Decided <= e.deliver.decided {
		return
	}
	headers := map[smr.Digest]protocol.Record{}
	for _, p := range rec.Proposals {
		headers[p.Digest] = p
	}
	for _, d := range rec.Decisions {
		if d.Seq <= e.deliver.decided {
			continue
		}
		p, ok := headers[d.Digest]
		if !ok {
			e.fail(out, fmt.Errorf("ordering log: seq %d is decided but its proposal is missing", d.Seq))
			return
		}
		info, err := e.codec.Header(p.Data)
		if err != nil {
			e.fail(out, fmt.Errorf("ordering log: header of seq %d: %w", d.Seq, err))
			return
		}
		e.decide(now, protocol.Decision{HeaderInfo: info, Header: p.Data}, out)
	}
}

func (e *Engine) enable(now time.Time, out *Output) {
	if e.enabled || e.observe {
		return
	}
	e.enabled = true
	out.Events = append(out.Events, protocol.Event{Kind: transfer.EventEnabled, Node: e.self})
	e.ord.Enable(now, &e.eff)
	e.absorb(now, out)
}

// Receive takes a frame that a Decoder made from the authenticated node from.
func (e *Engine) Receive(now time.Time, from smr.NodeID, m Inbound, out *Output) {
	switch m := m.(type) {
	case orderingMessage:
		e.bring(from, m.bundles)
		e.ord.Receive(now, m.origin, m.msg, &e.eff)
		e.absorb(now, out)
	case forwardedBundles:
		e.forwarded(from, m.bundles, out)
	case fetchBundles:
		e.serveFetch(now, from, m.ids, out)
	case rootVote:
		e.stable(now, out)(e.roots.Vote(m.vote, &e.teff))
	case rootCert:
		e.stable(now, out)(e.roots.Cert(m.cert, &e.teff))
	case viewQuery:
		e.answerView(from, m.q, out)
	case viewReply:
		e.view.Reply(from, m.r, &e.teff)
	case logRequest:
		e.serveLog(now, from, m.q, out)
	case logReply:
		if run, ok := e.log.Reply(now, from, m.r, &e.teff); ok {
			e.install(now, run, out)
		}
	case stateRequest:
		e.serveState(now, from, m.q, out)
	case stateReply:
		e.state.Reply(now, from, m.r, &e.teff)
	default:
		e.drop(out, from, "unknown-inbound")
	}
	e.finish(now, out)
}

// Bundles takes verified bundles that the request workers admitted; from is the client, or the
// replica that forwarded them.
func (e *Engine) Bundles(now time.Time, bs []*smr.Bundle, from auth.Identity, out *Output) {
	for _, b := range bs {
		if why := e.store.admit(now, b, from); why != "" {
			node, _ := from.Node()
			e.drop(out, node, why)
			if x, ok := e.store.get(b.ID); why != dropDuplicate {
				out.Stopped = append(out.Stopped, b.ID)
			} else if !ok || x.decided {
				out.Decided = append(out.Decided, b.ID) // whoever offered it had not heard
			}
			continue
		}
		e.arrived(b.ID)
	}
	e.finish(now, out)
}

// Expire takes a timer that is due.
func (e *Engine) Expire(now time.Time, id TimerID, out *Output) {
	at, armed := e.due[id]
	if !armed || now.Before(at) {
		return // stopped or set again in the same turn
	}
	delete(e.due, id)
	switch owner, own := id.split(); owner {
	case ownerOrdering:
		e.ord.Expire(now, own, &e.eff)
		e.absorb(now, out)
	case ownerTransfer:
		switch own {
		case transfer.TimerView:
			e.view.Expire(now, &e.teff)
		case transfer.TimerState:
			e.state.Expire(now, &e.teff)
		default:
			e.log.Expire(now, &e.teff)
		}
	case ownerFetch:
		e.fetchDue(now, out)
	case ownerWatch:
		e.tick(now, out)
	}
	e.finish(now, out)
}

// Durable says that every write with a token at or below token is durable.
func (e *Engine) Durable(now time.Time, token uint64, out *Output) {
	e.gate.open(token, e, out)
	e.finish(now, out)
}

// Executed says that execution reached seq; only the newest value matters.
func (e *Engine) Executed(now time.Time, seq smr.SeqNo, out *Output) {
	e.deliver.executedTo(seq)
	e.finish(now, out)
}

// CheckpointSize reports the size in bytes of the own checkpoint at seq, a replicated quantity. It
// is called before CheckpointDurable of that checkpoint, on every replica or on none.
func (e *Engine) CheckpointSize(seq smr.SeqNo, size uint64) { e.deliver.sized(seq, size) }

// CheckpointDurable says that the own checkpoint after seq, with this root, is on the own disk. It
// is called again after Start for the newest one found there.
func (e *Engine) CheckpointDurable(now time.Time, seq smr.SeqNo, root smr.Digest, out *Output) {
	e.deliver.written(seq)
	e.stable(now, out)(e.roots.Durable(seq, root, &e.teff))
	e.finish(now, out)
}

// stable tells everyone concerned of a checkpoint that became stable.
func (e *Engine) stable(now time.Time, out *Output) func(auth.CheckpointCert, bool) {
	return func(c auth.CheckpointCert, ok bool) {
		if !ok {
			return
		}
		out.StableCert, out.Truncate = c, c.Seq()
		e.ord.Stable(now, c, &e.eff)
		e.absorb(now, out)
	}
}

// Connected says that the connection to a peer came up.
func (e *Engine) Connected(now time.Time, peer smr.NodeID, out *Output) {
	e.view.Connected(peer, &e.teff)
	e.roots.Resend(peer, &e.teff)
	e.ord.Connected(now, peer, &e.eff)
	e.absorb(now, out)
	e.finish(now, out)
}

// HandOver asks this replica, if it leads, to pass leadership to another.
func (e *Engine) HandOver(now time.Time, to smr.NodeID, out *Output) {
	e.ord.HandOver(now, to, &e.eff)
	e.absorb(now, out)
	e.finish(now, out)
}

// finish ends an input: it hands out what the input set in motion, until nothing is left.
func (e *Engine) finish(now time.Time, out *Output) {
	for {
		e.transferEffects(now, out)
		switch {
		case len(e.loop) > 0:
			m := e.loop[0]
			e.loop[0] = nil
			if e.loop = e.loop[1:]; len(e.loop) == 0 {
				e.loop = nil
			}
			e.ord.Receive(now, e.self, m, &e.eff)
		case len(e.held) > 0:
			ids := e.held
			e.held = nil
			e.ord.Held(now, ids, &e.eff)
		case e.view.Voting() && !e.enabled && !e.observe:
			e.enable(now, out)
			continue
		case e.flush(out):
			continue
		case e.needState(now):
			continue
		case !e.propose(now):
			e.rest(now, out)
			return
		}
		e.absorb(now, out)
	}
}

// rest brings up to date what others read between inputs.
func (e *Engine) rest(now time.Time, out *Output) {
	st := e.ord.Status()
	if st.View != e.viewSeen {
		e.viewSeen = st.View
		e.viewEntered(now)
	}
	if waiting := e.store.pooled > 0 && !e.deliver.ahead(e.cfg.Limits); waiting != e.pending {
		e.pending = waiting
		e.ord.Pending(now, waiting, &e.eff)
		e.absorb(now, out)
		e.transferEffects(now, out)
		if len(e.loop) > 0 || len(e.held) > 0 {
			e.finish(now, out)
			return
		}
	}
	if e.fetch.dirty {
		e.fetchArm(now, out)
	}
	out.Stopped = append(out.Stopped, e.store.stopped...)
	e.store.stopped = e.store.stopped[:0]
	gate, known := e.view.Gate()
	if mutant.On(mutant.ReadGateOpen) {
		gate, known = 0, true
	}
	out.ReadGate, out.ReadClosed = gate, !known || e.deliver.decided < gate
	if e.failed != nil {
		e.fail(out, e.failed)
	}
}

// fail records a broken local rule. The driver fences the replica; nothing leaves it any more.
func (e *Engine) fail(out *Output, err error) {
	if e.failed == nil {
		e.failed = err
	}
	out.Send, e.gate.waiting = out.Send[:0], nil
	if out.Fatal == nil {
		out.Fatal = e.failed
	}
}

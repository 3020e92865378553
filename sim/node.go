package sim

import (
	"fmt"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/engine"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/internal/requests"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/wire"
)

// node is one replica: what survives its crashes, and the life it is in. It does what package
// replica does with goroutines, one event at a time.
type node struct {
	c         *cluster
	id        smr.NodeID
	byzantine bool
	adversary Adversary
	twin      *node  // a second engine with the same key, which talks to the other side
	second    bool   // this is a twin
	rng       random // of its disk, its execution and its clock
	verifier  *auth.Verifier
	decoder   *engine.Decoder
	signer    *watchSigner
	admitted  []execution.Client
	skew      time.Duration
	disk      *disk

	// What must survive, as the oracle knows it.
	sentVote protocol.Mark

	// Of one life.
	up       bool
	paused   bool
	waiting  []func() // what happens when it is resumed
	life     int      // events of earlier lives are void
	engine   *engine.Engine
	out      engine.Output
	requests *requests.Core
	timers   map[engine.TimerID]uint64 // generation that counts
	timerGen uint64
	exec     executor
	last     marks
}

func newNode(c *cluster, id smr.NodeID, second bool, signer auth.Signer, admitted []execution.Client) (*node, error) {
	v := auth.NewVerifier(c.members, c.scheme)
	n := &node{
		c: c, id: id, second: second, rng: c.stream(streamReplica, uint64(id)), verifier: v, signer: &watchSigner{Signer: signer}, admitted: admitted,
		decoder: engine.NewDecoder(v, c.options.Factory.NewCodec(v), c.scheme),
	}
	if second {
		n.rng = c.stream(streamReplica, uint64(id)+1000)
	}
	if s := c.plan.Skew; s > 0 {
		n.skew = n.rng.between(-s, s)
	}
	n.disk = newDisk(n)
	return n, nil
}

// now is the replica's clock.
func (n *node) now() time.Time { return start.Add(n.c.clk.now + n.skew) }

// after schedules do in this life only.
func (n *node) after(d time.Duration, do func()) {
	life := n.life
	n.c.clk.after(d, func() {
		if n.up && n.life == life {
			n.unlessPaused(do)
		}
	})
}

// unlessPaused does it now, or once the replica goes on.
func (n *node) unlessPaused(do func()) {
	if n.paused {
		n.waiting = append(n.waiting, do)
		return
	}
	do()
}

// resume lets a paused replica go on: all that waited happens, in order.
func (n *node) resume() {
	n.c.trace.event("resume", uint64(n.id))
	n.paused = false
	waiting := n.waiting
	n.waiting = nil
	for _, do := range waiting {
		do()
	}
}

// restart begins a life from what the disk holds.
func (n *node) restart() {
	if n.up {
		return
	}
	n.c.trace.event("start", uint64(n.id), uint64(n.life))
	n.up = true
	n.life++
	n.timers = map[engine.TimerID]uint64{}
	n.out = engine.Output{ReadClosed: true}
	n.last = marks{}
	boot := n.disk.recover()
	n.exec.begin(n)
	if n.exec.core.Executed() != boot.Executed {
		n.c.fail("replica %d: execution restored %d, the log begins above %d", n.id, n.exec.core.Executed(), boot.Executed)
	}
	n.requests = requests.NewCore(requests.DefaultLimits(), n.exec.view, requests.NewLedger(), n.exec.service.Validate)
	p := &n.c.plan
	n.engine = engine.New(engine.Config{
		Params: protocol.Params{
			Self: n.id, Membership: n.c.members, Verifier: n.verifier, Signer: n.signer,
			Pipeline: p.Pipeline, Window: p.Window, BaseTimeout: p.Timeout, MaxTimeout: 8 * p.Timeout,
			Heartbeat: p.Timeout / 4, Resend: p.Timeout / 2, MaxClockDrift: 200 * time.Millisecond,
		},
		Factory:         n.c.options.Factory,
		CheckpointBytes: p.CheckpointBytes,
		Limits:          engine.Limits{RetainBytes: p.RetainBytes},
	})
	n.input(func(now time.Time) { n.engine.Start(now, boot, &n.out) })
	if boot.Executed > 0 {
		root, size := n.disk.newest()
		n.input(func(now time.Time) {
			n.engine.CheckpointSize(boot.Executed, size)
			n.engine.CheckpointDurable(now, boot.Executed, root, &n.out)
		})
	}
	if !n.byzantine {
		n.checkRestart()
	}
	if n.twin != nil {
		n.twin.restart()
	}
	for _, peer := range n.c.nodes {
		if peer.up && peer.id != n.id {
			n.c.net.connect(n.id, peer.id)
		}
	}
}

// hidden reports whether a twin does not talk to a replica: that is the other one's.
func (n *node) hidden(peer smr.NodeID) bool {
	return (n.twin != nil || n.second) && n.c.side[peer] == n.second
}

// checkRestart demands that nothing that was durable, or that others were told, is forgotten.
func (n *node) checkRestart() {
	s := n.status()
	if s.Voted.Less(n.sentVote) {
		n.c.fail("amnesia: replica %d sent a vote at %+v and restarted with %+v", n.id, n.sentVote, s.Voted)
	}
	if s.Decided < n.disk.durableDecided {
		n.c.fail("amnesia: replica %d had decided %d durably and restarted with %d", n.id, n.disk.durableDecided, s.Decided)
	}
	if n.exec.core.Executed() < n.disk.durableCheckpoint {
		n.c.fail("amnesia: replica %d had a durable checkpoint at %d and restarted at %d", n.id, n.disk.durableCheckpoint, n.exec.core.Executed())
	}
}

// crash ends the life: what was not synced may be lost.
func (n *node) crash() {
	n.c.trace.event("crash", uint64(n.id))
	n.up, n.paused, n.waiting = false, false, nil
	n.engine, n.requests, n.timers = nil, nil, nil
	n.exec.end()
	n.disk.crash()
	if n.twin != nil {
		n.twin.crash()
	}
}

// input runs one engine call and does what it asks for.
func (n *node) input(call func(now time.Time)) {
	call(n.now())
	n.perform()
	if !n.byzantine {
		n.watch()
	}
}

// watch checks that no mark went back.
func (n *node) watch() {
	if n.engine == nil {
		return
	}
	m := marksOf(n.status(), n.exec.core.Executed())
	if what := n.last.regress(m); what != "" {
		n.c.fail("regress: replica %d: %s", n.id, what)
	}
	n.last = m
}

// perform does what the engine's output says, in the driver's order.
func (n *node) perform() {
	out := &n.out
	n.disk.write(out.Write)
	for _, f := range out.Send {
		n.send(f)
	}
	for _, d := range out.Deliver {
		n.c.trace.event("decide", uint64(n.id), uint64(d.Decision.View), uint64(d.Decision.Seq), uint64(len(d.Bundles)))
		if !n.byzantine {
			n.c.oracle.delivered(n.id, d.Decision)
		}
		n.exec.deliver(d)
	}
	if len(out.Decided) > 0 {
		n.requests.Decided(out.Decided)
	}
	for _, b := range out.Released {
		n.requests.Released([]smr.BundleID{b.ID})
	}
	for _, q := range out.ReadLog {
		n.after(n.rng.exponential(n.c.plan.Sync/4), func() {
			r := n.disk.read(q)
			n.input(func(now time.Time) { n.engine.LogRead(now, r, &n.out) })
		})
	}
	if out.StableCert.Seq() > 0 {
		n.disk.certified(out.StableCert)
	}
	if out.Truncate > 0 {
		n.c.counts.Truncations++
		n.c.trace.event("truncate", uint64(n.id), uint64(out.Truncate))
		n.disk.truncate(out.Truncate)
	}
	for _, id := range out.StopTimer {
		delete(n.timers, id)
	}
	for _, t := range out.SetTimer {
		n.setTimer(t)
	}
	gate, open := out.ReadGate, !out.ReadClosed
	if n.c.options.ignoreReadGate {
		gate, open = 0, true
	}
	n.exec.core.SetReadGate(gate, open)
	offers := append([]engine.Offer(nil), out.Offer...)
	for _, ev := range out.Events {
		n.event(ev)
	}
	if out.Fatal != nil && !n.byzantine {
		n.c.fail("replica %d fenced itself: %v", n.id, out.Fatal)
	}
	out.Reset()
	for _, o := range offers {
		n.after(0, func() {
			n.input(func(now time.Time) { n.engine.Bundles(now, o.Bundles, o.From, &n.out) })
		})
	}
}

func (n *node) event(ev protocol.Event) {
	if n.c.options.Trace != nil {
		n.c.trace.note("replica %d: %s node %d view %d seq %d %s", n.id, ev.Kind, ev.Node, ev.View, ev.Seq, ev.Detail)
	}
	switch ev.Kind {
	case protocol.EventBehind:
		n.c.counts.CaughtUp++
	case protocol.EventViewEntered:
		n.c.counts.ViewChanges++
	case transfer.EventAmnesia:
		if !n.byzantine {
			n.c.fail("replica %d takes itself for amnesic: %s", n.id, ev.Detail)
		}
	case transfer.EventDivergence:
		if !n.byzantine {
			n.c.fail("replica %d: its root at %d is not the certified one", n.id, ev.Seq)
		}
	}
	if ev.Kind == protocol.EventEvidence && !n.byzantine && ev.Node != 0 && !n.c.nodes[ev.Node-1].byzantine {
		n.c.fail("replica %d has evidence against correct replica %d: %s", n.id, ev.Node, ev.Detail)
	}
}

func (n *node) setTimer(t engine.Timer) {
	n.timerGen++
	gen := n.timerGen
	n.timers[t.ID] = gen
	n.after(t.After, func() {
		if n.timers[t.ID] != gen {
			return
		}
		delete(n.timers, t.ID)
		n.c.trace.event("timer", uint64(n.id), uint64(t.ID))
		n.input(func(now time.Time) { n.engine.Expire(now, t.ID, &n.out) })
	})
}

// send puts a frame on the network, through the adversary if there is one.
func (n *node) send(f engine.Frame) {
	if !n.byzantine {
		n.signer.leaving(f.Payload, func(s auth.Statement) { n.c.oracle.vote(n.id, s) })
	}
	for _, to := range f.To {
		if n.hidden(to) {
			continue
		}
		if n.adversary != nil {
			n.adversary.Outgoing(n.now(), to, f.Class, f.Kind, f.Payload, func(to smr.NodeID, class wire.Class, kind uint8, payload []byte) {
				n.c.net.send(auth.NodeIdentity(n.id), auth.NodeIdentity(to), class, kind, payload)
			})
			continue
		}
		n.c.net.send(auth.NodeIdentity(n.id), auth.NodeIdentity(to), f.Class, f.Kind, f.Payload)
	}
}

// reply sends a frame to a client.
func (n *node) reply(client smr.ClientID, class wire.Class, payload []byte) {
	if n.byzantine && n.c.plan.Behaviour == "silent" {
		return
	}
	n.c.net.send(auth.NodeIdentity(n.id), auth.ClientIdentity(client), class, wire.KindOnly, payload)
}

// connected says that the path to a peer works again.
func (n *node) connected(peer smr.NodeID) {
	if n.twin != nil {
		n.twin.connected(peer)
	}
	if n.up && n.c.nodes[peer-1].up {
		n.unlessPaused(func() {
			n.c.trace.event("connect", uint64(n.id), uint64(peer))
			n.input(func(now time.Time) { n.engine.Connected(now, peer, &n.out) })
		})
	}
}

// maxWaiting bounds the frames that wait for a paused replica.
const maxWaiting = 4000

// frame takes what the network brings.
func (n *node) frame(from auth.Identity, class wire.Class, kind uint8, payload []byte) {
	if n.twin != nil {
		n.twin.frame(from, class, kind, payload)
	}
	if peer, ok := from.Node(); ok && n.hidden(peer) {
		return
	}
	if !n.up {
		n.c.net.lost++
		return
	}
	if n.paused {
		if len(n.waiting) < maxWaiting { // what a peer's queue and the socket hold
			n.waiting = append(n.waiting, func() { n.frame(from, class, kind, payload) })
		}
		return
	}
	n.c.trace.event("frame", uint64(n.id), uint64(from.Kind), from.ID, uint64(class), uint64(kind), hash(payload))
	if n.adversary != nil {
		if peer, ok := from.Node(); ok {
			n.adversary.Incoming(peer, class, kind, payload)
		}
	}
	if peer, ok := from.Node(); ok {
		m, err := n.decoder.Decode(peer, class, kind, payload)
		if err != nil {
			if !n.c.nodes[peer-1].byzantine {
				n.c.fail("replica %d refuses a frame of correct replica %d: %v", n.id, peer, err)
			}
			return
		}
		n.input(func(now time.Time) { n.engine.Receive(now, peer, m, &n.out) })
		return
	}
	client, _ := from.Client()
	switch class {
	case wire.ClassOrderedRequest:
		n.ordered(from, client, payload)
	case wire.ClassUnorderedRequest:
		var q wirepb.UnorderedRequest
		if err := q.UnmarshalVT(payload); err != nil {
			n.c.fail("query of client %d: %v", client, err)
		}
		rep := n.exec.core.Query(client, &q)
		b, err := rep.MarshalVT()
		if err != nil {
			n.c.fail("encode reply to query: %v", err)
		}
		n.reply(client, wire.ClassUnorderedReply, b)
	}
}

// ordered takes bundles from their client, as request workers do.
func (n *node) ordered(from auth.Identity, client smr.ClientID, payload []byte) {
	bundles, err := wire.DecodeBundles(payload)
	if err != nil {
		n.c.fail("bundles of client %d: %v", client, err)
	}
	valid := wire.VerifyBundles(n.c.scheme, n.c.id, bundles)
	var accepted []*smr.Bundle
	for i, b := range bundles {
		if b.Client != client || valid != nil && !valid[i] {
			n.c.fail("client %d sent a bundle that is not its own", client)
		}
		switch v := n.requests.Offer(n.now(), b); v.Kind {
		case requests.Accept:
			accepted = append(accepted, b)
		case requests.Executed:
			var out execution.Output
			if n.exec.core.Cached(b, &out) {
				n.replies(&out)
			} else {
				accepted = append(accepted, b)
			}
		case requests.Busy:
			n.advise(b, wire.AdviceBusy, v.Text)
		case requests.Rejected:
			n.advise(b, wire.AdviceRejected, v.Text)
		case requests.NoKey:
			n.advise(b, wire.AdviceNoKey, v.Text)
		}
	}
	if len(accepted) > 0 {
		n.input(func(now time.Time) { n.engine.Bundles(now, accepted, from, &n.out) })
	}
}

func (n *node) replies(out *execution.Output) {
	out.Frames(func(client smr.ClientID, payload []byte) { n.reply(client, wire.ClassOrderedReply, payload) })
	out.Reset()
}

func (n *node) advise(b *smr.Bundle, code wire.AdviceCode, text string) {
	a := wirepb.Advice{Code: uint32(code), Session: uint64(b.Session), First: uint64(b.First), Text: text, RetryAfterMs: 50}
	if b.Kind == smr.BundleOpen {
		a.First = b.Nonce
	}
	payload, err := a.MarshalVT()
	if err != nil {
		n.c.fail("encode advice: %v", err)
	}
	n.reply(b.Client, wire.ClassAdvice, payload)
}

func (n *node) status() protocol.Status { return n.engine.Status().Ordering }

func (n *node) executed() smr.SeqNo {
	if !n.up {
		return 0
	}
	return n.exec.core.Executed()
}

// stranded reports whether what the replica lacks is in no log any more.
func (n *node) stranded() bool { return n.up && n.engine.Status().Mode == engine.ModeNeedsState }

func (n *node) describe() string {
	if !n.up {
		return fmt.Sprintf("%d down", n.id)
	}
	who := ""
	if n.byzantine {
		who = " byzantine"
	}
	e := n.engine.Status()
	s := e.Ordering
	return fmt.Sprintf("%d%s view %d voting %v changing %v tip %d prepared %d decided %d executed %d stable %d certified %d in flight %d pool %d proposable %d wanted %d mode %s",
		n.id, who, s.View, s.Voting, s.Changing, s.Tip, s.Prepared, s.Decided, n.exec.core.Executed(), s.Stable, s.Certified, s.InFlight, e.Pool.Bundles, e.Pool.Proposable, e.Pool.Wanted, e.Mode)
}

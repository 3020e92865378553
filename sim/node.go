package sim

import (
	"fmt"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/engine"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/internal/requests"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
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
	clock     wallClock
	disk      *disk

	// What must survive, as the oracle knows it.
	sentVote protocol.Mark
	// bad says for what damage that a restart does not heal the replica counts as faulty for good.
	bad       string
	wiped     bool      // its disk was emptied
	witnesses []witness // who had seen a vote of it by then
	app       appFault

	// Of one life.
	up       bool
	paused   bool
	outside  bool     // after the faults: not of the quorum that was healed
	waiting  []func() // what happens when it is resumed
	life     int      // events of earlier lives are void
	engine   *engine.Engine
	out      engine.Output
	requests *requests.Core
	doomed   bool // a fault waits for its moment: the replica counts as down
	midway   int  // effects until it crashes, between two effects of one output; 0: it does not
	timers   map[engine.TimerID]alarm
	timerGen uint64
	exec     executor
	transfer receiving
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
		n.clock.skew = n.rng.between(-s, s)
	}
	n.disk = newDisk(n)
	return n, nil
}

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
	if n.up || n.bad != "" && !n.wiped || n.c.healed && n.outside {
		return
	}
	n.c.trace.event("start", uint64(n.id), uint64(n.life))
	n.up = true
	n.life++
	n.timers = map[engine.TimerID]alarm{}
	n.out = engine.Output{ReadClosed: true}
	n.last = marks{}
	boot, ok := n.disk.recover()
	if !ok {
		n.up = false
		return
	}
	n.exec.begin(n)
	n.transfer.begin(n.disk)
	if n.exec.core.Executed() != boot.Executed {
		n.c.fail("replica %d: execution restored %d, the log begins above %d", n.id, n.exec.core.Executed(), boot.Executed)
	}
	n.requests = requests.NewCore(clientLimits(), n.exec.view, requests.NewLedger(), n.exec.service.Validate)
	p := &n.c.plan
	n.engine = engine.New(engine.Config{
		Params: protocol.Params{
			Self: n.id, Membership: n.c.members, Verifier: n.verifier, Signer: n.signer,
			Pipeline: p.Pipeline, Window: p.Window, BaseTimeout: p.Timeout, MaxTimeout: 8 * p.Timeout,
			Heartbeat: p.Timeout / 4, Resend: p.Timeout / 2, MaxClockDrift: 200 * time.Millisecond,
		},
		Factory:         n.c.options.Factory,
		CheckpointBytes: p.CheckpointBytes,
		Limits: engine.Limits{
			RetainBytes: p.RetainBytes, PoolBundles: p.PoolBundles, RecentIDs: 4 * p.PoolBundles,
			ClientBundles: 2 * clientLimits().ClientBundles, AheadBytes: int(8 * p.CheckpointBytes),
		},
	})
	n.input(func(now time.Time) { n.engine.Start(now, boot, &n.out) })
	if n.up && boot.Executed > 0 {
		root, size := n.disk.newest()
		n.input(func(now time.Time) {
			n.engine.CheckpointSize(boot.Executed, size)
			n.engine.CheckpointDurable(now, boot.Executed, root, &n.out)
		})
	}
	if !n.up {
		return // crashed on the way
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

// checkDivergence demands that a replica whose state differs has said so, once it held a certificate
// for a checkpoint that it made itself.
func (n *node) checkDivergence() {
	if !n.app.diverges || !n.up || n.outside || n.paused {
		return
	}
	s := n.engine.Status()
	seq, root := n.disk.newestSeq, n.disk.newestRoot
	if known, ok := n.c.oracle.roots[seq]; ok && known != root && s.Certified == seq && s.Diverged == 0 {
		n.c.fail("divergence hidden: replica %d has another root at %d than the certified one, and does not say so", n.id, seq)
	}
}

// honest reports whether nobody may have evidence against the replica.
func (n *node) honest() bool { return !n.byzantine && !n.wiped && !n.app.diverges }

// faulty reports whether the replica counts among the f that may be faulty at a time.
func (n *node) faulty() bool {
	return n.byzantine || !n.up || n.paused || n.doomed || n.bad != "" || n.clock.wrong() || n.disk.broken() || n.exec.fenced
}

// checkRestart demands that nothing that was durable, or that others were told, is forgotten.
func (n *node) checkRestart() {
	s := n.status()
	if n.wiped {
		return
	}
	if s.Voted.Less(n.sentVote) {
		n.c.fail("amnesia: replica %d sent a vote at %+v and restarted with %+v", n.id, n.sentVote, s.Voted)
	}
	if s.Decided < n.disk.durableDecided {
		n.c.fail("amnesia: replica %d had decided %d durably and restarted with %d", n.id, n.disk.durableDecided, s.Decided)
	}
	if s.Stable < n.disk.durableStable {
		n.c.fail("amnesia: replica %d had a durable certificate of the checkpoint at %d and restarted with %d", n.id, n.disk.durableStable, s.Stable)
	}
	if n.exec.core.Executed() < n.disk.durableCheckpoint {
		n.c.fail("amnesia: replica %d had a durable checkpoint at %d and restarted at %d", n.id, n.disk.durableCheckpoint, n.exec.core.Executed())
	}
}

// crash ends the life: what was not synced may be lost.
func (n *node) crash() {
	n.c.trace.event("crash", uint64(n.id))
	n.up, n.paused, n.waiting, n.doomed, n.midway = false, false, nil, false, 0
	n.out = engine.Output{}
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
	full := n.engine.Overfull()
	if full == "" {
		full = n.requests.Overfull()
	}
	if full != "" {
		n.c.fail("bound: replica %d: %s; %s", n.id, full, n.describe())
	}
}

// perform does what the engine's output says, in the driver's order.
func (n *node) perform() {
	out := &n.out
	for _, w := range out.Write {
		if n.falls() {
			return
		}
		n.disk.write(w)
	}
	for _, f := range out.Send {
		if n.falls() {
			return
		}
		n.send(f)
	}
	for _, d := range out.Deliver {
		if n.falls() {
			return
		}
		if n.c.options.Trace != nil {
			n.c.trace.note("%d: %s", n.id, d.Decision)
		}
		n.c.trace.event("decide", uint64(n.id), uint64(d.Decision.View), uint64(d.Decision.Seq), uint64(len(d.Bundles)))
		if !n.byzantine {
			n.c.oracle.delivered(n, d.Decision)
		}
		n.exec.deliver(d)
	}
	if len(out.Decided) > 0 {
		n.requests.Decided(out.Decided)
	}
	if len(out.Stopped) > 0 {
		n.requests.Stopped(out.Stopped)
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
	for _, q := range out.ReadState {
		n.stateRead(q)
	}
	if len(out.State) > 0 {
		n.stateOps(out.State)
	}
	if n.falls() {
		return
	}
	if out.StableCert.Seq() > 0 {
		n.c.oracle.stable(n, out.StableCert)
		n.disk.certified(out.StableCert)
	}
	if n.falls() {
		return
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
	n.exec.core.SetReadGate(out.ReadGate, !out.ReadClosed)
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

// falls reports whether the replica is down: a crash between this effect and the one before is what
// the real driver could suffer, since it performs them one by one.
func (n *node) falls() bool {
	if n.midway > 0 {
		if n.midway--; n.midway == 0 {
			n.crash()
		}
	}
	return !n.up
}

func (n *node) event(ev protocol.Event) {
	if n.c.options.Trace != nil {
		n.c.trace.note("%d: %s", n.id, ev)
	}
	switch ev.Kind {
	case protocol.EventBehind:
		n.c.counts.CaughtUp++
	case protocol.EventViewEntered:
		n.c.counts.ViewChanges++
	case transfer.EventAmnesia:
		if n.wiped {
			n.c.counts.Refused++
		} else if !n.byzantine {
			n.c.fail("replica %d takes itself for amnesic: %s", n.id, ev.Detail)
		}
	case transfer.EventDivergence:
		if n.app.diverges {
			n.c.counts.Diverged++
		} else if !n.byzantine {
			n.c.fail("replica %d: its root at %d is not the certified one", n.id, ev.Seq)
		}
	}
	if ev.Kind == protocol.EventEvidence && !n.byzantine && ev.Node != 0 && n.c.nodes[ev.Node-1].honest() {
		n.c.fail("replica %d has evidence against correct replica %d: %s", n.id, ev.Node, ev.Detail)
	}
}

func (n *node) status() protocol.Status { return n.engine.Ordering() }

func (n *node) executed() smr.SeqNo {
	if !n.up {
		return 0
	}
	return n.exec.core.Executed()
}

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

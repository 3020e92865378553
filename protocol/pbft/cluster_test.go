package pbft

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

// cluster runs replicas in one goroutine under virtual time from one seed. Each has a log whose
// unsynced tail a crash loses, a gate that lets votes out once durable, and a pool of bundle ids.
// It checks after every effect what must never break.
type cluster struct {
	tb     testing.TB
	rng    *rand.Rand
	m      *quorum.Membership
	scheme *auth.StandIn
	codec  protocol.Codec
	now    time.Time
	nodes  []*node
	queue  eventQueue
	order  uint64

	drop     float64
	maxDelay time.Duration
	maxSync  time.Duration
	filter   func(from, to smr.NodeID, m protocol.Message) bool // false: lost
	lag      func(from, to smr.NodeID, m protocol.Message) time.Duration
	watch    smr.NodeID // its messages are traced as they arrive; 0: nobody's
	params   func(*protocol.Params)
	missing  map[smr.BundleID]bool // nobody has them
	trace    *strings.Builder

	decided  map[smr.SeqNo]smr.Digest
	votes    map[voteKey]smr.Digest
	timedOut map[smr.NodeID]smr.View // highest timeout that left, plus one
	made     uint32
	all      []smr.BundleID
	faulty   map[smr.NodeID]*traitor

	twoStarts int // times a Byzantine primary had two timeout certificates for one view
}

type voteKey struct {
	id   smr.NodeID
	kind uint8
	view smr.View
	seq  smr.SeqNo
}

type node struct {
	id      smr.NodeID
	ord     protocol.Ordering
	alive   bool
	life    int
	log     []protocol.Record
	durable int
	base    protocol.HeaderInfo // of the newest checkpoint
	gated   []gatedMessage
	syncing bool
	timers  map[protocol.TimerID]uint64
	known   []smr.BundleID
	has     map[smr.BundleID]bool
	holds   map[smr.BundleID]int
	done    map[smr.BundleID]bool
	last    smr.SeqNo
	digest  smr.Digest
	chain   []protocol.Decision
	pending bool
	behind  smr.SeqNo
	asks    map[smr.Digest]protocol.Need
	events  []protocol.Event
}

type gatedMessage struct {
	after int
	o     protocol.Outbound
}

type event struct {
	at    time.Time
	order uint64
	do    func()
}

type eventQueue []event

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at.Before(q[j].at) || q[i].at.Equal(q[j].at) && q[i].order < q[j].order
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *eventQueue) Pop() any {
	x := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return x
}

var epochStart = time.Unix(1_700_000_000, 0)

func newCluster(tb testing.TB, n int, seed uint64) *cluster {
	c := &cluster{
		tb: tb, rng: rand.New(rand.NewPCG(seed, 1)), scheme: auth.NewStandIn(seed), now: epochStart,
		maxDelay: 10 * time.Millisecond, maxSync: 4 * time.Millisecond, missing: map[smr.BundleID]bool{},
		decided: map[smr.SeqNo]smr.Digest{}, votes: map[voteKey]smr.Digest{}, timedOut: map[smr.NodeID]smr.View{}, faulty: map[smr.NodeID]*traitor{},
	}
	members := make([]quorum.Member, n)
	for i := range members {
		members[i] = quorum.Member{ID: smr.NodeID(i + 1), Role: quorum.Voter, Key: c.scheme.Signer(uint64(i + 1)).Public()}
	}
	var err error
	if c.m, err = quorum.New(smr.ClusterID{7}, 1, quorum.Byzantine, quorum.Byzantine.MaxFaults(n), members, 0); err != nil {
		tb.Fatal(err)
	}
	c.codec = NewCodec(auth.NewVerifier(c.m, c.scheme))
	for i := range n {
		c.nodes = append(c.nodes, &node{id: smr.NodeID(i + 1), has: map[smr.BundleID]bool{}})
	}
	return c
}

// boot starts every replica and lets it vote.
func (c *cluster) boot() {
	for _, x := range c.nodes {
		c.start(x)
	}
}

func (c *cluster) start(x *node) {
	p := protocol.Params{
		Self: x.id, Membership: c.m, Verifier: auth.NewVerifier(c.m, c.scheme), Signer: c.scheme.Signer(uint64(x.id)),
		Pipeline: 4, Window: 4096, BaseTimeout: 200 * time.Millisecond, MaxTimeout: 5 * time.Second,
		Heartbeat: 50 * time.Millisecond, Resend: 100 * time.Millisecond, MaxClockDrift: 50 * time.Millisecond,
	}
	if c.params != nil {
		c.params(&p)
	}
	x.ord, x.alive, x.pending = New(p), true, false
	x.life++
	x.timers, x.holds, x.done, x.asks = map[protocol.TimerID]uint64{}, map[smr.BundleID]int{}, map[smr.BundleID]bool{}, map[smr.Digest]protocol.Need{}
	x.gated, x.syncing, x.last, x.digest, x.chain, x.behind = nil, false, x.base.Seq, x.base.Digest, x.chain[:x.base.Seq:x.base.Seq], 0
	for _, d := range x.chain {
		for _, ref := range d.Refs {
			x.done[ref.ID] = true
		}
	}
	x.durable = len(x.log)
	rec := recovered(x.log)
	rec.Base = x.base
	c.run(x, func(out *protocol.Effects) { x.ord.Start(c.now, rec, out) })
	c.run(x, func(out *protocol.Effects) { x.ord.Enable(c.now, out) })
	for _, y := range c.nodes {
		if y != x && y.alive {
			c.run(x, func(out *protocol.Effects) { x.ord.Connected(c.now, y.id, out) })
			c.run(y, func(out *protocol.Effects) { y.ord.Connected(c.now, x.id, out) })
		}
	}
}

// crash stops a replica; of what it had not synced a random prefix survives.
func (c *cluster) crash(x *node) {
	x.alive = false
	x.log = x.log[:x.durable+c.rng.IntN(len(x.log)-x.durable+1)]
}

// truncate drops what a durable checkpoint at seq covers from the log, which is synced first.
func (x *node) truncate(seq smr.SeqNo) {
	if seq > x.last {
		return
	}
	x.base = x.chain[seq-1].HeaderInfo
	x.log = slices.DeleteFunc(x.log, func(r protocol.Record) bool { return r.Kind != protocol.RecordState && r.Seq <= seq })
	x.durable = len(x.log)
}

// render shows a message in a line.
func render(m protocol.Message) string {
	switch m := m.(type) {
	case *Proposal:
		s := fmt.Sprintf("proposal %d/%d with %d bundles", m.Header.View, m.Header.Seq, len(m.Header.Refs))
		if m.Timeout != nil {
			s += ", " + render(m.Timeout)
		}
		if m.HandOver != nil {
			s += ", hand-over"
		}
		return s
	case *Vote:
		kind := map[uint8]string{kindPrepare: "prepare", kindCommit: "commit"}[m.Kind()]
		if m.Again {
			kind += " again"
		}
		return fmt.Sprintf("%s %d/%d", kind, m.view(), m.seq())
	case *Certificate:
		kind := "prepare"
		if m.commit() {
			kind = "commit"
		}
		return fmt.Sprintf("%s certificate %d/%d", kind, m.Core.View, m.Core.Seq)
	case *Complaint:
		return fmt.Sprintf("complaint %d", m.view())
	case *Timeout:
		return fmt.Sprintf("timeout %d with %s", m.view(), lockText(m.Lock))
	case *TimeoutCertificate:
		return fmt.Sprintf("timeout certificate %d with %s", m.view, lockText(m.lock))
	case *Heartbeat:
		return fmt.Sprintf("heartbeat %d", m.View)
	case *Ask:
		return fmt.Sprintf("ask %d above %d", m.Seq, m.Above)
	case *Answer:
		return fmt.Sprintf("answer of %d headers from %d down", len(m.Headers), m.Headers[0].Seq)
	}
	return fmt.Sprintf("%T", m)
}

func lockText(c *Certificate) string {
	if c == nil {
		return "no lock"
	}
	return fmt.Sprintf("lock %d/%d", c.Core.View, c.Core.Seq)
}

// recovered reads a log as storage would.
func recovered(log []protocol.Record) protocol.Recovered {
	rec := protocol.Recovered{Fresh: len(log) == 0}
	state := map[uint8]protocol.Record{}
	var props, marks []protocol.Record
	same := func(a protocol.Record) func(protocol.Record) bool {
		return func(b protocol.Record) bool { return a.Seq == b.Seq && a.View == b.View && a.Digest == b.Digest }
	}
	for _, r := range log {
		switch r.Kind {
		case protocol.RecordState:
			state[r.Name] = r
		case protocol.RecordProposal:
			props = append(slices.DeleteFunc(props, same(r)), r)
		case protocol.RecordDrop:
			props = slices.DeleteFunc(props, same(r))
		case protocol.RecordDecision:
			marks = append(marks, r)
		}
	}
	for n := range uint8(16) {
		if r, ok := state[n]; ok {
			rec.State = append(rec.State, r)
		}
	}
	slices.SortStableFunc(props, func(a, b protocol.Record) int {
		if a.Seq != b.Seq {
			return int(a.Seq) - int(b.Seq)
		}
		return int(a.View) - int(b.View)
	})
	rec.Proposals, rec.Decisions = props, marks
	return rec
}

func (c *cluster) after(d time.Duration, do func()) {
	c.order++
	heap.Push(&c.queue, event{c.now.Add(d), c.order, do})
}

func (c *cluster) random(limit time.Duration) time.Duration {
	return time.Duration(c.rng.Int64N(int64(limit) + 1))
}

// run gives a replica an input and carries out its effects, then offers it work.
func (c *cluster) run(x *node, input func(out *protocol.Effects)) {
	if !x.alive {
		return
	}
	var out protocol.Effects
	input(&out)
	c.absorb(x, &out)
	c.offer(x)
}

func (c *cluster) absorb(x *node, out *protocol.Effects) {
	for _, id := range out.Hold {
		x.holds[id]++
		c.hold(x, id)
	}
	x.log = append(x.log, out.Persist...)
	if len(out.Persist) > 0 {
		c.sync(x)
	}
	for _, o := range out.Send {
		c.dispatch(x, o)
	}
	for _, o := range out.SendDurable {
		x.gated = append(x.gated, gatedMessage{len(x.log), o})
	}
	c.openGate(x)
	for _, d := range out.Decide {
		c.onDecide(x, d, 1)
	}
	for _, id := range out.Release {
		if x.holds[id]--; x.holds[id] < 0 {
			c.tb.Fatalf("node %d released %s more often than it held it", x.id, id)
		}
	}
	for _, n := range out.Fetch {
		if n.Ask != nil {
			x.asks[n.Key] = n
			c.ask(x, n, 0)
		}
	}
	for _, d := range out.Found {
		delete(x.asks, d)
	}
	if out.Behind != nil {
		x.behind = max(x.behind, out.Behind.Seq)
		c.after(20*time.Millisecond, func() { c.transfer(x) })
	}
	for _, id := range out.StopTimer {
		x.timers[id]++
	}
	for _, t := range out.SetTimer {
		x.timers[t.ID]++
		gen, life := x.timers[t.ID], x.life
		c.after(t.After, func() {
			if x.life == life && x.timers[t.ID] == gen {
				c.run(x, func(out *protocol.Effects) { x.ord.Expire(c.now, t.ID, out) })
			}
		})
	}
	for _, e := range out.Note {
		if e.Kind != protocol.EventDrop {
			x.events = append(x.events, e)
		}
		c.tracef("%d: %s", x.id, e)
	}
}

func (c *cluster) tracef(format string, args ...any) {
	if c.trace != nil {
		fmt.Fprintf(c.trace, format+"\n", args...)
	}
}

// hold answers Held once the bundle is here: at once, or after a fetch.
func (c *cluster) hold(x *node, id smr.BundleID) {
	life := x.life
	delay := time.Duration(0)
	if !x.has[id] {
		delay = 5*time.Millisecond + c.random(c.maxDelay)
	}
	c.after(delay, func() {
		if x.life != life || c.missing[id] {
			return
		}
		x.has[id] = true
		c.run(x, func(out *protocol.Effects) { x.ord.Held(c.now, []smr.BundleID{id}, out) })
	})
}

// ask sends a question to one peer after the other until it is answered.
func (c *cluster) ask(x *node, n protocol.Need, try int) {
	life := x.life
	c.after(5*time.Millisecond+time.Duration(try)*20*time.Millisecond, func() {
		if _, open := x.asks[n.Key]; !open || x.life != life || try > 20 || !x.alive {
			return
		}
		c.dispatch(x, protocol.Outbound{To: n.Peers[try%len(n.Peers)], Msg: n.Ask})
		c.ask(x, n, try+1)
	})
}

// transfer takes decisions over from a replica that has them, verified as a range.
func (c *cluster) transfer(x *node) {
	if !x.alive || x.last >= x.behind {
		return
	}
	for _, y := range c.nodes {
		if y == x || !y.alive || y.last <= x.last || c.faulty[y.id] != nil {
			continue
		}
		var r protocol.Range
		end := smr.SeqNo(0)
		for _, d := range y.chain[x.last:] {
			if d.Proof != nil {
				end = d.Seq
				r.Proof = d.Proof.Bytes()
			}
		}
		for _, d := range y.chain[x.last:max(end, x.last)] {
			r.Headers = append(r.Headers, d.Header)
			bundles := make([]*smr.Bundle, len(d.Refs))
			for i, ref := range d.Refs {
				bundles[i] = &smr.Bundle{ID: ref.ID, Raw: make([]byte, ref.Bytes)}
			}
			r.Bundles = append(r.Bundles, bundles)
		}
		if len(r.Headers) == 0 {
			continue
		}
		ds, err := c.codec.VerifyRange(x.last, x.digest, r)
		if err != nil {
			c.tb.Fatalf("range from %d: %v", y.id, err)
		}
		for _, d := range ds {
			x.log = append(x.log,
				protocol.Record{Kind: protocol.RecordProposal, Epoch: d.Epoch, View: d.View, Seq: d.Seq, Digest: d.Digest, Data: d.Header, Refs: d.Refs},
				protocol.Record{Kind: protocol.RecordDecision, Epoch: d.Epoch, View: d.View, Seq: d.Seq, Digest: d.Digest})
			c.onDecide(x, d, 0)
		}
		x.log[len(x.log)-1].Data = r.Proof
		c.sync(x)
		last := ds[len(ds)-1]
		c.run(x, func(out *protocol.Effects) {
			x.ord.Install(c.now, last.Seq, protocol.Proof{Decision: last}, out)
		})
		return
	}
}

func (c *cluster) sync(x *node) {
	if x.syncing {
		return
	}
	x.syncing = true
	life, upto := x.life, len(x.log)
	c.after(c.random(c.maxSync), func() {
		if x.life != life || !x.alive {
			return
		}
		x.syncing, x.durable = false, upto
		if len(x.log) > upto {
			c.sync(x)
		}
		c.openGate(x)
	})
}

func (c *cluster) openGate(x *node) {
	for len(x.gated) > 0 && x.gated[0].after <= x.durable {
		o := x.gated[0].o
		x.gated = x.gated[1:]
		c.audit(x, o.Msg)
		if o.To == x.id {
			life, m := x.life, o.Msg
			c.after(0, func() {
				if x.life == life {
					c.run(x, func(out *protocol.Effects) { x.ord.Receive(c.now, x.id, m, out) })
				}
			})
			continue
		}
		c.dispatch(x, o)
	}
}

// audit checks that a correct replica never votes twice nor after its timeout, over all its lives.
func (c *cluster) audit(x *node, m protocol.Message) {
	if c.faulty[x.id] != nil {
		return
	}
	switch m := m.(type) {
	case *Vote:
		k := voteKey{x.id, m.Kind(), m.view(), m.seq()}
		if d, ok := c.votes[k]; ok && d != m.digest() {
			c.tb.Fatalf("node %d voted twice: %+v", x.id, k)
		}
		if _, ok := c.votes[k]; !ok && m.view() < c.timedOut[x.id] {
			c.tb.Fatalf("node %d voted after its timeout: %+v", x.id, k)
		}
		c.votes[k] = m.digest()
	case *Timeout:
		c.timedOut[x.id] = max(c.timedOut[x.id], m.view()+1)
	}
}

// dispatch sends over the network: encoded, delayed, perhaps lost.
func (c *cluster) dispatch(x *node, o protocol.Outbound) {
	if t := c.faulty[x.id]; t != nil && t.intercept(c, x, o) {
		return
	}
	for _, y := range c.nodes {
		if y != x && (o.To == protocol.Everyone || o.To == y.id) {
			c.transmit(x, y, o.Msg)
		}
	}
}

func (c *cluster) transmit(x, y *node, m protocol.Message) {
	if c.rng.Float64() < c.drop || c.filter != nil && !c.filter(x.id, y.id, m) {
		return
	}
	raw := c.codec.Append(nil, m)
	delay := c.random(c.maxDelay)
	if c.lag != nil {
		delay += c.lag(x.id, y.id, m)
	}
	c.after(delay, func() {
		if !y.alive {
			return
		}
		got, err := c.codec.Decode(x.id, m.Kind(), raw)
		if err != nil {
			c.tb.Fatalf("node %d cannot read %T of %d: %v", y.id, m, x.id, err)
		}
		if c.watch == y.id {
			c.tracef("%d: from %d: %s", y.id, x.id, render(got))
		}
		if t := c.faulty[y.id]; t != nil {
			t.observe(c, y, got)
		}
		c.run(y, func(out *protocol.Effects) { y.ord.Receive(c.now, x.id, got, out) })
	})
}

func (c *cluster) onDecide(x *node, d protocol.Decision, held int) {
	if d.Seq != x.last+1 || d.Parent != x.digest {
		c.tb.Fatalf("node %d decided %d after %d", x.id, d.Seq, x.last)
	}
	if c.faulty[x.id] == nil {
		if old, ok := c.decided[d.Seq]; ok && old != d.Digest {
			c.tb.Fatalf("FORK at %d: node %d decided %s, another %s", d.Seq, x.id, d.Digest, old)
		}
		c.decided[d.Seq] = d.Digest
	}
	x.last, x.digest = d.Seq, d.Digest
	x.chain = append(x.chain, d)
	for _, ref := range d.Refs {
		x.done[ref.ID] = true
		x.has[ref.ID] = true
		if x.holds[ref.ID] -= held; x.holds[ref.ID] < 0 {
			c.tb.Fatalf("node %d decided %d, whose bundle %s it did not hold", x.id, d.Seq, ref.ID)
		}
	}
	c.tracef("%d: %s", x.id, d)
}

// submit makes a bundle known to every replica after a random delay.
func (c *cluster) submit() smr.BundleID { return c.submitTo(0) }

// submitTo is submit, but nobody gets the bundle unless only is 0.
func (c *cluster) submitTo(only int) smr.BundleID {
	c.made++
	var id smr.BundleID
	binary.BigEndian.PutUint32(id[:], c.made)
	c.all = append(c.all, id)
	for _, x := range c.nodes {
		if only == 0 {
			c.after(c.random(c.maxDelay), func() { c.learns(x, id) })
		}
	}
	return id
}

func (c *cluster) learns(x *node, id smr.BundleID) {
	if !c.learnt(x, id) {
		x.known = append(x.known, id)
	}
	x.has[id] = true
	c.run(x, func(out *protocol.Effects) { x.ord.Held(c.now, []smr.BundleID{id}, out) })
}

// offer proposes what waits, and reports whether anything does.
func (c *cluster) offer(x *node) {
	for x.alive {
		waiting := false
		var free []smr.BundleRef
		for _, id := range x.known {
			if x.done[id] {
				continue
			}
			waiting = true
			if x.holds[id] == 0 && len(free) < 3 {
				free = append(free, smr.BundleRef{ID: id, Bytes: 10})
			}
		}
		var out protocol.Effects
		switch {
		case waiting != x.pending:
			x.pending = waiting
			x.ord.Pending(c.now, waiting, &out)
		case len(free) > 0 && x.ord.Want() > 0:
			x.ord.Propose(c.now, smr.Batch{Refs: free, Time: c.now.UnixNano()}, &out)
		default:
			return
		}
		c.absorb(x, &out)
	}
}

// step handles the next event and reports whether there was one.
func (c *cluster) step() bool {
	if len(c.queue) == 0 {
		return false
	}
	e := heap.Pop(&c.queue).(event)
	c.now = e.at
	e.do()
	return true
}

// elapse lets virtual time pass.
func (c *cluster) elapse(d time.Duration) {
	end := c.now.Add(d)
	for len(c.queue) > 0 && !c.queue[0].at.After(end) {
		c.step()
	}
	c.now = end
}

// settled reports whether every live correct replica decided every bundle and the same height.
func (c *cluster) settled() bool {
	height := smr.SeqNo(len(c.decided))
	for _, x := range c.nodes {
		if !x.alive || c.faulty[x.id] != nil {
			continue
		}
		if x.last != height {
			return false
		}
		for _, id := range c.all {
			if !x.done[id] && !c.missing[id] {
				return false
			}
		}
	}
	return true
}

// await fails the test unless everything is decided within d of virtual time.
func (c *cluster) await(d time.Duration) {
	c.tb.Helper()
	for end := c.now.Add(d); !c.settled(); {
		if c.now.After(end) || !c.step() {
			c.tb.Fatalf("no progress within %v:\n%s", d, c.describe())
		}
	}
}

func (c *cluster) describe() string {
	var b strings.Builder
	for _, x := range c.nodes {
		if x.ord == nil {
			continue
		}
		st := x.ord.Status()
		fmt.Fprintf(&b, "node %d alive=%v view=%d changing=%v tip=%d prepared=%d decided=%d/%d voted=%v lock=%v timeout=%v behind=%d asks=%d pending=%v\n",
			x.id, x.alive, st.View, st.Changing, st.Tip, st.Prepared, st.Decided, x.last, st.Voted, st.Locked, st.Timeout, x.behind, len(x.asks), x.pending)
	}
	return b.String()
}

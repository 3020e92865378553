package check

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/protocol"
)

// maxViews bounds the views of a run.
const maxViews = 3

// facts is what a replica signed and sent, and the highest it decided in any life.
type facts struct {
	prepared  uint64          // proposals it prepared, a bit each
	committed uint64          // proposals it committed
	proposed  uint64          // as primary
	timeouts  [maxViews]uint8 // 1 + lock of its timeout of each view; 0 for none
	decided   uint8
}

// spoken leaves out what nobody sees.
func (f facts) spoken() facts {
	f.decided = 0
	return f
}

// local is one replica's state. It is immutable once it has a number.
type local struct {
	m     protocol.Explorable
	duty  uint8
	facts facts
	disk  *disk // of a replica that may crash
	view  smr.View
	tip   smr.SeqNo
	done  smr.SeqNo // decided in this life
	want  int
}

// duty is what distinguishes correct replicas: who it is to the machine, and whether it may crash.
type duty struct {
	id      smr.NodeID
	crashes int
}

// disk is the log and the gate of a replica that crashes.
type disk struct {
	durable []protocol.Record // live records only
	loose   []protocol.Record // not yet synced
	gated   []protocol.Outbound
	crashes int
}

// flaw is a broken property.
type flaw string

// life works off one input at one replica.
type life struct {
	w     *world
	x     *local
	queue []func(out *protocol.Effects)
	base  uint8 // decided so far in this life
}

// step gives a local state an input and returns the resulting one, which is the same if nothing
// came of it, and what broke on the way.
func (w *world) step(from uint32, in input) (to uint32, broken flaw) {
	key := uint64(from)<<32 | uint64(in)
	if to, ok := w.steps[key]; ok {
		return to, w.flaws[key]
	}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case flaw:
			to, broken = from, p
			w.flaws[key] = broken
		case invariant.Violation:
			to, broken = from, flaw(p.Error())
			w.flaws[key] = broken
		default:
			panic(p)
		}
		w.steps[key] = to
	}()
	old := w.locals[from]
	x := &local{m: old.m.Clone(), duty: old.duty, facts: old.facts, disk: old.disk, done: old.done}
	if old.disk != nil {
		d := *old.disk
		d.durable, d.loose, d.gated = clip(d.durable), clip(d.loose), clip(d.gated)
		x.disk = &d
	}
	l := &life{w: w, x: x, base: w.onLine(old.facts.decided, old.done)}
	in.apply(l)
	l.drain()
	return w.name(x), ""
}

func clip[T any](s []T) []T { return s[:len(s):len(s)] }

// onLine returns the block of seq among b and its ancestors; 0 if there is none.
func (w *world) onLine(b uint8, seq smr.SeqNo) uint8 {
	for b != 0 && w.blocks[b].seq > seq {
		b = w.blocks[b].parent
	}
	return b
}

// name returns the number of a local state.
func (w *world) name(x *local) uint32 {
	b := append(w.scratch[:0], x.duty, x.facts.decided, byte(x.done))
	b = binary.BigEndian.AppendUint64(b, x.facts.prepared)
	b = binary.BigEndian.AppendUint64(b, x.facts.committed)
	b = binary.BigEndian.AppendUint64(b, x.facts.proposed)
	b = append(b, x.facts.timeouts[:]...)
	if d := x.disk; d != nil {
		b = append(b, byte(d.crashes), byte(len(d.durable)), byte(len(d.loose)), byte(len(d.gated)))
		for _, rs := range [][]protocol.Record{d.durable, d.loose} {
			for i := range rs {
				b = w.appendRecord(b, &rs[i])
			}
		}
		for _, o := range d.gated {
			b = append(b, o.Msg.Kind(), byte(o.To))
			b = w.appendNamed(b, o.Msg.Kind(), w.codec.Append(nil, o.Msg))
		}
	}
	b = x.m.Fingerprint(b, x.disk != nil)
	w.scratch = b
	sum := sha256.Sum256(b)
	if id, ok := w.names[sum]; ok {
		return id
	}
	st := x.m.Status()
	x.view, x.tip, x.want = st.View, st.Tip, x.m.Want()
	id := uint32(len(w.locals))
	w.locals = append(w.locals, x)
	w.names[sum] = id
	return id
}

func (w *world) appendRecord(b []byte, r *protocol.Record) []byte {
	b = append(b, byte(r.Kind), r.Name, byte(r.View), byte(r.Seq))
	b = append(b, r.Digest[:]...)
	if r.Kind != protocol.RecordState || len(r.Data) == 0 {
		return b
	}
	switch r.Name {
	case stateView:
		return w.appendNamed(b, r.Data[0], r.Data[1:])
	case stateTimeout:
		return w.appendNamed(b, kindTimeout, r.Data)
	}
	return b // the lock's digest names it
}

// Names of vote state in pbft's log whose data says more than the record's position.
const (
	stateView    = 1
	stateTimeout = 2
)

// appendNamed appends what a message says apart from who signed its certificates.
func (w *world) appendNamed(b []byte, kind uint8, raw []byte) []byte {
	core := func(c *pbftpb.Certificate) {
		if c == nil {
			b = append(b, 0)
			return
		}
		d := digestOf(c.Core)
		b = append(append(b, 1), d[:]...)
	}
	switch kind {
	case kindTimeoutCertificate:
		var p pbftpb.TimeoutCertificate
		w.must(p.UnmarshalVT(raw))
		b = append(b, byte(p.View))
		core(p.Lock)
	case kindTimeout:
		var p pbftpb.Timeout
		w.must(p.UnmarshalVT(raw))
		b = append(b, byte(p.View))
		core(p.Lock)
	case kindCertificate:
		var p pbftpb.Certificate
		w.must(p.UnmarshalVT(raw))
		core(&p)
	case kindPrepare, kindCommit:
		var p pbftpb.Vote
		w.must(p.UnmarshalVT(raw))
		b = append(b, byte(p.View), byte(p.Seq))
		b = append(b, p.Digest...)
	case kindProposal:
		var p pbftpb.Proposal
		w.must(p.UnmarshalVT(raw))
		d := digestOf(p.Header)
		b = append(b, d[:]...)
	}
	return b
}

func (w *world) must(err error) { invariant.Check(err == nil, "a message of the machine: %v", err) }

// input queues something for the machine.
func (l *life) input(f func(out *protocol.Effects)) { l.queue = append(l.queue, f) }

func (l *life) receive(from smr.NodeID, m protocol.Message) {
	if m != nil {
		l.input(func(out *protocol.Effects) { l.x.m.Receive(l.w.now, from, m, out) })
	}
}

// drain gives the machine what is queued, and what follows from it, until nothing is left.
func (l *life) drain() {
	for n := 0; len(l.queue) > 0; n++ {
		f := l.queue[0]
		l.queue = l.queue[1:]
		var out protocol.Effects
		f(&out)
		l.absorb(&out)
		if n > 1000 {
			panic(flaw("a replica talks to itself for ever"))
		}
	}
}

func (l *life) absorb(out *protocol.Effects) {
	x := l.x
	if x.disk != nil {
		x.disk.loose = append(x.disk.loose, out.Persist...)
	}
	for _, o := range out.Send {
		l.leaves(o)
	}
	for _, o := range out.SendDurable {
		if x.disk != nil {
			x.disk.gated = append(x.disk.gated, o)
		} else {
			l.leaves(o)
		}
	}
	for _, d := range out.Decide {
		l.decide(d)
	}
	if len(out.Hold) > 0 {
		ids := append([]smr.BundleID(nil), out.Hold...)
		l.input(func(out *protocol.Effects) { l.x.m.Held(l.w.now, ids, out) })
	}
	for _, n := range out.Fetch {
		if n.Ask != nil {
			var p pbftpb.Ask
			l.w.must(p.UnmarshalVT(l.w.codec.Append(nil, n.Ask)))
			l.receive(l.w.other(l.w.duties[x.duty].id, 0), l.w.answer(smr.Digest(p.Digest), smr.SeqNo(p.Above)))
		}
	}
}

// sync makes everything durable and opens the gate.
func (l *life) sync() {
	d := l.x.disk
	d.durable = compact(append(d.durable, d.loose...))
	d.loose = nil
	gated := d.gated
	d.gated = nil
	for _, o := range gated {
		l.leaves(o)
	}
}

// crash keeps the first of what was not synced and starts again from the log.
func (l *life) crash(keep int) {
	d := l.x.disk
	d.durable = compact(append(d.durable, d.loose[:keep]...))
	d.loose, d.gated, d.crashes = nil, nil, d.crashes+1
	l.x.m = l.w.machine(l.w.duties[l.x.duty].id)
	l.base, l.x.done = 0, 0
	rec := recovered(d.durable)
	l.input(func(out *protocol.Effects) { l.x.m.Start(l.w.now, rec, out) })
	l.input(func(out *protocol.Effects) { l.x.m.Enable(l.w.now, out) })
}

// compact keeps what a log would still hold, state first.
func compact(log []protocol.Record) []protocol.Record {
	rec := recovered(log)
	return append(append(append([]protocol.Record(nil), rec.State...), rec.Proposals...), rec.Decisions...)
}

// recovered reads a log as storage does.
func recovered(log []protocol.Record) protocol.Recovered {
	rec := protocol.Recovered{Fresh: len(log) == 0}
	var state [16]*protocol.Record
	for i := range log {
		r := log[i]
		switch r.Kind {
		case protocol.RecordState:
			state[r.Name] = &r
		case protocol.RecordProposal:
			rec.Proposals = insert(without(rec.Proposals, r), r)
		case protocol.RecordDrop:
			rec.Proposals = without(rec.Proposals, r)
		case protocol.RecordDecision:
			rec.Decisions = append(rec.Decisions, r)
		}
	}
	for _, r := range state {
		if r != nil {
			rec.State = append(rec.State, *r)
		}
	}
	return rec
}

func without(rs []protocol.Record, r protocol.Record) []protocol.Record {
	out := rs[:0:0]
	for _, o := range rs {
		if o.Seq != r.Seq || o.View != r.View || o.Digest != r.Digest {
			out = append(out, o)
		}
	}
	return out
}

// insert keeps proposals in (Seq, View, Digest) order.
func insert(rs []protocol.Record, r protocol.Record) []protocol.Record {
	at := 0
	for at < len(rs) && (rs[at].Seq < r.Seq || rs[at].Seq == r.Seq && (rs[at].View < r.View || rs[at].View == r.View && string(rs[at].Digest[:]) < string(r.Digest[:]))) {
		at++
	}
	return append(rs[:at:at], append([]protocol.Record{r}, rs[at:]...)...)
}

// leaves notes what a replica signed as it leaves, and checks that it may.
func (l *life) leaves(o protocol.Outbound) {
	id := l.w.duties[l.x.duty].id
	l.note(o.Msg)
	if o.To == id {
		l.receive(id, o.Msg)
	}
}

func (l *life) note(m protocol.Message) {
	w, f := l.w, &l.x.facts
	raw := w.codec.Append(nil, m)
	switch m.Kind() {
	case kindProposal:
		var p pbftpb.Proposal
		w.must(p.UnmarshalVT(raw))
		parent, ok := w.index[smr.Digest(p.Header[parentAt:parentAt+32])]
		if !ok {
			panic(flaw("a correct primary extends what nobody proposed"))
		}
		b := w.register(p.Header, parent, l.lives())
		l.once(&f.proposed, b, "proposes")
	case kindPrepare, kindCommit:
		var p pbftpb.Vote
		w.must(p.UnmarshalVT(raw))
		b, ok := w.index[smr.Digest(p.Digest)]
		if !ok {
			panic(flaw("a vote for what nobody proposed"))
		}
		set, what := &f.prepared, "prepares"
		if m.Kind() == kindCommit {
			set, what = &f.committed, "commits"
		}
		l.banned(*set, b, what)
		if m.Kind() == kindPrepare {
			l.rises(b)
		}
		l.once(set, b, what)
	case kindTimeout:
		var p pbftpb.Timeout
		w.must(p.UnmarshalVT(raw))
		lock := uint8(0)
		if p.Lock != nil {
			lock = w.index[digestOf(p.Lock.Core)]
		}
		l.timeout(smr.View(p.View), lock)
	}
}

// once adds b to a set that may hold one proposal of each (view, seq).
func (l *life) once(set *uint64, b uint8, what string) {
	for o := range l.w.each(*set) {
		if x, y := l.w.blocks[o], l.w.blocks[b]; o != b && x.view == y.view && x.seq == y.seq {
			panic(flaw(fmt.Sprintf("a correct replica %s both %s and %s", what, l.w.call(o), l.w.call(b))))
		}
	}
	*set |= 1 << b
}

// banned checks that no timeout binds against a new vote.
func (l *life) banned(set uint64, b uint8, what string) {
	for v, t := range l.x.facts.timeouts {
		if t != 0 && l.w.blocks[b].view <= smr.View(v) && set&(1<<b) == 0 {
			panic(flaw(fmt.Sprintf("a correct replica %s %s after its timeout of view %d", what, l.w.call(b), v)))
		}
	}
}

// rises checks that prepares of one view rise in seq. A replica that restarts may prepare an ancestor
// of what it prepared, which a certificate had carried it past: the vote for the descendant speaks
// for it already.
func (l *life) rises(b uint8) {
	y := l.w.blocks[b]
	for o := range l.w.each(l.x.facts.prepared) {
		if x := l.w.blocks[o]; x.view == y.view && x.seq > y.seq && x.line&(1<<b) == 0 && l.x.facts.prepared&(1<<b) == 0 {
			panic(flaw(fmt.Sprintf("a correct replica prepares %s after %s", l.w.call(b), l.w.call(o))))
		}
	}
}

// timeout checks that a timeout's lock is no lower than any own commit.
func (l *life) timeout(v smr.View, lock uint8) {
	f := &l.x.facts
	if v >= maxViews {
		panic(flaw(fmt.Sprintf("a timeout of view %d", v)))
	}
	if was := f.timeouts[v]; was != 0 && was != lock+1 {
		panic(flaw(fmt.Sprintf("a correct replica signs two timeouts of view %d", v)))
	}
	for o := range l.w.each(f.committed) {
		if l.w.below(lock, o) {
			panic(flaw(fmt.Sprintf("a timeout of view %d hides the lock %s", v, l.w.call(o))))
		}
	}
	f.timeouts[v] = lock + 1
}

// below orders locks: views first, then sequence numbers.
func (w *world) below(a, b uint8) bool {
	x, y := w.blocks[a], w.blocks[b]
	if a == 0 || b == 0 {
		return b != 0 && a == 0
	}
	return x.view < y.view || x.view == y.view && x.seq < y.seq
}

// decide checks the order of decisions, and that none ever changes.
func (l *life) decide(d protocol.Decision) {
	b, ok := l.w.index[d.Digest]
	if !ok || l.w.blocks[b].parent != l.base {
		panic(flaw(fmt.Sprintf("decides %d on %s, out of order", d.Seq, l.w.call(l.base))))
	}
	l.base, l.x.done = b, d.Seq
	f := &l.x.facts
	switch ever := f.decided; {
	case l.w.blocks[b].line&(1<<ever) != 0:
		f.decided = b
	case l.w.blocks[ever].line&(1<<b) == 0:
		panic(flaw(fmt.Sprintf("decides %s after having decided %s", l.w.call(b), l.w.call(ever))))
	}
}

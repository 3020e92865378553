package check

import (
	"fmt"
	"iter"
	"math/bits"
	"slices"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

// world holds everything that was found out about single replicas.
type world struct {
	o      Options
	m      *quorum.Membership
	v      *auth.Verifier
	codec  protocol.Codec
	scheme *auth.StandIn
	now    time.Time
	byz    int    // Byzantine replicas, 0 or 1
	duties []duty // of the correct replicas, equal ones side by side
	duty   []uint8

	blocks []block
	index  map[smr.Digest]uint8
	made   map[place]offer

	locals  []*local
	names   map[[32]byte]uint32
	steps   map[uint64]uint32
	flaws   map[uint64]flaw
	scratch []byte

	envs   map[env]uint32
	jumps  map[uint64][]uint32
	tcs    map[[6]uint8]bool
	spec   int // correct replicas behind every quorum
	needs  [2]int
	shares int
}

// place names a Byzantine proposal.
type place struct {
	view                  smr.View
	parent, variant, lock uint8
}

// offer is what the codec says of it.
type offer struct {
	block uint8
	legal bool
}

// env is what a replica may learn from the others: all that its inputs depend on beside itself.
type env struct {
	prepared, committed uint64 // a quorum's votes exist, by what the product counts as one
	final               uint64 // a quorum's commits exist
	seen                uint64 // a correct replica prepared it or, leading, proposed it
	timeouts            [maxViews - 1][3]uint8
}

func newWorld(o Options) (*world, error) {
	w := &world{
		o: o, scheme: auth.NewStandIn(1), now: time.Unix(1_700_000_000, 0), index: map[smr.Digest]uint8{{}: 0}, blocks: make([]block, 1),
		made: map[place]offer{}, names: map[[32]byte]uint32{}, steps: map[uint64]uint32{}, flaws: map[uint64]flaw{},
		envs: map[env]uint32{}, jumps: map[uint64][]uint32{}, tcs: map[[6]uint8]bool{},
	}
	w.blocks[0].line = 1
	members := make([]quorum.Member, o.Replicas)
	for i := range members {
		members[i] = quorum.Member{ID: smr.NodeID(i + 1), Role: quorum.Voter, Key: w.scheme.Signer(uint64(i + 1)).Public()}
	}
	f := quorum.Byzantine.MaxFaults(o.Replicas)
	var err error
	if w.m, err = quorum.New(smr.ClusterID{7}, 1, quorum.Byzantine, f, members, 0); err != nil {
		return nil, err
	}
	w.v = auth.NewVerifier(w.m, w.scheme)
	w.codec = o.Factory.NewCodec(w.v)
	w.spec = (o.Replicas + f + 2) / 2 // ceil((n+f+1)/2), counted here and not by the product
	switch o.Fault {
	case Byzantine:
		// Every correct replica runs as the last voter, which leads none of the views: the Byzantine
		// one leads them all, and correct ones are interchangeable.
		w.byz, w.spec = 1, w.spec-1
		w.duties = []duty{{id: smr.NodeID(o.Replicas)}}
		w.duty = make([]uint8, o.Replicas-1)
		if o.Crashes > 0 {
			w.duties = append(w.duties, duty{id: smr.NodeID(o.Replicas), crashes: o.Crashes})
			w.duty[o.Replicas-2] = 1
		}
	case Crash:
		w.crashDuties()
	}
	return w, nil
}

// crashDuties gives each of the first Views voters its own duty, since they lead; the others share
// one, apart from the one that crashes.
func (w *world) crashDuties() {
	lead := min(w.o.Views, w.o.Replicas)
	add := func(d duty) {
		w.duties = append(w.duties, d)
		w.duty = append(w.duty, uint8(len(w.duties)-1))
	}
	for i := range lead {
		d := duty{id: smr.NodeID(i + 1)}
		if i == w.o.Victim-1 {
			d.crashes = w.o.Crashes
		}
		add(d)
	}
	rest := w.o.Replicas - lead
	if w.o.Victim > lead {
		add(duty{id: smr.NodeID(w.o.Replicas), crashes: w.o.Crashes})
		rest--
	}
	if rest > 0 {
		add(duty{id: smr.NodeID(w.o.Replicas)})
		for range rest - 1 {
			w.duty = append(w.duty, w.duty[len(w.duty)-1])
		}
	}
}

// machine returns a fresh production machine.
func (w *world) machine(id smr.NodeID) protocol.Explorable {
	return w.o.Factory.New(protocol.Params{
		Self: id, Membership: w.m, Verifier: w.v, Signer: w.scheme.Signer(uint64(id)), Pipeline: w.o.Seqs, Window: 64,
		BaseTimeout: time.Second, MaxTimeout: time.Second, MaxClockDrift: time.Hour,
	}).(protocol.Explorable)
}

// first returns the state in which a duty begins.
func (w *world) first(d uint8) (uint32, flaw) {
	x := &local{m: w.machine(w.duties[d].id), duty: d}
	if w.duties[d].crashes > 0 {
		x.disk = &disk{}
	}
	l := &life{w: w, x: x}
	l.input(func(out *protocol.Effects) { x.m.Start(w.now, protocol.Recovered{Fresh: true}, out) })
	l.input(func(out *protocol.Effects) { x.m.Enable(w.now, out) })
	l.drain()
	return w.name(x), ""
}

// probe finds how few voters the product takes for a quorum: inputs then follow what it accepts,
// so that a product that counts wrong is explored as it is.
func (w *world) probe() {
	id := w.duties[0].id
	b := w.register(w.header(0, 0, 0), 0, 0)
	for k, kind := range []uint8{kindPrepare, kindCommit} {
		for w.needs[k] = 1; w.needs[k] < w.m.N()-1; w.needs[k]++ {
			l := w.fresh(id)
			for i := range w.needs[k] {
				l.receive(w.other(id, i), w.vote(w.other(id, i), kind, b))
				l.receive(w.other(id, i), w.vote(w.other(id, i), kind, b))
			}
			l.drain()
			if st := l.x.m.Status(); max(st.Prepared, st.Certified) > 0 {
				break
			}
		}
		w.needs[k] -= w.byz
	}
	for w.shares = 1; w.shares < w.m.Quorum(); w.shares++ {
		if w.decode(id, kindTimeoutCertificate, w.timeouts(0, 0, make([]uint8, w.shares)...)) != nil {
			break
		}
	}
}

func (w *world) fresh(id smr.NodeID) *life {
	l := &life{w: w, x: &local{m: w.machine(id)}}
	l.input(func(out *protocol.Effects) { l.x.m.Start(w.now, protocol.Recovered{Fresh: true}, out) })
	l.input(func(out *protocol.Effects) { l.x.m.Enable(w.now, out) })
	return l
}

// each yields the numbers of a set in ascending order.
func (w *world) each(set uint64) iter.Seq[uint8] {
	return func(yield func(uint8) bool) {
		for ; set != 0; set &= set - 1 {
			if !yield(uint8(bits.TrailingZeros64(set))) {
				return
			}
		}
	}
}

// tally returns what at least k of the counted sets hold, for k up to 4.
type tally [5]uint64

func (t *tally) add(s uint64) {
	for k := 4; k > 1; k-- {
		t[k] |= t[k-1] & s
	}
	t[1] |= s
}

func (t *tally) atLeast(k int) uint64 { return t[max(k, 1)] }

// state is a state of the system: a local state for each correct replica, sorted within a duty.
type state [4]uint32

// environment returns what replica i may learn in g.
func (w *world) environment(g *state, i int) env {
	var e env
	var p, c tally
	for k := range w.duty {
		f := &w.locals[g[k]].facts
		p.add(f.prepared)
		c.add(f.committed)
		e.seen |= f.proposed
		if w.byz > 0 {
			e.seen |= f.prepared
		}
	}
	e.prepared, e.committed, e.final = p.atLeast(w.needs[0]), c.atLeast(w.needs[1]), c.atLeast(w.spec)
	for v := range w.o.Views - 1 {
		n := 0
		for k := range w.duty {
			if t := w.locals[g[k]].facts.timeouts[v]; k != i && t != 0 {
				e.timeouts[v][n] = t
				n++
			}
		}
		slices.Sort(e.timeouts[v][:n])
	}
	return e
}

// agree checks what must hold of all votes together.
func (w *world) agree(g *state) flaw {
	var p, c tally
	for k := range w.duty {
		p.add(w.locals[g[k]].facts.prepared)
		c.add(w.locals[g[k]].facts.committed)
	}
	final := c.atLeast(w.spec)
	for a := range w.each(final) {
		for b := range w.each(final &^ w.blocks[a].line) {
			if w.blocks[b].line&(1<<a) == 0 {
				return flaw(fmt.Sprintf("a quorum commits %s and one commits %s", w.call(a), w.call(b)))
			}
		}
	}
	prepared := p.atLeast(w.spec)
	for a := range w.each(prepared) {
		for b := range w.each(prepared &^ (1<<(a+1) - 1)) {
			if x, y := w.blocks[a], w.blocks[b]; x.view == y.view && x.seq == y.seq {
				return flaw(fmt.Sprintf("a quorum prepares %s and one prepares %s", w.call(a), w.call(b)))
			}
		}
	}
	return ""
}

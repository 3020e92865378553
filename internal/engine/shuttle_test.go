package engine

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// shuttle runs engines over a virtual network: every frame through the receiver's decoder, every
// write into a log that a restart recovers from, all under virtual time.
type shuttle struct {
	t       testing.TB
	now     time.Time
	scheme  *auth.StandIn
	cluster smr.ClusterID
	m       *quorum.Membership
	factory protocol.Factory
	tune    func(*Config)
	nodes   []*node
	events  []event
	count   uint64
	cut     func(from, to smr.NodeID, f Frame) bool // true drops
	nonce   uint64
}

type event struct {
	at  time.Time
	seq uint64
	do  func()
}

type node struct {
	s        *shuttle
	id       smr.NodeID
	e        *Engine
	dec      *Decoder
	out      Output
	up       bool
	life     int
	gen      map[TimerID]uint64
	records  []protocol.Record
	bundles  [][]*smr.Bundle
	logged   map[smr.SeqNo]transfer.LogEntry
	applied  []Delivery
	notes    []protocol.Event
	saved    smr.SeqNo // newest durable checkpoint
	cert     auth.CheckpointCert
	admit    bool // take offers
	unsynced int  // writes that never become durable
}

func newShuttle(t testing.TB, n int, f protocol.Factory, tune func(*Config)) *shuttle {
	s := &shuttle{t: t, now: time.Unix(1000, 0), scheme: auth.NewStandIn(7), cluster: smr.ClusterID{1}, factory: f, tune: tune}
	var members []quorum.Member
	for i := 1; i <= n; i++ {
		members = append(members, quorum.Member{ID: smr.NodeID(i), Role: quorum.Voter, Key: s.scheme.Signer(uint64(i)).Public(), Addr: fmt.Sprint("h:", i)})
	}
	m, err := quorum.New(s.cluster, 1, quorum.Byzantine, (n-1)/3, members, 1)
	if err != nil {
		t.Fatal(err)
	}
	s.m = m
	for i := 1; i <= n; i++ {
		s.nodes = append(s.nodes, &node{s: s, id: smr.NodeID(i), logged: map[smr.SeqNo]transfer.LogEntry{}, admit: true})
	}
	return s
}

func (s *shuttle) at(after time.Duration, do func()) {
	s.count++
	ev := event{s.now.Add(after), s.count, do}
	i, _ := slices.BinarySearchFunc(s.events, ev, func(a, b event) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return int(a.seq) - int(b.seq)
	})
	s.events = slices.Insert(s.events, i, ev)
}

// run handles events for the virtual duration d, or until done reports true.
func (s *shuttle) run(d time.Duration, done func() bool) bool {
	end := s.now.Add(d)
	for len(s.events) > 0 && !s.events[0].at.After(end) {
		ev := s.events[0]
		s.events = s.events[1:]
		s.now = ev.at
		ev.do()
		if done != nil && done() {
			return true
		}
	}
	s.now = end
	return done != nil && done()
}

func (s *shuttle) config(id smr.NodeID) Config {
	v := auth.NewVerifier(s.m, s.scheme)
	cfg := Config{
		Factory: s.factory,
		Params: protocol.Params{
			Self: id, Membership: s.m, Verifier: v, Signer: s.scheme.Signer(uint64(id)), Pipeline: 4, Window: 1 << 12,
			BaseTimeout: 400 * time.Millisecond, MaxTimeout: 5 * time.Second, Heartbeat: 100 * time.Millisecond,
			Resend: 200 * time.Millisecond, MaxClockDrift: time.Second,
		},
	}
	if s.tune != nil {
		s.tune(&cfg)
	}
	return cfg
}

// start starts a node from what its log holds.
func (s *shuttle) start(id smr.NodeID) *node {
	n := s.nodes[id-1]
	n.life++
	cfg := s.config(id)
	n.e, n.up, n.gen, n.out = New(cfg), true, map[TimerID]uint64{}, Output{}
	n.dec = NewDecoder(cfg.Params.Verifier, s.factory.NewCodec(cfg.Params.Verifier), s.scheme)
	n.applied = nil
	n.e.Start(s.now, n.boot(), &n.out)
	n.dispatch()
	for _, other := range s.nodes {
		if other.up && other != n {
			other.do(func() { other.e.Connected(s.now, id, &other.out) })
			n.do(func() { n.e.Connected(s.now, other.id, &n.out) })
		}
	}
	return n
}

func (s *shuttle) startAll() {
	for _, n := range s.nodes {
		s.start(n.id)
	}
}

func (s *shuttle) stop(id smr.NodeID) { s.nodes[id-1].up = false }

// boot replays the durable records the way a log would keep them.
func (n *node) boot() Boot {
	rec := protocol.Recovered{Fresh: len(n.records) == 0}
	state := map[uint8]protocol.Record{}
	seen := map[smr.BundleID]bool{}
	var boot Boot
	type key struct {
		seq smr.SeqNo
		v   smr.View
		d   smr.Digest
	}
	props := map[key]int{}
	decided := map[smr.SeqNo]protocol.Record{}
	for i, r := range n.records {
		switch r.Kind {
		case protocol.RecordState:
			state[r.Name] = r
		case protocol.RecordProposal:
			props[key{r.Seq, r.View, r.Digest}] = i
		case protocol.RecordDrop:
			delete(props, key{r.Seq, r.View, r.Digest})
		case protocol.RecordDecision:
			decided[r.Seq] = r
		}
	}
	for name := range 256 {
		if r, ok := state[uint8(name)]; ok {
			rec.State = append(rec.State, r)
		}
	}
	for _, i := range props {
		rec.Proposals = append(rec.Proposals, n.records[i])
	}
	slices.SortFunc(rec.Proposals, func(a, b protocol.Record) int {
		if a.Seq != b.Seq {
			return int(a.Seq) - int(b.Seq)
		}
		if a.View != b.View {
			return int(a.View) - int(b.View)
		}
		return slices.Compare(a.Digest[:], b.Digest[:])
	})
	for _, p := range rec.Proposals {
		for _, b := range n.bundles[props[key{p.Seq, p.View, p.Digest}]] {
			if !seen[b.ID] {
				seen[b.ID] = true
				boot.Bundles = append(boot.Bundles, b)
			}
		}
	}
	for seq := smr.SeqNo(1); ; seq++ {
		d, ok := decided[seq]
		if !ok {
			break
		}
		rec.Decisions = append(rec.Decisions, d)
	}
	boot.Recovered = rec
	return boot
}

func (n *node) do(f func()) {
	if n.up {
		f()
		n.dispatch()
	}
}

func (n *node) dispatch() {
	s, out := n.s, &n.out
	if out.Fatal != nil {
		s.t.Fatalf("node %d: %v", n.id, out.Fatal)
	}
	life := n.life
	for _, w := range out.Write {
		if n.unsynced > 0 {
			n.unsynced--
			continue
		}
		s.at(500*time.Microsecond, func() {
			if n.life == life && n.up {
				n.keep(w)
				n.do(func() { n.e.Durable(s.now, w.Token, &n.out) })
			}
		})
	}
	for _, f := range out.Send {
		for _, to := range f.To {
			if to == n.id {
				s.t.Fatalf("node %d sends a frame to itself", n.id)
			}
			n.post(to, f)
		}
	}
	deliver := append([]Delivery(nil), out.Deliver...)
	for _, d := range deliver {
		if len(n.applied) > 0 && n.applied[len(n.applied)-1].Decision.Seq+1 != d.Decision.Seq {
			s.t.Fatalf("node %d: delivery %d out of order", n.id, d.Decision.Seq)
		}
		n.applied = append(n.applied, d)
	}
	if len(deliver) > 0 {
		s.at(100*time.Microsecond, func() {
			if n.life == life {
				n.do(func() { n.e.Executed(s.now, deliver[len(deliver)-1].Decision.Seq, &n.out) })
				for _, d := range deliver {
					if d.Checkpoint {
						n.do(func() {
							n.saved = d.Decision.Seq
							n.e.CheckpointSize(d.Decision.Seq, 100)
							n.e.CheckpointDurable(s.now, d.Decision.Seq, sha256.Sum256(d.Decision.Digest[:]), &n.out)
						})
					}
				}
			}
		})
	}
	for _, q := range out.ReadLog {
		s.at(200*time.Microsecond, func() {
			r := LogReadResult{ID: q.ID, First: 1}
			bytes := 0
			for seq := q.After + 1; seq <= q.Upto; seq++ {
				x, ok := n.logged[seq]
				if !ok || bytes > q.MaxBytes {
					break
				}
				bytes += 100
				r.Entries = append(r.Entries, x)
			}
			if n.life == life {
				n.do(func() { n.e.LogRead(s.now, r, &n.out) })
			}
		})
	}
	for _, o := range out.Offer {
		if n.admit {
			s.at(0, func() { n.do(func() { n.e.Bundles(s.now, o.Bundles, o.From, &n.out) }) })
		}
	}
	for _, id := range out.StopTimer {
		n.gen[id]++
	}
	for _, t := range out.SetTimer {
		n.gen[t.ID]++
		gen := n.gen[t.ID]
		s.at(t.After, func() {
			if n.life == life && n.gen[t.ID] == gen {
				n.do(func() { n.e.Expire(s.now, t.ID, &n.out) })
			}
		})
	}
	n.notes = append(n.notes, out.Events...)
	if out.StableCert.Seq() > 0 {
		n.cert = out.StableCert
	}
	out.Reset()
}

func (n *node) keep(w Write) {
	for i, r := range w.Records {
		n.records = append(n.records, r)
		n.bundles = append(n.bundles, w.Bundles[i])
		if r.Kind != protocol.RecordDecision {
			continue
		}
		for j := range n.records {
			if p := n.records[j]; p.Kind == protocol.RecordProposal && p.Seq == r.Seq && p.Digest == r.Digest {
				x := transfer.LogEntry{Header: p.Data, Proof: r.Data}
				for _, b := range n.bundles[j] {
					x.Bundles = append(x.Bundles, b.Raw)
				}
				n.logged[r.Seq] = x
			}
		}
	}
}

func (n *node) post(to smr.NodeID, f Frame) {
	s := n.s
	if s.cut != nil && s.cut(n.id, to, f) {
		return
	}
	dst := s.nodes[to-1]
	s.at(time.Millisecond, func() {
		if !dst.up {
			return
		}
		m, err := dst.dec.Decode(n.id, f.Class, f.Kind, slices.Clone(f.Payload))
		if err != nil {
			s.t.Fatalf("node %d refuses a frame of node %d: %v", to, n.id, err)
		}
		dst.do(func() { dst.e.Receive(s.now, n.id, m, &dst.out) })
	})
}

// bundle makes the next bundle of a client.
func (s *shuttle) bundle(client smr.ClientID) *smr.Bundle {
	s.nonce++
	b, err := wire.EncodeBundle(s.cluster, s.scheme.Signer(1000+uint64(client)), smr.Bundle{
		Kind: smr.BundleOps, Client: client, Session: smr.SessionID(client), First: smr.OpNumber(s.nonce), Acked: 1, Ops: [][]byte{make([]byte, 64)},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// submit hands a bundle to the given nodes as its client would.
func (s *shuttle) submit(b *smr.Bundle, to ...smr.NodeID) {
	for _, id := range to {
		n := s.nodes[id-1]
		n.do(func() { n.e.Bundles(s.now, []*smr.Bundle{b}, auth.ClientIdentity(b.Client), &n.out) })
	}
}

func (n *node) has(b *smr.Bundle) bool {
	for _, d := range n.applied {
		for _, x := range d.Bundles {
			if x.ID == b.ID {
				return true
			}
		}
	}
	return false
}

func (s *shuttle) allHave(bs ...*smr.Bundle) func() bool {
	return func() bool {
		for _, n := range s.nodes {
			for _, b := range bs {
				if n.up && !n.has(b) {
					return false
				}
			}
		}
		return true
	}
}

func (s *shuttle) agree() {
	s.t.Helper()
	for _, n := range s.nodes[1:] {
		for i := range min(len(n.applied), len(s.nodes[0].applied)) {
			if a, b := s.nodes[0].applied[i].Decision, n.applied[i].Decision; a.Seq == b.Seq && a.Digest != b.Digest {
				s.t.Fatalf("nodes 1 and %d disagree at %d", n.id, a.Seq)
			}
		}
	}
}

func (s *shuttle) report() {
	s.t.Helper()
	for _, n := range s.nodes {
		if n.e != nil {
			st := n.e.Status()
			s.t.Logf("node %d up=%v %s %q decided %d ordering %+v pool %+v drops %v", n.id, n.up, st.Mode, st.Why, st.Decided, st.Ordering, st.Pool, st.Drops)
		}
	}
}

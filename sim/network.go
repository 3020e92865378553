package sim

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/wire"
)

// network is the simulated network: endpoints are the replicas 1..n and the clients n+1..n+c.
// Every directed pair of endpoints is a path of its own. A frame on a path is lost, delayed,
// duplicated or overtaken by chance; a cut path loses everything. There is no connection: what is
// in flight when its receiver crashes may reach the receiver's next life, as a replayed frame would.
type network struct {
	c   *cluster
	rng random
	cut [][]bool // [from][to]
	// dropped counts the faults under way that take most frames of a class.
	dropped [256]int
	// healed: faults are over, nothing is lost any more.
	healed     bool
	clogged    [][]time.Duration // [from][to]: frames wait until then
	banished   []bool            // replicas that stay cut off
	captured   []frame           // some of those that were sent
	sent, lost uint64
	duplicated uint64
	straggled  uint64
}

func newNetwork(c *cluster) *network {
	size := c.plan.Replicas + c.plan.Clients + len(c.plan.BadClients) + 1
	w := &network{c: c, rng: c.stream(streamNetwork, 0), cut: make([][]bool, size), clogged: make([][]time.Duration, size), banished: make([]bool, size)}
	for i := range w.cut {
		w.cut[i], w.clogged[i] = make([]bool, size), make([]time.Duration, size)
	}
	return w
}

func (w *network) endpoint(id auth.Identity) int {
	if id.Kind == auth.IdentityClient {
		return w.c.plan.Replicas + int(id.ID)
	}
	return int(id.ID)
}

// frame is one on its way.
type frame struct {
	from, to auth.Identity
	f, t     int // their endpoints
	class    wire.Class
	kind     uint8
	payload  []byte
}

// Of the frames that are sent every captureEvery-th is kept for replay, the newest captureMax.
const (
	captureEvery = 37
	captureMax   = 256
)

// send puts a frame on the path between two endpoints. payload must not change afterwards.
func (w *network) send(from, to auth.Identity, class wire.Class, kind uint8, payload []byte) {
	f, t := w.endpoint(from), w.endpoint(to)
	if t <= 0 || t >= len(w.cut) {
		return
	}
	p, r := &w.c.plan, w.rng
	m := frame{from, to, f, t, class, kind, payload}
	w.sent++
	if class == wire.ClassOrderedRequest && from.Kind == auth.IdentityClient {
		w.c.oracle.request(payload)
	}
	copies := 1
	if !w.healed {
		w.capture(m)
		loss := p.Loss
		if w.dropped[class] > 0 {
			loss = 0.7
		}
		if w.cut[f][t] || r.chance(loss) {
			w.lost++
			return
		}
		if r.chance(p.Duplicate) {
			w.duplicated++
			copies = 2
		}
	}
	for range copies {
		d := p.Floor + r.exponential(p.Delay)
		if !w.healed && r.chance(p.Straggle) {
			w.straggled++
			d += r.exponential(100 * p.Delay)
		}
		if until := w.clogged[f][t]; until > w.c.clk.now && !w.healed {
			d = max(d, until-w.c.clk.now) // in the order of sending
		}
		w.c.clk.after(d, func() { w.arrive(m) })
	}
}

func (w *network) capture(m frame) {
	if w.sent%captureEvery != 0 {
		return
	}
	if len(w.captured) < captureMax {
		w.captured = append(w.captured, m)
	} else {
		w.captured[w.sent/captureEvery%captureMax] = m
	}
}

func (w *network) arrive(m frame) {
	if w.cut[m.f][m.t] {
		w.lost++
		return
	}
	if node, ok := m.to.Node(); ok {
		w.c.nodes[node-1].frame(m.from, m.class, m.kind, m.payload)
		return
	}
	if i := int(m.to.ID) - 1 - len(w.c.clients); i >= 0 {
		w.c.badClients[i].frame(m.from, m.class, m.payload)
		return
	}
	w.c.clients[m.to.ID-1].frame(m.from, m.class, m.kind, m.payload)
}

// banish cuts a replica off for good: from everybody, or only what it sends.
func (w *network) banish(id smr.NodeID, oneWay bool) {
	w.banished[id] = true
	for other := range w.cut {
		w.cut[id][other] = true
		if !oneWay {
			w.cut[other][id] = true
		}
	}
}

// split cuts the replicas into two sides. oneWay cuts only the paths from the first side to the
// second. Clients keep all their paths.
func (w *network) split(side []smr.NodeID, oneWay bool) {
	in := make([]bool, len(w.cut))
	for _, id := range side {
		in[id] = true
	}
	for a := 1; a <= w.c.plan.Replicas; a++ {
		for b := 1; b <= w.c.plan.Replicas; b++ {
			if in[a] != in[b] && (in[a] || !oneWay) {
				w.cut[a][b] = true
			}
		}
	}
}

// mend restores all paths and tells both ends of those that were cut, a little later.
func (w *network) mend() {
	for a := range w.cut {
		for b := range w.cut[a] {
			if !w.cut[a][b] || w.banished[a] || w.banished[b] {
				continue
			}
			w.cut[a][b] = false
			if a != b && a <= w.c.plan.Replicas && b <= w.c.plan.Replicas {
				w.connect(smr.NodeID(a), smr.NodeID(b))
			}
		}
	}
}

// connect tells both ends, soon, that the path between them works again.
func (w *network) connect(a, b smr.NodeID) {
	w.c.clk.after(w.rng.between(0, 20*time.Millisecond), func() {
		if w.cut[a][b] || w.cut[b][a] {
			return // mending tells them
		}
		w.c.nodes[a-1].connected(b)
		w.c.nodes[b-1].connected(a)
	})
}

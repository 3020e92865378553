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
	healed bool
	sent   uint64
	lost   uint64
}

func newNetwork(c *cluster) *network {
	size := c.plan.Replicas + c.plan.Clients + 1
	w := &network{c: c, rng: c.stream(streamNetwork, 0), cut: make([][]bool, size)}
	for i := range w.cut {
		w.cut[i] = make([]bool, size)
	}
	return w
}

func (w *network) endpoint(id auth.Identity) int {
	if id.Kind == auth.IdentityClient {
		return w.c.plan.Replicas + int(id.ID)
	}
	return int(id.ID)
}

// send puts a frame on the path between two endpoints. payload must not change afterwards.
func (w *network) send(from, to auth.Identity, class wire.Class, kind uint8, payload []byte) {
	f, t := w.endpoint(from), w.endpoint(to)
	if t <= 0 || t >= len(w.cut) {
		return
	}
	p, r := &w.c.plan, w.rng
	w.sent++
	copies := 1
	if !w.healed {
		loss := p.Loss
		if w.dropped[class] > 0 {
			loss = 0.7
		}
		if w.cut[f][t] || r.chance(loss) {
			w.lost++
			return
		}
		if r.chance(p.Duplicate) {
			copies = 2
		}
	}
	for range copies {
		d := p.Floor + r.exponential(p.Delay)
		if !w.healed && r.chance(p.Straggle) {
			d += r.exponential(100 * p.Delay)
		}
		w.c.clk.after(d, func() { w.arrive(from, to, f, t, class, kind, payload) })
	}
}

func (w *network) arrive(from, to auth.Identity, f, t int, class wire.Class, kind uint8, payload []byte) {
	if w.cut[f][t] {
		w.lost++
		return
	}
	if node, ok := to.Node(); ok {
		w.c.nodes[node-1].frame(from, class, kind, payload)
		return
	}
	w.c.clients[to.ID-1].frame(from, class, kind, payload)
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
			if !w.cut[a][b] {
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

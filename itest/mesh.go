package itest

import (
	"errors"

	"github.com/atlas-smr/smr"
)

// End is one end of the mesh: a replica by its id, or a client.
type End struct {
	Client bool
	ID     int // from 1
}

// NodeEnd is the end of a replica.
func NodeEnd(i smr.NodeID) End { return End{ID: int(i)} }

// ClientEnd is the end of a client.
func ClientEnd(j int) End { return End{Client: true, ID: j} }

// route is an ordered pair of ends.
type route struct{ from, to End }

// Mesh is the network between the ends of a cluster: a proxy for every end and every replica that it
// dials, and one path for each direction between two ends, whoever dialled. It belongs to one
// goroutine.
type Mesh struct {
	ends    []End
	paths   map[route]*path
	proxies map[route]*proxy // by who dials whom
}

// newMesh returns the mesh of replicas that listen at addrs and of so many clients.
func newMesh(addrs []string, clients int) (*Mesh, error) {
	m := &Mesh{paths: map[route]*path{}, proxies: map[route]*proxy{}}
	for i := range addrs {
		m.ends = append(m.ends, NodeEnd(smr.NodeID(i+1)))
	}
	for j := range clients {
		m.ends = append(m.ends, ClientEnd(j+1))
	}
	for _, a := range m.ends {
		for _, b := range m.ends {
			m.paths[route{a, b}] = newPath()
		}
	}
	for _, a := range m.ends {
		for i, addr := range addrs {
			b := NodeEnd(smr.NodeID(i + 1))
			if a == b {
				continue
			}
			p, err := newProxy(addr, m.paths[route{a, b}], m.paths[route{b, a}])
			if err != nil {
				return nil, errors.Join(err, m.close())
			}
			m.proxies[route{a, b}] = p
		}
	}
	return m, nil
}

// Addresses returns where an end dials each replica.
func (m *Mesh) Addresses(a End) map[smr.NodeID]string {
	out := map[smr.NodeID]string{}
	for r, p := range m.proxies { // order-free: a map is made
		if r.from == a {
			out[smr.NodeID(r.to.ID)] = p.addr()
		}
	}
	return out
}

// Set sets the weather of what from sends to to.
func (m *Mesh) Set(from, to End, w Weather) { m.paths[route{from, to}].set(w) }

// SetBoth sets the weather of both directions between two ends.
func (m *Mesh) SetBoth(a, b End, w Weather) {
	m.Set(a, b, w)
	m.Set(b, a, w)
}

// Others returns all ends but a.
func (m *Mesh) Others(a End) (out []End) {
	for _, e := range m.ends {
		if e != a {
			out = append(out, e)
		}
	}
	return out
}

// Break resets every connection between two ends and returns how many there were.
func (m *Mesh) Break(a, b End) (n int) {
	for _, r := range []route{{a, b}, {b, a}} {
		if p := m.proxies[r]; p != nil {
			n += p.each((*tunnel).close)
		}
	}
	return n
}

// HalfOpen closes the connections that from dialled to to at to's side only, and returns how many.
func (m *Mesh) HalfOpen(from, to End) int {
	if p := m.proxies[route{from, to}]; p != nil {
		return p.each((*tunnel).halve)
	}
	return 0
}

// Heal makes the network perfect again and closes what is half open.
func (m *Mesh) Heal() {
	for _, p := range m.paths { // order-free: all alike
		p.set(Weather{})
	}
	for _, p := range m.proxies { // order-free: all alike
		p.each(func(t *tunnel) {
			if t.isHalved() {
				t.close()
			}
		})
	}
}

func (m *Mesh) close() error {
	for _, p := range m.proxies { // order-free: all alike
		p.close()
	}
	return nil
}

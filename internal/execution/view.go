package execution

import (
	"sync"

	"github.com/atlas-smr/smr"
)

// View is what a Core last published of its session table, for request workers: advice that may be
// a batch old, never wrong about what it calls seen. It is safe for concurrent use.
type View struct {
	mu       sync.RWMutex // guards what follows
	clients  map[smr.ClientID]clientView
	sessions map[smr.SessionID]sessionView
}

type clientView struct {
	key   smr.PublicKey
	nonce uint64
}

type sessionView struct {
	client smr.ClientID
	window *window
}

// NewView returns the view of c's table as it is.
func NewView(c *Core) *View {
	v := &View{}
	v.Reload(c)
	return v
}

// Reload takes over all of c's table. It runs on c's goroutine.
func (v *View) Reload(c *Core) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.clients = make(map[smr.ClientID]clientView, len(c.table.clients))
	for id, cl := range c.table.clients {
		v.clients[id] = clientView{cl.key, cl.nonce}
	}
	v.sessions = make(map[smr.SessionID]sessionView, len(c.table.sessions))
	for id, s := range c.table.sessions {
		w := s.window
		v.sessions[id] = sessionView{s.client, &w}
	}
}

// Publish takes over what the last Apply changed. It runs on c's goroutine.
func (v *View) Publish(c *Core) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range c.touched {
		old, ok := v.sessions[s.id]
		if !ok {
			old = sessionView{s.client, new(window)}
			v.sessions[s.id] = old
			cl := c.table.clients[s.client]
			v.clients[s.client] = clientView{cl.key, cl.nonce}
		}
		*old.window = s.window
	}
	for _, id := range c.gone {
		delete(v.sessions, id)
	}
}

// Admitted reports whether key is the admitted key of client.
func (v *View) Admitted(client smr.ClientID, key smr.PublicKey) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	c, ok := v.clients[client]
	return ok && c.key == key
}

// Seen reports whether all of b was consumed, so that ordering it again would change nothing.
func (v *View) Seen(b *smr.Bundle) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if b.Kind == smr.BundleOpen {
		c, ok := v.clients[b.Client]
		return ok && c.key == b.Key && b.Nonce <= c.nonce
	}
	s, ok := v.sessions[b.Session]
	return ok && s.client == b.Client && s.window.seenAll(b.First, len(b.Ops))
}

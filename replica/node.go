package replica

import (
	"errors"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/engine"
	"github.com/atlas-smr/smr/network"
	"github.com/atlas-smr/smr/wire"
)

// listen starts the network node.
func (r *replica) listen() error {
	clients := make(map[smr.PublicKey]smr.ClientID, len(r.cfg.Genesis.Clients))
	for _, c := range r.cfg.Genesis.Clients {
		clients[c.Key] = c.ID
	}
	cfg := network.Config{
		Cluster: r.cluster, Self: auth.NodeIdentity(r.cfg.Node), Key: r.cfg.Key, ListenAddr: r.cfg.ListenAddr, Logger: r.log,
		Clients: func(k smr.PublicKey) (smr.ClientID, bool) { id, ok := clients[k]; return id, ok },
	}
	for _, m := range r.cfg.Genesis.Members {
		cfg.Peers = append(cfg.Peers, network.Peer{ID: m.ID, Addr: orElse(r.cfg.Addresses[m.ID], m.Addr), Key: m.Key})
	}
	node, err := network.Listen(cfg, r)
	if err != nil {
		return err
	}
	r.node = node
	r.listening.Store(node)
	return nil
}

// errClass is misbehaviour: a class that its sender may not send.
var errClass = errors.New("message class not for this receiver")

// Frame implements network.Handler: it runs on the connection's reader, so that decoding and
// verification of different peers run side by side, and a slow loop holds back the senders.
func (r *replica) Frame(from auth.Identity, class wire.Class, kind uint8, payload []byte) error {
	switch class {
	case wire.ClassOrderedRequest:
		if r.draining.Load() {
			return nil
		}
		return r.requests.Submit(from, payload)
	case wire.ClassUnorderedRequest:
		return r.executor.Unordered(from, payload)
	}
	id, ok := from.Node()
	if !ok {
		return errClass
	}
	m, err := r.decoder.Decode(id, class, kind, payload)
	if err != nil {
		return err
	}
	r.enqueue(func(now time.Time, e *engine.Engine, out *engine.Output) { e.Receive(now, id, m, out) })
	return nil
}

// Up implements network.Handler.
func (r *replica) Up(peer auth.Identity) {
	if id, ok := peer.Node(); ok {
		r.enqueue(func(now time.Time, e *engine.Engine, out *engine.Output) { e.Connected(now, id, out) })
	}
}

// Down implements network.Handler.
func (r *replica) Down(auth.Identity) {}

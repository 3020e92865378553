package client

import (
	"errors"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/network"
	"github.com/atlas-smr/smr/wire"
)

// dialTCP connects to the members over TCP with mutual TLS.
func dialTCP(cfg Config, h Handler) (Transport, error) {
	return Over(func(c network.ClientConfig, h network.Handler) (network.Transport, error) { return network.Dial(c, h) })(cfg, h)
}

// Over makes a Config.Dial of a network: TCP's network.Dial (which is the default), or the Dial of an
// in-memory one.
func Over(dial func(network.ClientConfig, network.Handler) (network.Transport, error)) func(Config, Handler) (Transport, error) {
	return func(cfg Config, h Handler) (Transport, error) {
		if cfg.Key == nil {
			return nil, errors.New("client: Key is needed to connect")
		}
		nc := network.ClientConfig{Cluster: cfg.Membership.Cluster(), Self: cfg.Client, Key: cfg.Key, Logger: cfg.Logger}
		for _, id := range cfg.Membership.Voters() {
			m, _ := cfg.Membership.Member(id)
			addr := m.Addr
			if other, ok := cfg.Addresses[id]; ok {
				addr = other
			}
			nc.Replicas = append(nc.Replicas, network.Peer{ID: m.ID, Addr: addr, Key: m.Key})
		}
		node, err := dial(nc, networkHandler{h})
		if err != nil {
			return nil, err
		}
		return networkTransport{node}, nil
	}
}

// networkTransport is a network as a Transport.
type networkTransport struct{ network.Transport }

// Send implements Transport.
func (t networkTransport) Send(to smr.NodeID, class wire.Class, kind uint8, payload []byte) bool {
	return t.Application().Send(auth.NodeIdentity(to), class, kind, payload)
}

// networkHandler is a Handler as a network's.
type networkHandler struct{ h Handler }

// Frame implements network.Handler.
func (n networkHandler) Frame(from auth.Identity, class wire.Class, kind uint8, payload []byte) error {
	id, ok := from.Node()
	if !ok {
		return errReply
	}
	return n.h.Frame(id, class, kind, payload)
}

// Up implements network.Handler.
func (n networkHandler) Up(peer auth.Identity) {
	if id, ok := peer.Node(); ok {
		n.h.Up(id)
	}
}

// Down implements network.Handler.
func (n networkHandler) Down(auth.Identity) {}

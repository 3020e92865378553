package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/wire"
)

// Peer is a replica or observer to connect to.
type Peer struct {
	ID   smr.NodeID
	Addr string // host:port
	Key  smr.PublicKey
}

// Config describes a listening node.
type Config struct {
	Cluster smr.ClusterID
	Self    auth.Identity // a node
	Key     *auth.KeyPair // of Self
	// ListenAddr is where to listen, host:port; port 0 picks one. Listener, if set, is used
	// instead, and closed with the node.
	ListenAddr string
	Listener   net.Listener
	// Peers are the nodes to connect to and to accept. An entry with Self's id is skipped.
	Peers []Peer
	// Clients returns the id of an admitted client key. It is called from many goroutines; nil
	// admits none.
	Clients func(smr.PublicKey) (smr.ClientID, bool)
	// Logger gets connections coming and going; nil logs nothing.
	Logger *slog.Logger
	Limits Limits
}

// ClientConfig describes a client's end.
type ClientConfig struct {
	Cluster  smr.ClusterID
	Self     smr.ClientID
	Key      *auth.KeyPair
	Replicas []Peer
	Logger   *slog.Logger
	Limits   Limits
}

// Limits bounds what a node spends on others. Zero fields take the default.
type Limits struct {
	PeerQueueBytes   int // waiting and being written, per peer and lane; beyond: frame dropped. 16 MiB
	ClientQueueBytes int // the same per client connection. 5 MiB
	ReadBufferBytes  int // per connection. 32 KiB

	ConnsPerClient int // connections of one client id; beyond: the oldest is replaced. 4
	ClientConns    int // of all clients; beyond: the new one is refused. 4096
	// Handshakes bounds unfinished handshakes, HandshakesPerAddr those from one address; beyond:
	// the new connection is closed. 256 and 64
	Handshakes        int
	HandshakesPerAddr int

	HandshakeTimeout time.Duration // dial, TLS and Hello together. 5 s
	// IdleTimeout is the longest wait for one complete frame, pings included. 30 s
	IdleTimeout  time.Duration
	PingInterval time.Duration // of the dialling end; a third of IdleTimeout at most. 5 s
	WriteTimeout time.Duration // for each 256 KiB written; beyond: slow reader, dropped. 10 s
	// ReplaceInterval is the shortest time between two replacements of connections of one identity
	// and lane; sooner: the new one is refused. 250 ms
	ReplaceInterval time.Duration
	BackoffMin      time.Duration // before dialling again; doubles, with jitter. 20 ms
	BackoffMax      time.Duration // 1 s
}

// withDefaults fills in zero fields.
func (l Limits) withDefaults() Limits {
	number := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	span := func(v *time.Duration, d time.Duration) {
		if *v == 0 {
			*v = d
		}
	}
	number(&l.PeerQueueBytes, 16<<20)
	number(&l.ClientQueueBytes, 5<<20)
	number(&l.ReadBufferBytes, 32<<10)
	number(&l.ConnsPerClient, 4)
	number(&l.ClientConns, 4096)
	number(&l.Handshakes, 256)
	number(&l.HandshakesPerAddr, 64)
	span(&l.HandshakeTimeout, 5*time.Second)
	span(&l.IdleTimeout, 30*time.Second)
	span(&l.PingInterval, min(5*time.Second, l.IdleTimeout/3))
	span(&l.WriteTimeout, 10*time.Second)
	span(&l.ReplaceInterval, 250*time.Millisecond)
	span(&l.BackoffMin, 20*time.Millisecond)
	span(&l.BackoffMax, max(time.Second, l.BackoffMin))
	return l
}

// validate reports every limit that does not fit the others.
func (l Limits) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("network limits: "+format, args...))
		}
	}
	least := wire.ClassProtocol.MaxFrameBytes() + wire.FrameHeaderBytes
	check(l.PeerQueueBytes >= least, "PeerQueueBytes %d cannot hold the largest frame, %d bytes", l.PeerQueueBytes, least)
	least = wire.ClassOrderedReply.MaxFrameBytes() + wire.FrameHeaderBytes
	check(l.ClientQueueBytes >= least, "ClientQueueBytes %d cannot hold the largest reply, %d bytes", l.ClientQueueBytes, least)
	check(l.ReadBufferBytes >= 512, "ReadBufferBytes %d is below 512", l.ReadBufferBytes)
	check(l.ConnsPerClient > 0 && l.ClientConns > 0 && l.Handshakes > 0 && l.HandshakesPerAddr > 0, "counts of connections must be positive")
	check(l.HandshakeTimeout > 0 && l.IdleTimeout > 0 && l.WriteTimeout > 0 && l.PingInterval > 0, "timeouts must be positive")
	check(l.PingInterval <= l.IdleTimeout/3, "PingInterval %v is more than a third of IdleTimeout %v", l.PingInterval, l.IdleTimeout)
	check(l.ReplaceInterval >= 0 && l.BackoffMin > 0 && l.BackoffMin <= l.BackoffMax, "BackoffMin must be positive and at most BackoffMax")
	return errors.Join(errs...)
}

// validate reports every mistake of an end with the given peers.
func validateEnd(self auth.Identity, key *auth.KeyPair, peers []Peer, l Limits) error {
	var errs []error
	if self.ID == 0 {
		errs = append(errs, errors.New("network: own id is 0"))
	}
	if key == nil {
		errs = append(errs, errors.New("network: own key is missing"))
	}
	ids, keys := map[smr.NodeID]bool{}, map[smr.PublicKey]bool{}
	for _, p := range peers {
		isSelf := auth.NodeIdentity(p.ID) == self
		switch {
		case p.ID == 0:
			errs = append(errs, errors.New("network: a peer has id 0"))
		case ids[p.ID]:
			errs = append(errs, fmt.Errorf("network: peer %d is named twice", p.ID))
		case keys[p.Key]:
			errs = append(errs, fmt.Errorf("network: peer %d has the key of another", p.ID))
		case key != nil && isSelf != (p.Key == key.Public()):
			errs = append(errs, fmt.Errorf("network: the own key and peer %d's do not fit together", p.ID))
		}
		ids[p.ID], keys[p.Key] = true, true
	}
	return errors.Join(append(errs, l.validate())...)
}

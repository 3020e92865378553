package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/wire"
)

// Node is one end of the network: a replica's, an observer's or a client's. It is a Transport.
type Node struct {
	cluster smr.ClusterID
	self    auth.Identity
	key     smr.PublicKey
	clients func(smr.PublicKey) (smr.ClientID, bool)
	carrier carrier
	handler Handler
	logger  *slog.Logger
	limits  Limits
	started time.Time

	listener net.Listener                     // nil for a client
	byKey    map[smr.PublicKey]smr.NodeID     // peers; read-only
	links    map[smr.NodeID][wire.Lanes]*link // read-only; a client has one link for all lanes
	stubs    [partReconfiguration + 1]*stub   // by part

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup // every goroutine

	counters counters

	mu          sync.RWMutex // guards what follows
	closed      bool
	raws        map[net.Conn]struct{} // open connections, to be closed on Close
	accepted    map[slot][]*conn      // oldest first; slices are never changed
	replaced    map[slot]time.Time
	clientConns int
	handshakes  int
	byHost      map[string]int
}

var _ Transport = (*Node)(nil)

// Listen starts a replica's or observer's node on TCP with mutual TLS 1.3. It returns once it
// listens; connections to peers come up by themselves.
func Listen(cfg Config, h Handler) (*Node, error) {
	return start(cfg, h, func() (carrier, error) { return newTLSCarrier(cfg.Key) })
}

// Dial starts a client's node on TCP with mutual TLS 1.3. It returns at once; connections to
// replicas come up by themselves.
func Dial(cfg ClientConfig, h Handler) (*Node, error) {
	return start(cfg.end(), h, func() (carrier, error) { return newTLSCarrier(cfg.Key) })
}

func (c ClientConfig) end() Config {
	return Config{
		Cluster: c.Cluster, Self: auth.ClientIdentity(c.Self), Key: c.Key, Peers: c.Replicas,
		Logger: c.Logger, Limits: c.Limits,
	}
}

func start(cfg Config, h Handler, makeCarrier func() (carrier, error)) (*Node, error) {
	limits := cfg.Limits.withDefaults()
	if err := validateEnd(cfg.Self, cfg.Key, cfg.Peers, limits); err != nil {
		closeListener(cfg.Listener)
		return nil, err
	}
	carrier, err := makeCarrier()
	if err != nil {
		closeListener(cfg.Listener)
		return nil, fmt.Errorf("network: %w", err)
	}
	n := &Node{
		cluster: cfg.Cluster, self: cfg.Self, key: cfg.Key.Public(), clients: cfg.Clients, carrier: carrier,
		handler: h, logger: cfg.Logger, limits: limits, started: time.Now(), listener: cfg.Listener,
		byKey: map[smr.PublicKey]smr.NodeID{}, links: map[smr.NodeID][wire.Lanes]*link{},
		raws: map[net.Conn]struct{}{}, accepted: map[slot][]*conn{}, replaced: map[slot]time.Time{}, byHost: map[string]int{},
	}
	if n.logger == nil {
		n.logger = slog.New(slog.DiscardHandler)
	}
	for p := range n.stubs {
		n.stubs[p] = &stub{node: n, part: part(p)}
	}
	isNode := cfg.Self.Kind == auth.IdentityNode
	if n.listener == nil && isNode {
		if n.listener, err = carrier.listen(cfg.ListenAddr); err != nil {
			return nil, fmt.Errorf("network: cannot listen on %s: %w", cfg.ListenAddr, err)
		}
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.startLinks(cfg.Peers)
	if n.listener != nil {
		n.work.Add(1)
		go n.accept()
	}
	return n, nil
}

func closeListener(l net.Listener) {
	if l != nil {
		_ = l.Close()
	}
}

func (n *Node) startLinks(peers []Peer) {
	var all []*link
	for _, p := range peers {
		if auth.NodeIdentity(p.ID) == n.self {
			continue
		}
		n.byKey[p.Key] = p.ID
		var lanes [wire.Lanes]*link
		if n.self.Kind == auth.IdentityClient {
			l := &link{node: n, peer: p, lane: wire.LaneRequests, out: newQueue(n.limits.PeerQueueBytes)}
			all = append(all, l)
			for i := range lanes {
				lanes[i] = l
			}
		} else {
			for i := range lanes {
				lanes[i] = &link{node: n, peer: p, lane: wire.Lane(i), out: newQueue(n.limits.PeerQueueBytes)}
				all = append(all, lanes[i])
			}
		}
		n.links[p.ID] = lanes
	}
	n.work.Add(len(all))
	for _, l := range all {
		go l.run()
	}
}

// newConn returns a connection whose Hellos are still to be exchanged.
func (n *Node) newConn(stream net.Conn, peer auth.Identity, out *queue) *conn {
	timed := &timedStream{Conn: stream}
	return &conn{
		node: n, stream: stream, timed: timed, reader: wire.NewFrameReader(timed, n.limits.ReadBufferBytes),
		peer: peer, out: out, ended: make(chan struct{}),
	}
}

// begin replaces the handshake's deadlines by the idle timeout.
func (c *conn) begin() error {
	if err := c.stream.SetDeadline(time.Time{}); err != nil {
		return err
	}
	c.timed.idle, c.timed.since = c.node.limits.IdleTimeout, time.Now()
	return nil
}

// send queues a frame for an identity; see Stub.
func (n *Node) send(to auth.Identity, class wire.Class, kind uint8, payload []byte) bool {
	if len(payload) > class.MaxFrameBytes() {
		n.counters.count(SendTooLong)
		return false
	}
	if !mayCarry(class, class.Lane(), n.self.Kind, to.Kind) {
		n.counters.count(SendNotAllowed)
		return false
	}
	if id, ok := to.Node(); ok {
		lanes, known := n.links[id]
		if !known {
			n.counters.count(SendUnknown)
			return false
		}
		return n.push(lanes[class.Lane()].out, class, kind, payload)
	}
	n.mu.RLock()
	conns := n.accepted[slot{to, wire.LaneRequests}]
	n.mu.RUnlock()
	if len(conns) == 0 {
		n.counters.count(SendUnreachable)
		return false
	}
	queued := false
	for _, c := range conns {
		queued = n.push(c.out, class, kind, payload) || queued
	}
	return queued
}

func (n *Node) push(q *queue, class wire.Class, kind uint8, payload []byte) bool {
	reason, ok := q.push(class, kind, payload)
	if !ok {
		n.counters.count(reason)
	}
	return ok
}

// countDropped counts frames that were queued for a peer that turned out unreachable.
func (n *Node) countDropped(frames int) {
	n.counters.drops[SendUnreachable].Add(uint64(frames))
}

// keepRaw registers an open connection; false, and closed, if the node is closing.
func (n *Node) keepRaw(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		_ = c.Close()
		return false
	}
	n.raws[c] = struct{}{}
	return true
}

// closeRaw closes a connection, given itself or the stream secured over it. No farewell is sent:
// that could block on an end that does not read.
func (n *Node) closeRaw(c net.Conn) {
	if s, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = s.NetConn()
	}
	n.mu.Lock()
	delete(n.raws, c)
	n.mu.Unlock()
	_ = c.Close()
}

// Protocol implements Transport.
func (n *Node) Protocol() Stub { return n.stubs[partProtocol] }

// Application implements Transport.
func (n *Node) Application() Stub { return n.stubs[partApplication] }

// StateTransfer implements Transport.
func (n *Node) StateTransfer() Stub { return n.stubs[partStateTransfer] }

// Reconfiguration implements Transport.
func (n *Node) Reconfiguration() Stub { return n.stubs[partReconfiguration] }

// Self implements Transport.
func (n *Node) Self() auth.Identity { return n.self }

// Addr returns the address listened on, port filled in; empty for a client.
func (n *Node) Addr() string {
	if n.listener == nil {
		return ""
	}
	return n.listener.Addr().String()
}

// Stats implements Transport. Links are in the order of peers and lanes.
func (n *Node) Stats() Stats {
	s := n.counters.snapshot()
	n.mu.RLock()
	s.Handshakes, s.Clients = n.handshakes, n.clientConns
	for _, held := range n.accepted {
		s.Accepted += len(held)
	}
	n.mu.RUnlock()
	s.Links = n.linkStats()
	return s
}

// Close implements Transport.
func (n *Node) Close() error {
	n.cancel()
	n.mu.Lock()
	n.closed = true
	raws := n.raws
	n.raws = map[net.Conn]struct{}{}
	n.mu.Unlock()
	closeListener(n.listener)
	for c := range raws {
		_ = c.Close()
	}
	n.work.Wait()
	return nil
}

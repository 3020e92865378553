package network

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/wire"
)

// slot names where accepted connections of one identity and lane live.
type slot struct {
	id   auth.Identity
	lane wire.Lane
}

// accept takes connections until the listener closes.
func (n *Node) accept() {
	defer n.work.Done()
	for {
		raw, err := n.listener.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || n.ctx.Err() != nil {
				return
			}
			select { // out of descriptors, say: what is open goes on
			case <-n.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		host := remoteHost(raw)
		if r, ok := n.admit(host); !ok {
			n.counters.count(r)
			_ = raw.Close()
			continue
		}
		if !n.keepRaw(raw) {
			return
		}
		n.work.Add(1)
		go n.welcome(raw, host)
	}
}

func remoteHost(c net.Conn) string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	return host
}

// admit counts a handshake that begins, unless there are too many.
func (n *Node) admit(host string) (Reason, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handshakes >= n.limits.Handshakes {
		return RefusedTooMany, false
	}
	if n.byHost[host] >= n.limits.HandshakesPerAddr {
		return RefusedAddr, false
	}
	n.handshakes++
	n.byHost[host]++
	return 0, true
}

func (n *Node) admitted(host string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handshakes--
	if n.byHost[host]--; n.byHost[host] == 0 {
		delete(n.byHost, host)
	}
}

// welcome does the handshake of an accepted connection and then serves it.
func (n *Node) welcome(raw net.Conn, host string) {
	defer n.work.Done()
	defer n.closeRaw(raw)
	c, err := n.greet(raw)
	n.admitted(host)
	if c != nil {
		defer n.leave(c)
	}
	if err != nil {
		reason := RefusedHello
		errors.As(err, &reason)
		n.counters.count(reason)
		n.logger.Debug("connection refused", "remote", host, "reason", reason.String())
		return
	}
	client := c.peer.Kind == auth.IdentityClient
	if client {
		n.handler.Up(c.peer)
		defer n.handler.Down(c.peer)
	}
	c.run()
}

// greet authenticates an accepted connection, exchanges Hellos and registers it: a connection
// returned must leave, with an error too. Errors are Reasons or of I/O.
func (n *Node) greet(raw net.Conn) (*conn, error) {
	ctx, cancel := context.WithTimeout(n.ctx, n.limits.HandshakeTimeout)
	defer cancel()
	deadline, _ := ctx.Deadline()
	if err := raw.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stream, key, err := n.carrier.secure(ctx, raw, false)
	if err != nil {
		return nil, RefusedHandshake
	}
	if key == n.key {
		return nil, RefusedSelf
	}
	id, limit, ok := n.identify(key)
	if !ok {
		return nil, RefusedKey
	}
	c := n.newConn(stream, id, newQueue(limit))
	if c.lane, err = readHello(c.reader, n.cluster, id); err != nil {
		return nil, err
	}
	if id.Kind == auth.IdentityClient && c.lane != wire.LaneRequests {
		return nil, RefusedLane
	}
	hello, err := helloFrame(n.cluster, n.self, c.lane)
	if err != nil {
		return nil, err
	}
	// Only who has a place gets the answering Hello, so that the other end never takes a refused
	// connection for a good one.
	if reason, ok := n.enter(c); !ok {
		return nil, reason
	}
	if _, err := stream.Write(hello); err != nil {
		return c, err
	}
	return c, c.begin()
}

// identify returns whose key this is and what may queue for it.
func (n *Node) identify(key smr.PublicKey) (auth.Identity, int, bool) {
	if id, ok := n.byKey[key]; ok {
		return auth.NodeIdentity(id), n.limits.PeerQueueBytes, true
	}
	if n.clients != nil {
		if id, ok := n.clients(key); ok && id != 0 {
			return auth.ClientIdentity(id), n.limits.ClientQueueBytes, true
		}
	}
	return auth.Identity{}, 0, false
}

// enter makes room for an accepted connection, at the cost of the oldest of its slot if that is
// full, and registers it.
func (n *Node) enter(c *conn) (Reason, bool) {
	key := slot{c.peer, c.lane}
	client := c.peer.Kind == auth.IdentityClient
	most := 1
	if client {
		most = n.limits.ConnsPerClient
	}
	var oldest *conn
	n.mu.Lock()
	held := n.accepted[key]
	full := len(held) >= most
	reason, ok := Reason(0), true
	switch now := time.Now(); {
	case full && now.Sub(n.replaced[key]) < n.limits.ReplaceInterval:
		reason, ok = RefusedReplace, false
	case client && !full && n.clientConns >= n.limits.ClientConns:
		reason, ok = RefusedClients, false
	case full:
		oldest, held = held[0], held[1:]
		n.replaced[key] = now
	case client:
		n.clientConns++
	}
	if ok { // a new slice: senders read the old one without the lock
		n.accepted[key] = append(append([]*conn(nil), held...), c)
	}
	n.mu.Unlock()
	if oldest != nil {
		oldest.drop(DroppedReplaced)
	}
	return reason, ok
}

// leave takes a connection out, unless it was replaced.
func (n *Node) leave(c *conn) {
	key := slot{c.peer, c.lane}
	n.mu.Lock()
	defer n.mu.Unlock()
	var rest []*conn
	for _, x := range n.accepted[key] {
		if x != c {
			rest = append(rest, x)
		}
	}
	if len(rest) == len(n.accepted[key]) {
		return
	}
	if c.peer.Kind == auth.IdentityClient {
		n.clientConns--
	}
	if len(rest) == 0 {
		delete(n.accepted, key)
		// The time of the last replacement stays while it matters: a slot is bounded by the pinned
		// and admitted keys.
		return
	}
	n.accepted[key] = rest
}

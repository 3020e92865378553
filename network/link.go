package network

import (
	"context"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"time"

	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/wire"
)

// link keeps one lane to one peer connected. Its goroutine dials, serves as the connection's
// reader, and dials again.
type link struct {
	node *Node
	peer Peer
	lane wire.Lane
	out  *queue // outlives connections; closed while the peer cannot be reached
	up   atomic.Bool
	rtt  atomic.Int64
}

// tells reports whether this link's connection is what Up and Down are about.
func (l *link) tells() bool {
	return l.lane == wire.LaneProtocol || l.node.self.Kind == auth.IdentityClient
}

// run keeps the link until the node closes.
func (l *link) run() {
	defer l.node.work.Done()
	pause := l.node.limits.BackoffMin
	for l.node.ctx.Err() == nil {
		c, err := l.connect()
		if err != nil {
			l.node.counters.count(DialFailed)
			l.node.countDropped(l.out.setOpen(false))
			l.node.logger.Debug("cannot connect", "peer", l.peer.ID, "lane", l.lane, "error", err)
		} else {
			began := time.Now()
			l.serve(c)
			if time.Since(began) > l.node.limits.BackoffMax {
				pause = l.node.limits.BackoffMin
			}
		}
		select {
		case <-l.node.ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)):
		}
		pause = min(2*pause, l.node.limits.BackoffMax)
	}
	l.out.setOpen(false)
}

func (l *link) serve(c *conn) {
	l.out.setOpen(true)
	l.up.Store(true)
	who := auth.NodeIdentity(l.peer.ID)
	if l.tells() {
		l.node.logger.Info("connected", "peer", who.String())
		l.node.handler.Up(who)
	}
	c.run()
	l.up.Store(false)
	if l.tells() {
		l.node.logger.Info("disconnected", "peer", who.String(), "reason", c.reason.String())
		l.node.handler.Down(who)
	}
}

// connect dials the peer and agrees with it, all within the handshake timeout.
func (l *link) connect() (*conn, error) {
	n := l.node
	ctx, cancel := context.WithTimeout(n.ctx, n.limits.HandshakeTimeout)
	defer cancel()
	raw, err := n.carrier.dial(ctx, l.peer.Addr)
	if err != nil {
		return nil, err
	}
	if !n.keepRaw(raw) {
		return nil, net.ErrClosed
	}
	c, err := l.agree(ctx, raw)
	if err != nil {
		n.closeRaw(raw)
		return nil, err
	}
	return c, nil
}

func (l *link) agree(ctx context.Context, raw net.Conn) (*conn, error) {
	n := l.node
	deadline, _ := ctx.Deadline()
	if err := raw.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stream, key, err := n.carrier.secure(ctx, raw, true)
	if err != nil {
		return nil, err
	}
	if key == n.key {
		n.counters.count(RefusedSelf)
		return nil, RefusedSelf
	}
	if key != l.peer.Key {
		n.counters.count(RefusedKey)
		return nil, RefusedKey
	}
	hello, err := helloFrame(n.cluster, n.self, l.lane)
	if err != nil {
		return nil, err
	}
	if _, err := stream.Write(hello); err != nil {
		return nil, err
	}
	c := n.newConn(stream, auth.NodeIdentity(l.peer.ID), l.out)
	c.dialed, c.rtt, c.lane = true, &l.rtt, l.lane
	lane, err := readHello(c.reader, n.cluster, c.peer)
	if err != nil {
		return nil, err
	}
	if lane != l.lane {
		return nil, RefusedLane
	}
	return c, c.begin()
}

package network

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/wire"
)

// writeStepBytes is written under one write deadline.
const writeStepBytes = 256 << 10

// conn is one authenticated connection after its Hello exchange.
type conn struct {
	node   *Node
	stream net.Conn // secured
	timed  *timedStream
	reader *wire.FrameReader
	peer   auth.Identity
	lane   wire.Lane
	dialed bool
	out    *queue // of the link when dialled, own when accepted
	rtt    *atomic.Int64

	end    sync.Once
	ended  chan struct{} // closed when the connection is to end
	reason Reason        // why; readable once ended is closed
}

// drop ends the connection for a reason; the first reason counts.
func (c *conn) drop(r Reason) {
	c.end.Do(func() {
		c.reason = r
		close(c.ended)
		c.node.counters.count(r)
		c.node.closeRaw(c.stream)
	})
}

// run serves the connection until it ends. It is called on the reader's goroutine and awaits the
// writer.
func (c *conn) run() {
	c.node.work.Add(1)
	written := make(chan struct{})
	go func() {
		defer c.node.work.Done()
		defer close(written)
		c.write()
	}()
	c.drop(c.read())
	<-written
}

// read handles frames until the connection breaks and returns why it did.
func (c *conn) read() Reason {
	count := &c.node.counters
	for {
		class, kind, payload, err := c.reader.ReadFrame()
		if err != nil {
			return readReason(err)
		}
		if class == wire.ClassPing {
			if !c.ping(kind, payload) {
				return DroppedPing
			}
		} else {
			// What was dialled to a peer is for sending only: nothing but pings comes back.
			sendOnly := c.dialed && c.node.self.Kind == auth.IdentityNode
			if sendOnly || !mayCarry(class, c.lane, c.peer.Kind, c.node.self.Kind) {
				return DroppedNotAllowed
			}
			count.framesIn.Add(1)
			count.bytesIn.Add(uint64(wire.FrameHeaderBytes + len(payload)))
			if err := c.node.handler.Frame(c.peer, class, kind, payload); err != nil {
				c.node.logger.Debug("peer misbehaves", "peer", c.peer.String(), "class", class.String(), "error", err)
				return DroppedMisbehaving
			}
		}
		c.timed.since = time.Now()
	}
}

func readReason(err error) Reason {
	switch {
	case errors.Is(err, wire.ErrFrameLength):
		return DroppedLength
	case errors.Is(err, wire.ErrFrameTooLong):
		return DroppedTooLong
	case errors.Is(err, wire.ErrFrameVersion):
		return DroppedVersion
	case errors.Is(err, wire.ErrFrameClass):
		return DroppedClass
	case errors.Is(err, os.ErrDeadlineExceeded):
		return DroppedIdle
	case errors.Is(err, io.ErrUnexpectedEOF):
		return DroppedTruncated
	}
	return DroppedClosed
}

// ping answers a ping or takes the answer to one; false if it is malformed or came from the wrong
// end: only the dialling end asks.
func (c *conn) ping(kind uint8, payload []byte) bool {
	var p wirepb.Ping
	if kind != wire.KindOnly || p.UnmarshalVT(payload) != nil || p.Reply != c.dialed {
		return false
	}
	if c.dialed {
		if took := int64(time.Since(c.node.started)) - int64(p.Token); took > 0 {
			c.rtt.Store(took)
		}
		return true
	}
	p.Reply = true
	c.push(&p)
	return true
}

func (c *conn) push(p *wirepb.Ping) {
	if b, err := p.MarshalVT(); err == nil {
		c.out.push(wire.ClassPing, wire.KindOnly, b) // a full queue is no idle connection
	}
}

// write flushes what queues until the connection ends.
func (c *conn) write() {
	var tick <-chan time.Time
	if c.dialed {
		t := time.NewTicker(c.node.limits.PingInterval)
		defer t.Stop()
		tick = t.C
	}
	c.out.signal() // what queued before this connection
	for {
		select {
		case <-c.ended:
			return
		case <-tick:
			c.push(&wirepb.Ping{Token: uint64(time.Since(c.node.started))})
		case <-c.out.wake:
			buf, frames := c.out.take()
			err := c.flush(buf)
			c.out.done(buf)
			if err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					c.drop(DroppedSlowReader)
				} else {
					c.drop(DroppedClosed)
				}
				return
			}
			c.node.counters.framesOut.Add(uint64(frames))
			c.node.counters.bytesOut.Add(uint64(len(buf)))
			c.node.counters.flushes.Add(1)
		}
	}
}

func (c *conn) flush(buf []byte) error {
	for len(buf) > 0 {
		step := buf[:min(len(buf), writeStepBytes)]
		if err := c.stream.SetWriteDeadline(time.Now().Add(c.node.limits.WriteTimeout)); err != nil {
			return err
		}
		if _, err := c.stream.Write(step); err != nil {
			return err
		}
		buf = buf[len(step):]
	}
	return nil
}

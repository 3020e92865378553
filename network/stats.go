package network

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/wire"
)

// Reason says why a frame or a connection was dropped.
type Reason uint8

// Why a frame was not sent.
const (
	SendQueueFull   Reason = iota // the receiver does not keep up
	SendUnreachable               // no connection, and the last attempt to make one failed
	SendUnknown                   // no such peer, or to itself
	SendNotAllowed                // a class the receiver would refuse
	SendTooLong                   // above the class's limit

	// Why an accepted connection was refused before it was authenticated.
	RefusedTooMany   // too many unfinished handshakes
	RefusedAddr      // too many unfinished handshakes from that address
	RefusedHandshake // TLS failed: no certificate, wrong version, garbage, timeout
	RefusedKey       // a key that is not pinned
	RefusedSelf      // the own key

	// Why a connection was refused at the Hello.
	RefusedHello    // garbage instead of a Hello, or none in time
	RefusedCluster  // another cluster
	RefusedIdentity // another id or kind than the key's
	RefusedLane     // a lane that does not exist or is not for that end
	RefusedVersion  // no common version
	RefusedReplace  // replacements of this identity's connections come too fast
	RefusedClients  // too many client connections

	// Why an established connection ended.
	DroppedClosed      // closed by the other end, or broken
	DroppedLength      // frame shorter than its header
	DroppedTooLong     // frame above its class's limit
	DroppedVersion     // frame of an unknown version
	DroppedClass       // unknown class
	DroppedNotAllowed  // a class this sender may not send here
	DroppedPing        // a malformed ping
	DroppedTruncated   // ended inside a frame
	DroppedIdle        // no complete frame within the timeout
	DroppedSlowReader  // did not take what was written within the timeout
	DroppedMisbehaving // the handler said so
	DroppedReplaced    // a newer connection of the same identity took its place

	DialFailed // could not connect or agree with a peer

	reasons // number of reasons
)

var reasonNames = [reasons]string{
	"send-queue-full", "send-unreachable", "send-unknown", "send-not-allowed", "send-too-long",
	"refused-too-many", "refused-addr", "refused-handshake", "refused-key", "refused-self",
	"refused-hello", "refused-cluster", "refused-identity", "refused-lane", "refused-version", "refused-replace", "refused-clients",
	"dropped-closed", "dropped-length", "dropped-too-long", "dropped-version", "dropped-class", "dropped-not-allowed",
	"dropped-ping", "dropped-truncated", "dropped-idle", "dropped-slow-reader", "dropped-misbehaving", "dropped-replaced",
	"dial-failed",
}

// String names the reason, as in status and metrics.
func (r Reason) String() string {
	if r < reasons {
		return reasonNames[r]
	}
	return "unknown"
}

// Error makes a reason usable as an error.
func (r Reason) Error() string { return r.String() }

// Stats is a node's counters since its start, and what it holds now.
type Stats struct {
	FramesIn, FramesOut uint64 // pings not counted
	BytesIn, BytesOut   uint64 // of frames with their headers
	Flushes             uint64 // writes that carried FramesOut
	Drops               map[Reason]uint64
	Handshakes          int // unfinished
	Clients             int // client connections
	Accepted            int // all accepted connections
	Links               []LinkStats
}

// LinkStats describes a dialled connection.
type LinkStats struct {
	Peer      smr.NodeID
	Lane      wire.Lane
	Connected bool
	Queued    int           // bytes
	RTT       time.Duration // of the newest answered ping; zero before
}

// counters is shared by all goroutines of a node.
type counters struct {
	framesIn, framesOut, bytesIn, bytesOut, flushes atomic.Uint64
	drops                                           [reasons]atomic.Uint64
}

func (c *counters) count(r Reason) { c.drops[r].Add(1) }

func (c *counters) snapshot() Stats {
	s := Stats{
		FramesIn: c.framesIn.Load(), FramesOut: c.framesOut.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), Flushes: c.flushes.Load(),
		Drops: map[Reason]uint64{},
	}
	for r := range c.drops {
		if n := c.drops[r].Load(); n > 0 {
			s.Drops[Reason(r)] = n
		}
	}
	return s
}

func (n *Node) linkStats() []LinkStats {
	var out []LinkStats
	for _, lanes := range n.links {
		var last *link
		for _, l := range lanes {
			if l == last {
				continue
			}
			last = l
			out = append(out, LinkStats{
				Peer: l.peer.ID, Lane: l.lane, Connected: l.up.Load(), Queued: l.out.bytes(), RTT: time.Duration(l.rtt.Load()),
			})
		}
	}
	slices.SortFunc(out, func(a, b LinkStats) int {
		return cmp.Or(cmp.Compare(a.Peer, b.Peer), cmp.Compare(a.Lane, b.Lane))
	})
	return out
}

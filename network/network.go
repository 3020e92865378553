package network

import (
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/wire"
)

// Transport is what the driver and the client use of a network. Node implements it, over TCP and
// in memory alike.
type Transport interface {
	Protocol() Stub        // protocol, forwarded protocol, view transfer, checkpoint, fetch
	Application() Stub     // requests, replies, advice
	StateTransfer() Stub   // log and state transfer
	Reconfiguration() Stub // membership
	Self() auth.Identity
	Stats() Stats
	// Close ends every connection and waits until no call of the handler is running or will ever be
	// made. It must not be called from the handler.
	Close() error
}

// Stub sends the classes of one part of the system. It is safe for concurrent use.
type Stub interface {
	// Send queues a frame and returns whether it was queued. It never blocks; false means dropped
	// and counted. payload is copied. Queued is not delivered: connections break. A class of
	// another stub is a bug and panics.
	Send(to auth.Identity, class wire.Class, kind uint8, payload []byte) bool
	// SendMany sends one frame to each of to and returns for how many it was queued.
	SendMany(to []auth.Identity, class wire.Class, kind uint8, payload []byte) int
}

// Handler receives what arrives. Its methods are called from many goroutines; calls for one
// connection are made one after another.
type Handler interface {
	// Frame handles a frame. payload belongs to the handler; small ones share a block of 16 KiB, so
	// what is kept for long should be copied if memory is accounted by its length. Blocking holds
	// back this one connection. A returned error says that the sender misbehaved: the connection is
	// dropped and counted.
	Frame(from auth.Identity, class wire.Class, kind uint8, payload []byte) error
	// Up says that frames can be sent to peer: the protocol lane to a node was connected, or a
	// client connected (on the client's side: the connection to a replica). A client may have
	// several connections: Up and Down come in pairs, and pairs may overlap.
	Up(peer auth.Identity)
	// Down ends an Up.
	Down(peer auth.Identity)
}

// part is one of the four parts of the system.
type part uint8

const (
	partNone part = iota
	partProtocol
	partApplication
	partStateTransfer
	partReconfiguration
)

// partOf returns the part whose stub carries a class.
func partOf(c wire.Class) part {
	switch c {
	case wire.ClassProtocol, wire.ClassForwardedProtocol, wire.ClassViewTransfer, wire.ClassCheckpoint, wire.ClassFetch:
		return partProtocol
	case wire.ClassOrderedRequest, wire.ClassOrderedReply, wire.ClassUnorderedRequest, wire.ClassUnorderedReply,
		wire.ClassForwardedRequests, wire.ClassAdvice:
		return partApplication
	case wire.ClassLogTransfer, wire.ClassStateTransfer:
		return partStateTransfer
	case wire.ClassReconfiguration:
		return partReconfiguration
	}
	return partNone
}

// Route returns the stub of t that carries a class.
func Route(t Transport, c wire.Class) Stub {
	switch partOf(c) {
	case partApplication:
		return t.Application()
	case partStateTransfer:
		return t.StateTransfer()
	case partReconfiguration:
		return t.Reconfiguration()
	}
	return t.Protocol()
}

// stub is one part's view of a node.
type stub struct {
	node *Node
	part part
}

// Send implements Stub.
func (s *stub) Send(to auth.Identity, class wire.Class, kind uint8, payload []byte) bool {
	invariant.Check(partOf(class) == s.part, "network: class %s sent through another part's stub", class)
	return s.node.send(to, class, kind, payload)
}

// SendMany implements Stub.
func (s *stub) SendMany(to []auth.Identity, class wire.Class, kind uint8, payload []byte) int {
	sent := 0
	for _, id := range to {
		if s.Send(id, class, kind, payload) {
			sent++
		}
	}
	return sent
}

// mayCarry reports whether an authenticated sender may send a class on a connection: clients
// requests, replicas to clients answers, replicas to replicas the rest, each on its lane.
func mayCarry(class wire.Class, lane wire.Lane, sender, receiver auth.IdentityKind) bool {
	switch class {
	case wire.ClassOrderedRequest, wire.ClassUnorderedRequest:
		return sender == auth.IdentityClient
	case wire.ClassOrderedReply, wire.ClassUnorderedReply, wire.ClassAdvice:
		return receiver == auth.IdentityClient
	}
	if sender == auth.IdentityNode && receiver == auth.IdentityNode {
		return partOf(class) != partNone && class.Lane() == lane
	}
	return class == wire.ClassReconfiguration
}

// Package wire fixes what travels between nodes and clients: frames, message classes and lanes,
// limits, versions, and the encoding and signature of bundles. An ordering's own messages travel
// as kind + bytes; each ordering owns their schema.
//
// A frame:
//
//	offset  bytes
//	0       4      length of what follows, big endian; at most the class's limit
//	4       1      version
//	5       1      class
//	6       1      kind within the class
//	7       n      payload
//
// Every decoder here is bounded: it refuses before it allocates more than a small multiple of what
// it was sent.
package wire

import "fmt"

// Version is the wire version this build speaks. Ends agree on one in their Hello.
const Version = 1

// Class says what a frame is about. The classes of Atlas (four orderable messages, five system
// messages) come first.
type Class uint8

// The classes.
const (
	ClassOrderedRequest    Class = 1
	ClassOrderedReply      Class = 2
	ClassUnorderedRequest  Class = 3
	ClassUnorderedReply    Class = 4
	ClassForwardedRequests Class = 5  // bundles, replica to replica
	ClassProtocol          Class = 6  // the ordering's messages
	ClassForwardedProtocol Class = 7  // the same, relayed; signed ones only
	ClassLogTransfer       Class = 8  // decisions
	ClassViewTransfer      Class = 9  // current epoch and view, votes seen, locks
	ClassStateTransfer     Class = 10 // pages and parts of checkpoints
	ClassCheckpoint        Class = 11 // root votes and certificates
	ClassFetch             Class = 12 // bundles asked for by id; answered with forwarded requests
	ClassReconfiguration   Class = 13 // membership; reserved
	ClassAdvice            Class = 14 // busy and rejected, replica to client
	ClassHandshake         Class = 15 // hello
	ClassPing              Class = 16
	classEnd               Class = 17
)

var classNames = [...]string{
	"none", "ordered-request", "ordered-reply", "unordered-request", "unordered-reply",
	"forwarded-requests", "protocol", "forwarded-protocol", "log-transfer", "view-transfer",
	"state-transfer", "checkpoint", "fetch", "reconfiguration", "advice", "handshake", "ping",
}

// Valid reports whether c is a known class.
func (c Class) Valid() bool { return c > 0 && c < classEnd }

// String names the class.
func (c Class) String() string {
	if int(c) < len(classNames) {
		return classNames[c]
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// Lane is an independent path between two nodes: traffic of one lane never queues behind another's.
type Lane uint8

// The lanes.
const (
	LaneProtocol Lane = 0 // what agreement waits for
	LaneRequests Lane = 1 // bundles, replies, queries
	LaneBulk     Lane = 2 // transfer
	Lanes             = 3
)

// Lane returns the lane a class travels on.
func (c Class) Lane() Lane {
	switch c {
	case ClassOrderedRequest, ClassOrderedReply, ClassUnorderedRequest, ClassUnorderedReply, ClassForwardedRequests, ClassAdvice:
		return LaneRequests
	case ClassLogTransfer, ClassStateTransfer:
		return LaneBulk
	}
	return LaneProtocol
}

// Kinds within classes that hold more than one message.
const (
	KindOnly     uint8 = 0
	KindQuery    uint8 = 1 // ViewQuery, LogRequest, StateRequest
	KindAnswer   uint8 = 2 // ViewReply, LogReply, StateReply
	KindRootVote uint8 = 3
	KindRootCert uint8 = 4
)

// MaxFrameBytes bounds a frame's payload by class: what a correct peer sends fits.
func (c Class) MaxFrameBytes() int {
	switch c {
	case ClassHandshake, ClassPing, ClassAdvice:
		return 1 << 10
	case ClassFetch:
		return 256 << 10
	case ClassViewTransfer, ClassCheckpoint:
		return 1 << 20
	case ClassOrderedReply, ClassUnorderedRequest, ClassUnorderedReply:
		return 4 << 20
	}
	return 10 << 20
}

// AdviceCode is what a replica advises a client about a bundle. Advice is never a result.
type AdviceCode uint32

// The advice codes.
const (
	AdviceBusy     AdviceCode = 1 // a bound of this replica is full; back off, send the same ops again
	AdviceRejected AdviceCode = 2 // this replica will not propose it (limit, validation); text says why
	AdviceNoKey    AdviceCode = 3 // the client's key is not admitted here
)

// QueryCode is the result of an unordered request at one replica.
type QueryCode uint32

// The query codes.
const (
	QueryOK        QueryCode = 1
	QueryMalformed QueryCode = 2
	QueryNotReady  QueryCode = 3 // this replica may not answer now, or is behind at_least
	QueryBusy      QueryCode = 4
	QueryTooLarge  QueryCode = 5
)

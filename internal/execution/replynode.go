package execution

import (
	"errors"
	"sync/atomic"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/wire"
)

// Sender is what a ReplyNode needs of the network. Send never blocks; false means that the frame
// was dropped because the receiver is gone or slow.
type Sender interface {
	Send(to auth.Identity, class wire.Class, kind uint8, payload []byte) bool
}

// ErrNotEnabled is returned by the signed variants: replies rest on the connection's TLS identity.
var ErrNotEnabled = errors.New("signed replies are not enabled")

// ReplyNode sends replies to clients. A reply that cannot be sent now is dropped and counted; the
// client asks again.
type ReplyNode struct {
	sender  Sender
	dropped atomic.Uint64
}

// NewReplyNode returns a reply node over sender.
func NewReplyNode(sender Sender) *ReplyNode { return &ReplyNode{sender: sender} }

// Send sends one payload of the class to a client and reports whether it was taken.
func (r *ReplyNode) Send(to smr.ClientID, class wire.Class, payload []byte) bool {
	ok := r.sender.Send(auth.ClientIdentity(to), class, wire.KindOnly, payload)
	if !ok {
		r.dropped.Add(1)
	}
	return ok
}

// SendSigned would send a payload with this replica's signature.
func (r *ReplyNode) SendSigned(smr.ClientID, wire.Class, []byte) error { return ErrNotEnabled }

// Broadcast sends one payload to several clients and returns how many took it.
func (r *ReplyNode) Broadcast(to []smr.ClientID, class wire.Class, payload []byte) int {
	n := 0
	for _, id := range to {
		if r.Send(id, class, payload) {
			n++
		}
	}
	return n
}

// BroadcastSigned would broadcast a payload with this replica's signature.
func (r *ReplyNode) BroadcastSigned([]smr.ClientID, wire.Class, []byte) error { return ErrNotEnabled }

// Dropped returns how many payloads could not be sent.
func (r *ReplyNode) Dropped() uint64 { return r.dropped.Load() }

package sim

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/engine"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/internal/requests"
	"github.com/atlas-smr/smr/wire"
)

// send puts a frame on the network, through the adversary if there is one.
func (n *node) send(f engine.Frame) {
	if !n.byzantine {
		n.signer.leaving(f.Payload, func(s auth.Statement) { n.c.oracle.vote(n.id, s) })
	}
	for _, to := range f.To {
		if n.hidden(to) {
			continue
		}
		if n.adversary != nil {
			n.adversary.Outgoing(n.now(), auth.NodeIdentity(to), f.Class, f.Kind, f.Payload, n.emit)
			continue
		}
		n.c.net.send(auth.NodeIdentity(n.id), auth.NodeIdentity(to), f.Class, f.Kind, f.Payload)
	}
}

// reply sends a frame to a client.
func (n *node) reply(client smr.ClientID, class wire.Class, payload []byte) {
	if n.adversary != nil {
		n.adversary.Outgoing(n.now(), auth.ClientIdentity(client), class, wire.KindOnly, payload, n.emit)
		return
	}
	n.c.net.send(auth.NodeIdentity(n.id), auth.ClientIdentity(client), class, wire.KindOnly, payload)
}

// connected says that the path to a peer works again.
func (n *node) connected(peer smr.NodeID) {
	if n.twin != nil {
		n.twin.connected(peer)
	}
	if n.up && n.c.nodes[peer-1].up {
		n.unlessPaused(func() {
			n.c.trace.event("connect", uint64(n.id), uint64(peer))
			n.input(func(now time.Time) { n.engine.Connected(now, peer, &n.out) })
		})
	}
}

// maxWaiting bounds the frames that wait for a paused replica.
const maxWaiting = 4000

// frame takes what the network brings.
func (n *node) frame(from auth.Identity, class wire.Class, kind uint8, payload []byte) {
	if n.twin != nil {
		n.twin.frame(from, class, kind, payload)
	}
	if peer, ok := from.Node(); ok && n.hidden(peer) {
		return
	}
	if !n.up {
		n.c.net.lost++
		return
	}
	if n.paused {
		if len(n.waiting) < maxWaiting { // what a peer's queue and the socket hold
			n.waiting = append(n.waiting, func() { n.frame(from, class, kind, payload) })
		}
		return
	}
	n.c.trace.event("frame", uint64(n.id), uint64(from.Kind), from.ID, uint64(class), uint64(kind), hash(payload))
	if n.adversary != nil {
		if payload = n.adversary.Incoming(n.now(), from, class, kind, payload, n.emit); payload == nil {
			return
		}
	}
	if peer, ok := from.Node(); ok {
		m, err := n.decoder.Decode(peer, class, kind, payload)
		if err != nil {
			if !n.c.nodes[peer-1].byzantine {
				n.c.fail("replica %d refuses a frame of correct replica %d: %v", n.id, peer, err)
			}
			return
		}
		n.input(func(now time.Time) { n.engine.Receive(now, peer, m, &n.out) })
		return
	}
	client, _ := from.Client()
	switch class {
	case wire.ClassOrderedRequest:
		n.ordered(from, client, payload)
	case wire.ClassUnorderedRequest:
		var q wirepb.UnorderedRequest
		if err := q.UnmarshalVT(payload); err != nil {
			n.refuse(client, "query: %v", err)
			return
		}
		rep := n.exec.core.Query(client, &q)
		b, err := rep.MarshalVT()
		if err != nil {
			n.c.fail("encode reply to query: %v", err)
		}
		n.reply(client, wire.ClassUnorderedReply, b)
	}
}

// ordered takes bundles from their client, as request workers do.
func (n *node) ordered(from auth.Identity, client smr.ClientID, payload []byte) {
	bundles, err := wire.DecodeBundles(payload)
	if err != nil {
		n.refuse(client, "bundles: %v", err)
		return
	}
	valid := wire.VerifyBundles(n.c.scheme, n.c.id, bundles)
	var accepted []*smr.Bundle
	for i, b := range bundles {
		if b.Client != client || valid != nil && !valid[i] {
			n.refuse(client, "a bundle that is not its own")
			continue
		}
		switch v := n.requests.Offer(n.now(), b); v.Kind {
		case requests.Accept:
			accepted = append(accepted, b)
		case requests.Executed:
			var out execution.Output
			if n.exec.core.Cached(b, &out) {
				n.replies(&out)
			} else if n.requests.Reorder(n.now(), b).Kind == requests.Accept {
				accepted = append(accepted, b)
			}
		case requests.Busy:
			n.advise(b, wire.AdviceBusy, v.Text)
		case requests.Rejected:
			n.advise(b, wire.AdviceRejected, v.Text)
		case requests.NoKey:
			n.advise(b, wire.AdviceNoKey, v.Text)
		}
	}
	if len(accepted) > 0 {
		n.input(func(now time.Time) { n.engine.Bundles(now, accepted, from, &n.out) })
	}
}

func (n *node) replies(out *execution.Output) {
	out.Frames(func(client smr.ClientID, payload []byte) { n.reply(client, wire.ClassOrderedReply, payload) })
	out.Reset()
}

func (n *node) advise(b *smr.Bundle, code wire.AdviceCode, text string) {
	a := wirepb.Advice{Code: uint32(code), Session: uint64(b.Session), First: uint64(b.First), Text: text, RetryAfterMs: 50}
	if b.Kind == smr.BundleOpen {
		a.First = b.Nonce
	}
	payload, err := a.MarshalVT()
	if err != nil {
		n.c.fail("encode advice: %v", err)
	}
	n.reply(b.Client, wire.ClassAdvice, payload)
}

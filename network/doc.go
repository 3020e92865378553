// Package network carries frames between authenticated nodes and clients.
//
// A [Node] offers four stubs (protocol, application, state transfer, reconfiguration), each for
// its classes of frames, over TCP with mutual TLS 1.3 or over the pipes of a [Memory]. It knows
// nothing of what frames mean beyond class and lane: payloads are opaque, and verifying them is the
// handler's work.
//
// # Identity
//
// The other end of a connection is whoever proves possession of a pinned Ed25519 key: a peer's key
// comes from the configuration (genesis, later the replicated membership), a client's from
// Config.Clients. TLS certificates are self-signed shells around these keys, made at start. Their
// dates, names and issuers are ignored on purpose: authority lies in the pinned key, so an expired
// certificate of a pinned key is as good as a fresh one, and no clock can lock a cluster out of
// itself. A key is revoked by removing it from the membership or the admitted clients.
//
// The first frame each way is a Hello (cluster, kind, id, lane, versions). One that names another
// identity than the key's breaks the connection.
//
// # Connections
//
// Between replicas each lane is a connection of its own, and each direction too: a replica dials
// every peer once per lane and sends on what it dialled; on what it accepted it receives. So there
// is nothing to tie-break. A client dials each replica once and uses the connection both ways. A
// newer accepted connection of the same identity and lane replaces the oldest beyond the allowed
// number, at a limited rate.
//
// # Bounds
//
// Sending never blocks: a frame goes into the bounded queue of its connection or is dropped and
// counted (the newest is dropped: what was queued first is what the receiver waits for, and
// protocols send again). While a peer cannot be reached nothing is queued for it. Receiving calls
// [Handler.Frame] on the connection's reader goroutine: blocking there holds back that connection
// alone. Every stage of a connection has a deadline, handshakes are limited in number per address
// and in total. Whatever a remote end does wrong ends in one dropped connection and one counter.
//
// # Goroutines
//
//	accept      one per listening node
//	connection  one reader and one writer per connection; the reader first does the handshake
//	link        one per dialled peer and lane: dials, then is the reader, then dials again
//
// All are owned by the Node; Close ends and awaits them.
package network

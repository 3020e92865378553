package sim

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/internal/requests"
	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/wire"
)

// badClient is a Byzantine client: it has an admitted key and sends what it likes to whom it likes.
// It writes keys of its own, so that the correct clients' histories stay theirs.
type badClient struct {
	c      *cluster
	id     smr.ClientID
	rng    random
	signer auth.Signer
	other  auth.Signer // of a key that is not admitted
	act    func(b *badClient)

	session smr.SessionID   // the newest it was told of
	opened  []smr.SessionID // all of them
	nonce   uint64
	next    smr.OpNumber
	sent    []*smr.Bundle // some of what it sent, for replays
}

// badClientBehaviours maps names to what a client does, again and again.
var badClientBehaviours = []struct {
	name string
	act  func(b *badClient)
}{
	{"two-contents", (*badClient).twoContents}, {"gaps-and-jumps", (*badClient).gaps}, {"evicted-replays", (*badClient).evicted},
	{"floods", (*badClient).flood}, {"one-replica-only", (*badClient).toFew}, {"valid-for-some", (*badClient).validForSome},
	{"crafted-signatures", (*badClient).twoContents}, {"many-keys", (*badClient).manyKeys}, {"huge-requests", (*badClient).huge},
	{"garbage-requests", (*badClient).garbage},
}

// BadClientBehaviours returns the names of what Byzantine clients do.
func BadClientBehaviours() []string {
	names := make([]string, len(badClientBehaviours))
	for i, b := range badClientBehaviours {
		names[i] = b.name
	}
	return names
}

// badClientScenarios are runs with Byzantine clients and correct replicas.
var badClientScenarios = []scenario{
	{"bad-clients", false, func(r random, p *draft) {
		for range 1 + r.IntN(3) {
			p.BadClients = append(p.BadClients, pick(r, BadClientBehaviours()...))
		}
		p.want(FaultPrimaryKill, r.IntN(2))
		p.want(FaultCrash, r.IntN(2))
		p.want(FaultPartition, r.IntN(2))
	}},
}

func newBadClient(c *cluster, id smr.ClientID, behaviour string, signer auth.Signer, keys keyring) (*badClient, error) {
	b := &badClient{c: c, id: id, rng: c.stream(streamBadClient, uint64(id)), signer: signer, other: keys.signer(5000 + uint64(id)), next: 1}
	for _, x := range badClientBehaviours {
		if x.name == behaviour {
			b.act = x.act
			return b, nil
		}
	}
	return nil, fmt.Errorf("unknown client behaviour %q; there are: %s", behaviour, strings.Join(BadClientBehaviours(), ", "))
}

// clientLimits are a replica's bounds on one client. A cluster whose checkpoints take a good part of
// a second and come every few kilobytes orders a thousandth of what a real one does, so what may wait
// before a correct client's next request is less too.
func clientLimits() requests.Limits {
	l := requests.DefaultLimits()
	l.ClientBundles, l.ClientBytes = 64, 2<<20
	return l
}

// begin starts the client's loop. It goes on while correct clients have work, after the faults too.
func (b *badClient) begin() {
	b.open()
	b.c.clk.after(b.rng.exponential(50*time.Millisecond), b.step)
}

func (b *badClient) step() {
	if b.c.healed && b.c.clientsDone() {
		return
	}
	b.c.trace.event("bad", uint64(b.id))
	if b.session == 0 && b.rng.chance(0.1) {
		b.nonce--
		b.open() // the open may have been lost
	}
	if b.session != 0 {
		b.act(b)
	}
	b.c.clk.after(b.rng.exponential(50*time.Millisecond), b.step)
}

// clientsDone reports whether no correct client waits or has anything to begin.
func (c *cluster) clientsDone() bool {
	for _, w := range c.clients {
		if w.busy+w.left > 0 {
			return false
		}
	}
	return true
}

// frame learns session ids from the first replica that names one.
func (b *badClient) frame(_ auth.Identity, class wire.Class, payload []byte) {
	var r wirepb.OrderedReply
	if class != wire.ClassOrderedReply || r.UnmarshalVT(payload) != nil {
		return
	}
	for _, s := range r.Sessions {
		for _, x := range s.Results {
			if !s.Open && smr.Outcome(x.Outcome) == smr.OutcomeExecuted {
				b.c.counts.BadOps++
			}
			if s.Open && len(x.Data) == 8 && x.Op == b.nonce && smr.Outcome(x.Outcome) == smr.OutcomeExecuted {
				if id := smr.SessionID(binary.BigEndian.Uint64(x.Data)); !slices.Contains(b.opened, id) {
					b.session, b.next = id, 1
					b.opened = append(b.opened, id)
				}
			}
		}
	}
}

// op returns a write of n bytes to a key of this client's.
func (b *badClient) op(n int) []byte {
	value := fmt.Sprintf("%d-%s", b.rng.IntN(1<<30), strings.Repeat("z", n))
	raw, err := kv.RequestCodec{}.Append(nil, kv.Put(fmt.Sprintf("bad%d", b.id), value))
	if err != nil {
		panic(err) // a put of a string encodes
	}
	return raw
}

// encode signs a bundle as it is, whatever its shape.
func (b *badClient) encode(signer auth.Signer, x smr.Bundle) []byte {
	key := signer.Public()
	body, err := (&wirepb.BundleBody{
		Kind: uint32(x.Kind), Client: uint64(x.Client), Key: key[:], Session: uint64(x.Session),
		First: uint64(x.First), Acked: uint64(x.Acked), Nonce: x.Nonce, Ops: x.Ops,
	}).MarshalVT()
	if err != nil {
		panic(err)
	}
	text := append(append([]byte("atlas-smr bundle v1\x00"), b.c.id[:]...), body...)
	raw, err := (&wirepb.SignedBundle{Body: body, Signature: signer.Sign(text)}).MarshalVT()
	if err != nil {
		panic(err)
	}
	return raw
}

// ops returns a signed bundle of this client's newest session.
func (b *badClient) ops(first smr.OpNumber, ops ...[]byte) []byte {
	return b.encode(b.signer, smr.Bundle{Kind: smr.BundleOps, Client: b.id, Session: b.session, First: first, Acked: 1, Ops: ops})
}

// send sends encoded bundles to replicas; to all if none is named.
func (b *badClient) send(bundles [][]byte, to ...smr.NodeID) {
	b.c.counts.BadBundles += len(bundles)
	payload, err := (&wirepb.Bundles{Bundles: bundles}).MarshalVT()
	if err != nil {
		panic(err)
	}
	if to == nil {
		to = b.c.members.Voters()
	}
	for _, id := range to {
		b.c.net.send(auth.ClientIdentity(b.id), auth.NodeIdentity(id), wire.ClassOrderedRequest, wire.KindOnly, payload)
	}
}

func (b *badClient) open() {
	b.nonce++
	b.send([][]byte{b.encode(b.signer, smr.Bundle{Kind: smr.BundleOpen, Client: b.id, Nonce: b.nonce})})
}

// halves divides the replicas at random.
func (b *badClient) halves() (x, y []smr.NodeID) {
	ids := b.c.members.Voters()
	b.rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	at := 1 + b.rng.IntN(len(ids)-1)
	return ids[:at], ids[at:]
}

// twoContents sends one op number with different contents to different replicas.
func (b *badClient) twoContents() {
	x, y := b.halves()
	b.send([][]byte{b.ops(b.next, b.op(8), b.op(8))}, x...)
	b.send([][]byte{b.ops(b.next, b.op(8))}, y...)
	b.next++
}

// gaps sends op numbers with gaps, overlaps and jumps, to where numbers end.
func (b *badClient) gaps() {
	far := pick(b.rng, b.next+2, b.next+smr.SessionWindow-1, b.next+smr.SessionWindow, 1<<32, 1<<62-1, 1<<62, 1<<62+1, 1<<63-1, 1<<63, 1<<64-1)
	b.send([][]byte{b.ops(b.next, b.op(4), b.op(4), b.op(4)), b.ops(b.next+1, b.op(4))})
	b.send([][]byte{b.ops(far, b.op(4), b.op(4))})
	acked := pick(b.rng, b.next, far, far+1)
	b.send([][]byte{b.encode(b.signer, smr.Bundle{Kind: smr.BundleOps, Client: b.id, Session: b.session, First: far, Acked: acked, Ops: [][]byte{b.op(4)}})})
	b.next += 2
	if b.rng.chance(0.1) {
		b.open()
	}
}

// evicted opens more sessions than its quota and goes on using those that are gone.
func (b *badClient) evicted() {
	b.open()
	fresh := b.ops(1, b.op(4))
	b.send([][]byte{fresh})
	if d, err := wire.DecodeBundle(fresh); err == nil && len(b.sent) < 64 {
		b.sent = append(b.sent, d)
	}
	old := b.sent[b.rng.IntN(len(b.sent))]
	b.send([][]byte{old.Raw}) // to the byte
	b.send([][]byte{b.encode(b.signer, smr.Bundle{Kind: smr.BundleOps, Client: b.id, Session: old.Session, First: old.First + 1, Acked: 1, Ops: [][]byte{b.op(4)}})})
	// Sessions that are another's, or nobody's.
	b.send([][]byte{b.encode(b.signer, smr.Bundle{Kind: smr.BundleOps, Client: b.id, Session: old.Session + 1, First: 1, Acked: 1, Ops: [][]byte{b.op(4)}})})
	b.send([][]byte{b.encode(b.signer, smr.Bundle{Kind: smr.BundleOpen, Client: b.id, Nonce: 1})})
}

// flood sends far more than its share.
func (b *badClient) flood() {
	for range 20 {
		var ops [][]byte
		for range 1 + b.rng.IntN(20) {
			ops = append(ops, b.op(100))
		}
		b.send([][]byte{b.ops(b.next, ops...)})
		b.next += smr.OpNumber(len(ops))
	}
}

// toFew sends a bundle to one replica only, or to f+1.
func (b *badClient) toFew() {
	ids := b.c.members.Voters()
	b.rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	b.send([][]byte{b.ops(b.next, b.op(50))}, ids[:pick(b.rng, 1, b.c.members.Weak())]...)
	b.next++
}

// validForSome sends the same ops with a good signature to some and a bad one to others.
func (b *badClient) validForSome() {
	x, y := b.halves()
	good := b.ops(b.next, b.op(8))
	bad := slices.Clone(good)
	bad[len(bad)-1-b.rng.IntN(auth.SignatureBytes)] ^= 1 << b.rng.IntN(8)
	b.send([][]byte{good}, x...)
	b.send([][]byte{bad}, y...)
	b.send([][]byte{bad, good}, y...)
	b.next++
}

// manyKeys signs with keys that are not admitted, in its own name and others'.
func (b *badClient) manyKeys() {
	b.send([][]byte{b.encode(b.other, smr.Bundle{Kind: smr.BundleOpen, Client: b.id, Nonce: b.rng.Uint64() | 1})})
	b.send([][]byte{b.encode(b.other, smr.Bundle{Kind: smr.BundleOps, Client: b.id, Session: b.session, First: b.next, Acked: 1, Ops: [][]byte{b.op(4)}})})
	b.send([][]byte{b.encode(b.signer, smr.Bundle{Kind: smr.BundleOpen, Client: 1, Nonce: 1 << 60})})
	b.send([][]byte{b.encode(b.other, smr.Bundle{Kind: smr.BundleOpen, Client: 1 << 40, Nonce: 1})})
	b.send([][]byte{b.ops(b.next, b.op(4))})
	b.next++
}

// huge sends ops as large as they may be, a little larger, and bundles of too many.
func (b *badClient) huge() {
	switch b.rng.IntN(8) {
	case 0:
		b.send([][]byte{b.ops(b.next, b.op(smr.MaxOpBytes-100))})
	case 1:
		b.send([][]byte{b.ops(b.next, b.op(smr.MaxOpBytes+1))})
	case 2:
		b.send([][]byte{b.ops(b.next, make([][]byte, smr.MaxBundleOps+1)...)})
	case 3:
		b.send([][]byte{b.ops(b.next, make([][]byte, smr.MaxBundleOps)...)})
	default:
		b.send([][]byte{b.ops(b.next, b.op(20<<10))})
	}
	b.next++
}

// garbage sends bytes that are no bundle, no query, or no request at all.
func (b *badClient) garbage() {
	junk := make([]byte, b.rng.IntN(200))
	for i := range junk {
		junk[i] = byte(b.rng.Uint64())
	}
	good := b.ops(b.next, b.op(8))
	b.send([][]byte{junk})
	b.send([][]byte{good[:b.rng.IntN(len(good))]})
	for _, class := range []wire.Class{wire.ClassUnorderedRequest, wire.ClassOrderedRequest, wire.ClassProtocol, wire.ClassCheckpoint, wire.ClassFetch} {
		for _, id := range b.c.members.Voters() {
			b.c.net.send(auth.ClientIdentity(b.id), auth.NodeIdentity(id), class, wire.KindOnly, junk)
		}
	}
	b.send([][]byte{b.ops(b.next, junk)}) // well signed, and nothing the application knows
	b.next++
}

// craftedSigner signs with a key of small order: under the cofactored rule its signatures hold for
// every message, under the standard library's for some.
type craftedSigner struct{ n int }

var smallOrder = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func point(i int) []byte {
	p, err := hex.DecodeString(smallOrder[i%len(smallOrder)])
	if err != nil {
		panic(err) // a constant
	}
	return p
}

// Public implements auth.Signer.
func (s *craftedSigner) Public() smr.PublicKey { return smr.PublicKey(point(1)) }

// Sign implements auth.Signer.
func (s *craftedSigner) Sign([]byte) []byte {
	s.n++
	return append(point(s.n), make([]byte, 32)...)
}

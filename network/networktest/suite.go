// Package networktest is the conformance suite of network.Transport: what TCP with TLS and the
// in-memory network must both do.
package networktest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/network"
	"github.com/atlas-smr/smr/wire"
)

// Fabric makes the ends of one network under test.
type Fabric struct {
	// Reserve returns an address and, if it must be bound already, its listener.
	Reserve func(t testing.TB) (addr string, l net.Listener)
	Listen  func(network.Config, network.Handler) (*network.Node, error)
	Dial    func(network.ClientConfig, network.Handler) (*network.Node, error)
}

// TCP is the fabric of TLS over TCP on loopback.
func TCP() Fabric {
	return Fabric{Listen: network.Listen, Dial: network.Dial, Reserve: func(t testing.TB) (string, net.Listener) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l.Addr().String(), l
	}}
}

// Memory is the fabric of a network.Memory.
func Memory() Fabric {
	hub := network.NewMemory()
	var mu sync.Mutex
	next := 0
	return Fabric{Listen: hub.Listen, Dial: hub.Dial, Reserve: func(testing.TB) (string, net.Listener) {
		mu.Lock()
		defer mu.Unlock()
		next++
		return string(rune('a' + next)), nil
	}}
}

// Key returns the key pair of an identity, the same each time.
func Key(id auth.Identity) *auth.KeyPair {
	seed := make([]byte, auth.SeedBytes)
	seed[0] = byte(id.Kind)
	binary.BigEndian.PutUint64(seed[8:], id.ID)
	k, err := auth.KeyFromSeed(seed)
	if err != nil {
		panic(err) // the seed has the right length
	}
	return k
}

// Cluster is the cluster id of the suite.
var Cluster = smr.ClusterID{1, 2, 3}

// Clients admits the client keys 1 to 8 of Key.
func Clients(key smr.PublicKey) (smr.ClientID, bool) {
	for id := smr.ClientID(1); id <= 8; id++ {
		if Key(auth.ClientIdentity(id)).Public() == key {
			return id, true
		}
	}
	return 0, false
}

// Got is a frame that arrived.
type Got struct {
	From    auth.Identity
	Class   wire.Class
	Kind    uint8
	Payload []byte
}

// Recorder is a handler that hands on what arrives.
type Recorder struct {
	Frames chan Got
	Ups    chan auth.Identity
	Downs  chan auth.Identity
	// Answer, if set, is called instead of recording.
	Answer func(Got) error
}

// NewRecorder returns a recorder with room for many frames.
func NewRecorder() *Recorder {
	return &Recorder{Frames: make(chan Got, 1<<16), Ups: make(chan auth.Identity, 1<<10), Downs: make(chan auth.Identity, 1<<10)}
}

// Frame implements network.Handler.
func (r *Recorder) Frame(from auth.Identity, class wire.Class, kind uint8, payload []byte) error {
	g := Got{from, class, kind, payload}
	if r.Answer != nil {
		return r.Answer(g)
	}
	r.Frames <- g
	return nil
}

// Up implements network.Handler.
func (r *Recorder) Up(peer auth.Identity) { r.Ups <- peer }

// Down implements network.Handler.
func (r *Recorder) Down(peer auth.Identity) { r.Downs <- peer }

// Patience is how long the suite waits for what must happen.
const Patience = 20 * time.Second

// Next waits for a value.
func Next[T any](t testing.TB, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(Patience):
		t.Fatalf("no %s after %v", what, Patience)
		panic("unreachable")
	}
}

// Eventually waits until ok.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after %v: %s", Patience, what)
		}
	}
}

// Group is n replicas, connected.
type Group struct {
	Fabric Fabric
	Peers  []network.Peer
	Nodes  []*network.Node
	Recs   []*Recorder
}

// Start makes n replicas with the given limits and waits until all protocol lanes are up. They are
// closed with the test.
func Start(t testing.TB, f Fabric, n int, limits network.Limits) *Group {
	t.Helper()
	g := &Group{Fabric: f}
	var listeners []net.Listener
	for i := range n {
		addr, l := f.Reserve(t)
		id := smr.NodeID(i + 1)
		g.Peers = append(g.Peers, network.Peer{ID: id, Addr: addr, Key: Key(auth.NodeIdentity(id)).Public()})
		listeners = append(listeners, l)
	}
	for i := range n {
		rec := NewRecorder()
		g.Recs = append(g.Recs, rec)
		g.Nodes = append(g.Nodes, g.listen(t, i, listeners[i], rec, limits))
	}
	for i := range n {
		for range n - 1 {
			Next(t, g.Recs[i].Ups, "Up")
		}
	}
	return g
}

func (g *Group) listen(t testing.TB, i int, l net.Listener, rec *Recorder, limits network.Limits) *network.Node {
	t.Helper()
	self := auth.NodeIdentity(g.Peers[i].ID)
	node, err := g.Fabric.Listen(network.Config{
		Cluster: Cluster, Self: self, Key: Key(self), ListenAddr: g.Peers[i].Addr, Listener: l,
		Peers: g.Peers, Clients: Clients, Limits: limits,
	}, rec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close() })
	return node
}

// Client connects a client to all replicas and waits until all connections are up.
func (g *Group) Client(t testing.TB, id smr.ClientID, rec *Recorder) *network.Node {
	t.Helper()
	c, err := g.Fabric.Dial(network.ClientConfig{
		Cluster: Cluster, Self: id, Key: Key(auth.ClientIdentity(id)), Replicas: g.Peers,
	}, rec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	for range g.Peers {
		Next(t, rec.Ups, "Up of a replica")
	}
	return c
}

// Run runs the suite on fresh fabrics.
func Run(t *testing.T, fabric func() Fabric) {
	for name, test := range map[string]func(*testing.T, Fabric){
		"every class arrives from its sender on its stub":      testClasses,
		"frames of a lane keep their order":                    testOrder,
		"payload sizes up to the limit survive":                testSizes,
		"clients and replicas talk both ways":                  testClient,
		"what may not be sent is refused and counted":          testRefusals,
		"a replica that comes back is connected again":         testReturn,
		"a misbehaving sender is cut off and counted":          testMisbehaviour,
		"a blocked handler holds back its own connection only": testBlocked,
		"a full queue drops and counts and never blocks":       testFullQueue,
		"nothing is delivered after Close":                     testClose,
	} {
		t.Run(name, func(t *testing.T) { test(t, fabric()) })
	}
}

var nodeClasses = []wire.Class{
	wire.ClassForwardedRequests, wire.ClassProtocol, wire.ClassForwardedProtocol, wire.ClassLogTransfer, wire.ClassViewTransfer,
	wire.ClassStateTransfer, wire.ClassCheckpoint, wire.ClassFetch, wire.ClassReconfiguration,
}

func testClasses(t *testing.T, f Fabric) {
	g := Start(t, f, 3, network.Limits{})
	for _, class := range nodeClasses {
		// One receiver at a time: what was queued for one must not be sent again for the other's sake.
		for _, to := range []smr.NodeID{2, 3} {
			Eventually(t, "sent", func() bool {
				return network.Route(g.Nodes[0], class).SendMany([]auth.Identity{auth.NodeIdentity(to)}, class, 9, []byte(class.String())) == 1
			})
		}
		for _, rec := range g.Recs[1:] {
			got := Next(t, rec.Frames, class.String())
			if got.From != auth.NodeIdentity(1) || got.Class != class || got.Kind != 9 || string(got.Payload) != class.String() {
				t.Fatalf("got %+v for %s", got, class)
			}
		}
	}
}

func testOrder(t *testing.T, f Fabric) {
	g := Start(t, f, 2, network.Limits{})
	const n = 20000
	for i := range n {
		if !g.Nodes[0].Protocol().Send(auth.NodeIdentity(2), wire.ClassProtocol, 1, binary.BigEndian.AppendUint32(nil, uint32(i))) {
			t.Fatal("not queued")
		}
	}
	for i := range n {
		if got := Next(t, g.Recs[1].Frames, "frame"); binary.BigEndian.Uint32(got.Payload) != uint32(i) {
			t.Fatalf("frame %d is %x", i, got.Payload)
		}
	}
}

func testSizes(t *testing.T, f Fabric) {
	g := Start(t, f, 2, network.Limits{})
	for _, size := range []int{0, 1, 2047, 2048, 2049, 16 << 10, 64<<10 + 1, 1 << 20, wire.ClassProtocol.MaxFrameBytes()} {
		payload := bytes.Repeat([]byte{byte(size), 7}, size/2+1)[:size]
		if !g.Nodes[0].Protocol().Send(auth.NodeIdentity(2), wire.ClassProtocol, 1, payload) {
			t.Fatal("not queued")
		}
		if got := Next(t, g.Recs[1].Frames, "frame"); !bytes.Equal(got.Payload, payload) {
			t.Fatalf("%d bytes arrived as %d others", size, len(got.Payload))
		}
	}
}

func testClient(t *testing.T, f Fabric) {
	g := Start(t, f, 2, network.Limits{})
	rec := NewRecorder()
	c := g.Client(t, 5, rec)
	for i, node := range g.Nodes {
		to := auth.NodeIdentity(smr.NodeID(i + 1))
		if !c.Application().Send(to, wire.ClassOrderedRequest, 0, []byte("ask")) {
			t.Fatal("not queued")
		}
		got := Next(t, g.Recs[i].Frames, "request")
		if got.From != auth.ClientIdentity(5) || string(got.Payload) != "ask" {
			t.Fatalf("got %+v", got)
		}
		if !node.Application().Send(got.From, wire.ClassOrderedReply, 0, []byte("reply")) {
			t.Fatal("reply not queued")
		}
		if got := Next(t, rec.Frames, "reply"); got.From != to || string(got.Payload) != "reply" {
			t.Fatalf("got %+v", got)
		}
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if id := Next(t, g.Recs[0].Downs, "Down"); id != auth.ClientIdentity(5) {
		t.Fatalf("down: %v", id)
	}
	Eventually(t, "no client is connected", func() bool { return g.Nodes[0].Stats().Clients == 0 })
}

func testRefusals(t *testing.T, f Fabric) {
	g := Start(t, f, 2, network.Limits{})
	for reason, send := range map[network.Reason]func() bool{
		network.SendUnknown: func() bool {
			return g.Nodes[0].Protocol().Send(auth.NodeIdentity(9), wire.ClassProtocol, 1, nil)
		},
		network.SendUnreachable: func() bool {
			return g.Nodes[0].Application().Send(auth.ClientIdentity(3), wire.ClassOrderedReply, 1, nil)
		},
		network.SendNotAllowed: func() bool {
			return g.Nodes[0].Application().Send(auth.NodeIdentity(2), wire.ClassOrderedReply, 1, nil)
		},
		network.SendTooLong: func() bool {
			return g.Nodes[0].Protocol().Send(auth.NodeIdentity(2), wire.ClassFetch, 1, make([]byte, wire.ClassFetch.MaxFrameBytes()+1))
		},
	} {
		if send() {
			t.Errorf("%v: sent", reason)
		}
		if n := g.Nodes[0].Stats().Drops[reason]; n != 1 {
			t.Errorf("%v counted %d times", reason, n)
		}
	}
	if g.Nodes[0].Protocol().Send(auth.NodeIdentity(1), wire.ClassProtocol, 1, nil) {
		t.Error("sent to itself")
	}
}

func testReturn(t *testing.T, f Fabric) {
	g := Start(t, f, 2, network.Limits{})
	_ = g.Nodes[1].Close()
	if id := Next(t, g.Recs[0].Downs, "Down"); id != auth.NodeIdentity(2) {
		t.Fatalf("down: %v", id)
	}
	Eventually(t, "sends are refused while the peer is gone", func() bool {
		return !g.Nodes[0].Protocol().Send(auth.NodeIdentity(2), wire.ClassProtocol, 1, []byte("lost"))
	})
	rec := NewRecorder()
	g.listen(t, 1, nil, rec, network.Limits{})
	Next(t, g.Recs[0].Ups, "Up again")
	if !g.Nodes[0].Protocol().Send(auth.NodeIdentity(2), wire.ClassProtocol, 1, []byte("again")) {
		t.Fatal("not queued")
	}
	if got := Next(t, rec.Frames, "frame"); string(got.Payload) != "again" {
		t.Fatalf("got %q: what was sent before came back", got.Payload)
	}
}

func testMisbehaviour(t *testing.T, f Fabric) {
	g := Start(t, f, 2, network.Limits{})
	bad := errors.New("bad")
	seen := make(chan struct{}, 1)
	rec := NewRecorder()
	c := g.Client(t, 1, rec)
	_ = c
	Next(t, g.Recs[1].Ups, "client up")
	g.Recs[1].Answer = func(Got) error { seen <- struct{}{}; return bad }
	c.Application().Send(auth.NodeIdentity(2), wire.ClassOrderedRequest, 0, []byte("garbage"))
	Next(t, seen, "frame")
	if id := Next(t, rec.Downs, "Down"); id != auth.NodeIdentity(2) {
		t.Fatalf("down: %v", id)
	}
	Eventually(t, "counted", func() bool { return g.Nodes[1].Stats().Drops[network.DroppedMisbehaving] == 1 })
}

func testBlocked(t *testing.T, f Fabric) {
	g := Start(t, f, 2, network.Limits{})
	release := make(chan struct{})
	protocol := make(chan Got, 1)
	g.Recs[1].Answer = func(got Got) error {
		if got.Class == wire.ClassForwardedRequests {
			<-release
			return nil
		}
		protocol <- got
		return nil
	}
	Eventually(t, "sent", func() bool {
		return g.Nodes[0].Application().Send(auth.NodeIdentity(2), wire.ClassForwardedRequests, 0, nil)
	})
	g.Nodes[0].Protocol().Send(auth.NodeIdentity(2), wire.ClassProtocol, 0, nil)
	Next(t, protocol, "protocol frame beside blocked requests")
	close(release)
}

func testFullQueue(t *testing.T, f Fabric) {
	g := Start(t, f, 2, network.Limits{})
	release := make(chan struct{})
	defer close(release)
	g.Recs[1].Answer = func(Got) error { <-release; return nil }
	payload := make([]byte, 1<<20)
	sent := 0
	for g.Nodes[0].Protocol().Send(auth.NodeIdentity(2), wire.ClassProtocol, 1, payload) {
		if sent++; sent > 200 {
			t.Fatal("200 MiB queued for a peer that does not read")
		}
	}
	if n := g.Nodes[0].Stats().Drops[network.SendQueueFull]; n != 1 {
		t.Errorf("counted %d times", n)
	}
}

func testClose(t *testing.T, f Fabric) {
	g := Start(t, f, 2, network.Limits{})
	for range 1000 {
		g.Nodes[0].Protocol().Send(auth.NodeIdentity(2), wire.ClassProtocol, 1, make([]byte, 100))
	}
	_ = g.Nodes[1].Close()
	n := len(g.Recs[1].Frames)
	time.Sleep(20 * time.Millisecond)
	if len(g.Recs[1].Frames) != n {
		t.Fatal("a frame after Close")
	}
	if g.Nodes[1].Protocol().Send(auth.NodeIdentity(1), wire.ClassProtocol, 1, nil) {
		t.Fatal("sent after Close")
	}
}

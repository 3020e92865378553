package network

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/wire"
)

func testKey(b byte) *auth.KeyPair {
	seed := make([]byte, auth.SeedBytes)
	seed[3] = b
	k, _ := auth.KeyFromSeed(seed)
	return k
}

type sink struct{}

func (sink) Frame(auth.Identity, wire.Class, uint8, []byte) error { return nil }
func (sink) Up(auth.Identity)                                     {}
func (sink) Down(auth.Identity)                                   {}

// victim listens as node 1; node 2 is a peer that never listens, client 7 has key 7.
func victim(t *testing.T, l Limits) *Node {
	t.Helper()
	n, err := Listen(Config{
		Cluster: smr.ClusterID{9}, Self: auth.NodeIdentity(1), Key: testKey(1), ListenAddr: "127.0.0.1:0",
		Peers:   []Peer{{ID: 2, Addr: "127.0.0.1:1", Key: testKey(2).Public()}},
		Clients: func(k smr.PublicKey) (smr.ClientID, bool) { return 7, k == testKey(7).Public() },
		Limits:  l,
	}, sink{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

// attack opens TLS with a key and writes bytes.
func attack(t *testing.T, n *Node, key *auth.KeyPair, until time.Time, bytes ...[]byte) net.Conn {
	t.Helper()
	carrier, err := newTLSCarrier(key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := shellCertificateUntil(key, until)
	if err != nil {
		t.Fatal(err)
	}
	carrier.client.Certificates = []tls.Certificate{cert}
	raw, err := net.Dial("tcp", n.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = raw.Close() })
	stream, _, err := carrier.secure(context.Background(), raw, true)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range bytes {
		_, _ = stream.Write(b)
	}
	return stream
}

func hello(t *testing.T, cluster byte, id auth.Identity, lane wire.Lane) []byte {
	t.Helper()
	b, err := helloFrame(smr.ClusterID{cluster}, id, lane)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func counted(t *testing.T, n *Node, r Reason, times uint64) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); n.Stats().Drops[r] < times; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%v counted %d times, want %d; all: %v", r, n.Stats().Drops[r], times, n.Stats().Drops)
		}
	}
}

var (
	past   = time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	future = time.Date(2999, 1, 1, 0, 0, 0, 0, time.UTC)
)

func TestBadEndsAreCutOffAndCounted(t *testing.T) {
	node, client := auth.NodeIdentity(2), auth.ClientIdentity(7)
	good := hello(t, 9, node, wire.LaneProtocol)
	for name, c := range map[string]struct {
		key   byte
		write [][]byte
		want  Reason
	}{
		"unknown key":                      {33, [][]byte{good}, RefusedKey},
		"the own key":                      {1, [][]byte{good}, RefusedSelf},
		"another cluster":                  {2, [][]byte{hello(t, 8, node, 0)}, RefusedCluster},
		"another id":                       {2, [][]byte{hello(t, 9, auth.NodeIdentity(3), 0)}, RefusedIdentity},
		"another kind":                     {7, [][]byte{hello(t, 9, auth.NodeIdentity(7), 0)}, RefusedIdentity},
		"unknown lane":                     {2, [][]byte{hello(t, 9, node, 3)}, RefusedLane},
		"client on the protocol lane":      {7, [][]byte{hello(t, 9, client, 0)}, RefusedLane},
		"garbage for a Hello":              {2, [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n")}, RefusedHello},
		"frame of length 2^32-1":           {2, [][]byte{good, {255, 255, 255, 255}}, DroppedTooLong},
		"frame shorter than a header":      {2, [][]byte{good, {0, 0, 0, 1}}, DroppedLength},
		"unknown version":                  {2, [][]byte{good, {0, 0, 0, 3, 9, 6, 0}}, DroppedVersion},
		"unknown class":                    {2, [][]byte{good, {0, 0, 0, 3, 1, 99, 0}}, DroppedClass},
		"a class of another lane":          {2, [][]byte{good, wire.AppendFrame(nil, wire.ClassLogTransfer, 0, nil)}, DroppedNotAllowed},
		"a client that votes":              {7, [][]byte{hello(t, 9, client, 1), wire.AppendFrame(nil, wire.ClassProtocol, 0, nil)}, DroppedNotAllowed},
		"a second Hello":                   {2, [][]byte{good, good}, DroppedNotAllowed},
		"an answer to a ping never asked":  {2, [][]byte{good, wire.AppendFrame(nil, wire.ClassPing, 0, []byte{16, 1})}, DroppedPing},
		"half a frame and then no more":    {2, [][]byte{good, {0, 0, 1, 0, 1, 6, 0, 1, 2}}, DroppedIdle},
		"established and then silent":      {2, [][]byte{good}, DroppedIdle},
		"authenticated but without a word": {2, nil, RefusedHello},
	} {
		t.Run(name, func(t *testing.T) {
			n := victim(t, Limits{IdleTimeout: 300 * time.Millisecond, HandshakeTimeout: time.Second})
			attack(t, n, testKey(c.key), future, c.write...)
			counted(t, n, c.want, 1)
		})
	}
}

func TestExpiredCertificateOfPinnedKeyIsAccepted(t *testing.T) {
	n := victim(t, Limits{})
	attack(t, n, testKey(2), past, hello(t, 9, auth.NodeIdentity(2), 0))
	for end := time.Now().Add(5 * time.Second); n.Stats().Accepted != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(n.Stats())
		}
	}
}

func TestNewerConnectionReplacesOlderAtALimitedRate(t *testing.T) {
	n := victim(t, Limits{ReplaceInterval: time.Hour})
	h := hello(t, 9, auth.NodeIdentity(2), 0)
	for range 3 {
		s := attack(t, n, testKey(2), future, h)
		_ = s.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, _ = s.Read(make([]byte, 1)) // the answering Hello, or the end
	}
	counted(t, n, DroppedReplaced, 1)
	counted(t, n, RefusedReplace, 1)
	if got := n.Stats().Accepted; got != 1 {
		t.Fatalf("%d connections of one peer and lane", got)
	}
}

func TestUnfinishedHandshakesAreLimitedAndEnd(t *testing.T) {
	n := victim(t, Limits{HandshakesPerAddr: 3, HandshakeTimeout: 300 * time.Millisecond})
	for range 5 {
		raw, err := net.Dial("tcp", n.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = raw.Close() })
	}
	counted(t, n, RefusedAddr, 2)
	counted(t, n, RefusedHandshake, 3)
	if got := n.Stats().Handshakes; got != 0 {
		t.Fatalf("%d handshakes remain", got)
	}
}

func TestClientThatDoesNotReadIsDropped(t *testing.T) {
	n := victim(t, Limits{WriteTimeout: time.Second})
	client := auth.ClientIdentity(7)
	attack(t, n, testKey(7), future, hello(t, 9, client, wire.LaneRequests))
	reply := make([]byte, 1<<20)
	for end := time.Now().Add(10 * time.Second); n.Stats().Drops[DroppedSlowReader] == 0; time.Sleep(time.Millisecond) {
		n.Application().Send(client, wire.ClassOrderedReply, 0, reply)
		if time.Now().After(end) {
			t.Fatal(n.Stats())
		}
	}
	if n.Stats().Drops[SendQueueFull] == 0 {
		t.Error("its queue never filled")
	}
}

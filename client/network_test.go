package client

import (
	"crypto/rand"
	"io"
	"sync"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/network"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// front is one replica's end of the network before shared replicas.
type front struct {
	net   *fronts
	voter int
}

type fronts struct {
	mu    sync.Mutex
	reps  *replicas
	nodes []network.Transport
}

func (f front) Up(auth.Identity)   {}
func (f front) Down(auth.Identity) {}
func (f front) Frame(_ auth.Identity, class wire.Class, kind uint8, payload []byte) error {
	f.net.mu.Lock()
	defer f.net.mu.Unlock()
	f.net.reps.handle(Frame{f.net.reps.m.Voter(f.voter).ID, class, kind, payload})
	return nil
}

func TestOverTheNetworkInMemoryAndOverTCP(t *testing.T) {
	hub := network.NewMemory()
	for name, n := range map[string]struct {
		listen func(network.Config, network.Handler) (*network.Node, error)
		dial   func(network.ClientConfig, network.Handler) (*network.Node, error)
		addr   string
	}{"memory": {hub.Listen, hub.Dial, ""}, "tcp": {network.Listen, network.Dial, "127.0.0.1:0"}} {
		t.Run(name, func(t *testing.T) {
			clientKey, _ := auth.GenerateKey(rand.Reader)
			fs := &fronts{reps: &replicas{t: t}}
			fs.reps.emit = func(from smr.NodeID, client smr.ClientID, class wire.Class, payload []byte) {
				fs.nodes[from-1].Application().Send(auth.ClientIdentity(client), class, wire.KindOnly, payload)
			}
			const replicas = 4
			members := make([]quorum.Member, replicas)
			fs.mu.Lock()
			for i := range members {
				key, _ := auth.GenerateKey(rand.Reader)
				node, err := n.listen(network.Config{
					Cluster: smr.ClusterID{1}, Self: auth.NodeIdentity(smr.NodeID(i + 1)), Key: key, ListenAddr: n.addr,
					Clients: func(k smr.PublicKey) (smr.ClientID, bool) { return self, k == clientKey.Public() },
				}, front{fs, i})
				if err != nil {
					t.Fatal(err)
				}
				defer node.Close()
				fs.nodes = append(fs.nodes, node)
				members[i] = quorum.Member{ID: smr.NodeID(i + 1), Role: quorum.Voter, Key: key.Public(), Addr: node.Addr()}
				book := &ledger{ran: map[string]int{}}
				core, err := execution.New(execution.Config{Clients: []execution.Client{{ID: self, Key: clientKey.Public()}}}, book)
				if err != nil {
					t.Fatal(err)
				}
				core.SetReadGate(0, true)
				fs.reps.cores, fs.reps.books = append(fs.reps.cores, core), append(fs.reps.books, book)
			}
			m, err := quorum.New(smr.ClusterID{1}, 1, quorum.Byzantine, 1, members, 0)
			if err != nil {
				t.Fatal(err)
			}
			fs.reps.m = m
			fs.mu.Unlock()

			c, err := Open(t.Context(), Config{
				Membership: m, Client: self, Key: clientKey,
				Dial: Over(func(c network.ClientConfig, h network.Handler) (network.Transport, error) { return n.dial(c, h) }),
			}, smr.BytesCodec{}, smr.BytesCodec{})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got, err := c.Do(t.Context(), []byte("a")); err != nil || string(got) != "did a" {
				t.Fatalf("%q %v", got, err)
			}
			if got, err := c.Query(t.Context(), []byte("a"), Stale(5)); err != nil || string(got) != "saw a" {
				t.Fatalf("%q %v", got, err)
			}
			if got, seq, err := c.Submit([]byte("b")).Result(t.Context()); err != nil || string(got) != "did b" || seq == 0 {
				t.Fatalf("%q %d %v", got, seq, err)
			}
			if st := c.Status(); st.Resends != 0 {
				t.Errorf("resends on a perfect network: %+v", st)
			}
		})
	}
}

func TestAddressesReplaceThoseOfTheMembership(t *testing.T) {
	key, _ := auth.GenerateKey(rand.Reader)
	m, err := quorum.New(smr.ClusterID{1}, 1, quorum.Byzantine, 0, []quorum.Member{{ID: 1, Role: quorum.Voter, Key: key.Public(), Addr: "a:1"}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	var got network.ClientConfig
	dial := Over(func(c network.ClientConfig, _ network.Handler) (network.Transport, error) {
		got = c
		return nil, io.EOF
	})
	for want, addresses := range map[string]map[smr.NodeID]string{"a:1": {2: "b:1"}, "b:1": {1: "b:1"}} {
		if _, err := dial(Config{Membership: m, Client: 1, Key: key, Addresses: addresses}, nil); err != io.EOF || got.Replicas[0].Addr != want {
			t.Errorf("%v: %+v %v", addresses, got.Replicas, err)
		}
	}
}

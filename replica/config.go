package replica

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/storage"
)

// NodeConfig is one replica's configuration file, read and checked, with the genesis and the key it
// points to. What the whole cluster must agree on is in the genesis; here is what is this node's own
// business.
//
//	node       = 1               # which member of the genesis this is (required)
//	genesis    = "genesis.json"  # paths resolve against this file
//	key        = "key.pem"
//	data       = "data"
//	listen     = "0.0.0.0:7400"  # default: the node's address in the genesis
//	admin      = "127.0.0.1:7401"
//	durability = "strict"        # strict, relaxed or memory
//
//	[limits]                     # of this replica's memory
//	pool_mib = 64                # requests waiting to be ordered
//	log_mib = 256                # decided requests kept on disk for replicas that come back
//	client_mib = 16              # of which one client's
//	client_ops = 8192            # one client's ops waiting
//
//	[ordering]
//	timeout = "1s"               # without progress, before this replica complains about the primary
//	max_timeout = "30s"
//	pipeline = 8                 # undecided proposals in flight
//
//	[addresses]                  # where this node reaches others, if not at their address in the genesis:
//	2 = "gateway:9402"           # through address translation, a tunnel, a proxy
type NodeConfig struct {
	Path       string
	Node       smr.NodeID
	Genesis    *Genesis
	Key        *auth.KeyPair
	DataDir    string
	ListenAddr string
	AdminAddr  string
	Addresses  map[smr.NodeID]string // where to dial members, where it differs from the genesis
	Durability string                // "strict", "relaxed" or "memory"

	PoolBytes   int
	LogBytes    int
	ClientBytes int
	ClientOps   int

	BaseTimeout time.Duration
	MaxTimeout  time.Duration
	Pipeline    int
}

// durabilities are the words for storage's modes.
var durabilities = []string{"strict", "relaxed", "memory"}

// The defaults of a node's own settings.
const (
	DefaultPoolBytes   = 64 << 20
	DefaultClientBytes = 16 << 20
	DefaultClientOps   = 8192
	DefaultBaseTimeout = time.Second
	DefaultMaxTimeout  = 30 * time.Second
	DefaultPipeline    = 8
)

// LoadNodeConfig reads a replica's configuration file and the files it names. All mistakes are
// reported together, each with its line and a remedy. Errors wrap ErrConfig, ErrGenesis or ErrKey,
// or are those of opening a file.
func LoadNodeConfig(path string) (*NodeConfig, error) {
	s, err := openSettings(path)
	if err != nil {
		return nil, err
	}
	c := &NodeConfig{Path: path}
	c.Node = smr.NodeID(s.number("node", 0, 1, 1<<32-1))
	if !s.has("node") {
		remedy := "write node = 1, the id of this member in the genesis"
		if s.has("client") {
			remedy = "this is a client's configuration; give a replica's, such as node-1/config.toml"
		}
		s.fail("node", remedy, "is missing")
	}
	genesis, key := s.file("genesis", "genesis.json"), s.file("key", "key.pem")
	c.DataDir = s.file("data", "data")
	c.ListenAddr = s.address("listen", "127.0.0.1:7400")
	c.AdminAddr = s.address("admin", "127.0.0.1:7401")
	if host, _, err := net.SplitHostPort(c.AdminAddr); err == nil && !loopback(host) {
		s.fail("admin", "write admin = \"127.0.0.1:7401\"", "is %q; the admin API has no authentication yet and listens on loopback only", c.AdminAddr)
	}
	c.Durability = s.choice("durability", "strict", durabilities...)
	c.LogBytes = int(s.number("limits.log_mib", DefaultLogBytes>>20, 1, 1<<20)) << 20
	c.PoolBytes = int(s.number("limits.pool_mib", DefaultPoolBytes>>20, 2, 1<<14)) << 20
	c.ClientBytes = int(s.number("limits.client_mib", DefaultClientBytes>>20, 2, 1<<14)) << 20
	if c.ClientBytes > c.PoolBytes {
		s.fail("limits.client_mib", "lower it or raise limits.pool_mib", "exceeds limits.pool_mib")
	}
	c.ClientOps = int(s.number("limits.client_ops", DefaultClientOps, 1, 1<<20))
	c.BaseTimeout = s.duration("ordering.timeout", DefaultBaseTimeout, 10*time.Millisecond, 10*time.Minute)
	c.MaxTimeout = s.duration("ordering.max_timeout", max(DefaultMaxTimeout, c.BaseTimeout), 10*time.Millisecond, time.Hour)
	if c.MaxTimeout < c.BaseTimeout {
		s.fail("ordering.max_timeout", "raise it", "is below ordering.timeout")
	}
	c.Pipeline = int(s.number("ordering.pipeline", DefaultPipeline, 1, 1024))

	c.Genesis, c.Key = s.identity(genesis, key)
	c.Addresses = s.addresses(c.Genesis, c.Node)
	if c.Genesis != nil && c.Node != 0 {
		m, ok := c.Genesis.Member(c.Node)
		switch {
		case !ok:
			s.fail("node", fmt.Sprintf("%s names nodes %s", genesis, c.Genesis.memberIDs()), "is %d, which is no member of the genesis", c.Node)
		case c.Key != nil && c.Key.Public() != m.Key:
			s.fail("key", fmt.Sprintf("use the key.pem that was made for node %d with this genesis", c.Node), "is not node %d's key in the genesis", c.Node)
		}
		c.ListenAddr = orElse(c.ListenAddr, m.Addr)
		c.AdminAddr = orElse(c.AdminAddr, m.Admin)
	}
	if err := s.finish(); err != nil {
		return nil, err
	}
	return c, nil
}

// ClientConfig is a client's configuration file, read and checked.
//
//	client  = 1               # which client of the genesis this is (required)
//	genesis = "genesis.json"  # paths resolve against this file
//	key     = "key.pem"
//	timeout = "30s"           # for one command
//	session = "session"       # optional: keep the session in this file, to stay exactly-once across restarts
//
//	[addresses]             # as in a NodeConfig
//	2 = "gateway:9402"
type ClientConfig struct {
	Path        string
	Client      smr.ClientID
	Genesis     *Genesis
	Key         *auth.KeyPair
	Timeout     time.Duration
	SessionFile string // empty: a fresh session each time
	Addresses   map[smr.NodeID]string
}

// DefaultClientTimeout bounds a command that the configuration gives no timeout.
const DefaultClientTimeout = 30 * time.Second

// LoadClientConfig reads a client's configuration file and the files it names, like LoadNodeConfig.
func LoadClientConfig(path string) (*ClientConfig, error) {
	s, err := openSettings(path)
	if err != nil {
		return nil, err
	}
	c := &ClientConfig{Path: path}
	c.Client = smr.ClientID(s.number("client", 0, 1, 1<<62))
	if !s.has("client") {
		remedy := "write client = 1, the id of this client in the genesis"
		if s.has("node") {
			remedy = "this is a node's configuration; give a client's, such as client-1/config.toml"
		}
		s.fail("client", remedy, "is missing")
	}
	genesis, key := s.file("genesis", "genesis.json"), s.file("key", "key.pem")
	c.Timeout = s.duration("timeout", DefaultClientTimeout, 10*time.Millisecond, 24*time.Hour)
	if s.has("session") {
		c.SessionFile = s.file("session", "session")
	}
	s.read["session"] = true
	c.Genesis, c.Key = s.identity(genesis, key)
	c.Addresses = s.addresses(c.Genesis, 0)
	if c.Genesis != nil && c.Client != 0 {
		k, ok := c.Genesis.Client(c.Client)
		switch {
		case !ok:
			s.fail("client", fmt.Sprintf("%s admits %d clients, from 1", genesis, len(c.Genesis.Clients)), "is %d, which the genesis does not admit", c.Client)
		case c.Key != nil && c.Key.Public() != k.Key:
			s.fail("key", fmt.Sprintf("use the key.pem that was made for client %d with this genesis", c.Client), "is not client %d's key in the genesis", c.Client)
		}
	}
	if err := s.finish(); err != nil {
		return nil, err
	}
	return c, nil
}

// identity reads the genesis and the key; what fails is collected and comes back nil.
func (s *settings) identity(genesisPath, keyPath string) (*Genesis, *auth.KeyPair) {
	g, err := LoadGenesis(genesisPath)
	if err != nil {
		s.bad = append(s.bad, err)
	}
	k, err := ReadKey(keyPath)
	if err != nil {
		s.bad = append(s.bad, err)
	}
	return g, k
}

// address returns a host:port, empty if the file sets none. Port 0 is allowed: any free port.
func (s *settings) address(key, example string) string {
	v := s.text(key, "", example)
	if v == "" {
		return ""
	}
	if err := checkListenAddr(v); err != nil {
		s.fail(key, fmt.Sprintf("write %s = %q", key, example), "%v", err)
	}
	return v
}

// addresses reads the table of that name: node id = "host:port". self may not be in it; 0 is nobody.
// Without a genesis (its mistakes are collected already) ids are not looked up.
func (s *settings) addresses(g *Genesis, self smr.NodeID) map[smr.NodeID]string {
	const table = "addresses."
	out := map[smr.NodeID]string{}
	for key := range s.values { // order-free: finish sorts the mistakes by line
		name, ok := strings.CutPrefix(key, table)
		if !ok {
			continue
		}
		addr, isText := value[string](s, key, fmt.Sprintf("%s = %q", name, "gateway:9402"))
		id, err := strconv.ParseUint(name, 10, 32)
		node := smr.NodeID(id)
		if err != nil || node == 0 {
			s.fail(key, `write node ids before the addresses: 2 = "gateway:9402"`, "names no node")
			continue
		}
		if g != nil {
			if _, ok := g.Member(node); !ok {
				s.fail(key, "the genesis names nodes "+g.memberIDs(), "is for no member of the genesis")
			}
		}
		if node == self {
			s.fail(key, "use listen to choose where this node listens", "is for this node itself")
		}
		if err := checkAddr(addr); isText && err != nil {
			s.fail(key, fmt.Sprintf("write %s = %q", name, "gateway:9402"), "%v", err)
		}
		out[node] = addr
	}
	return out
}

func orElse(v, def string) string {
	if v != "" {
		return v
	}
	return def
}

// IsConfigMistake reports whether err is a mistake in a file the operator wrote, rather than a failure
// while running.
func IsConfigMistake(err error) bool {
	return errors.Is(err, ErrConfig) || errors.Is(err, ErrGenesis) || errors.Is(err, ErrKey)
}

// Replica returns the configuration of the replica that c describes.
func (c *NodeConfig) Replica(ordering protocol.Factory, log *slog.Logger) Config {
	return Config{
		Genesis: c.Genesis, Node: c.Node, Key: c.Key, DataDir: c.DataDir, ListenAddr: c.ListenAddr, AdminAddr: c.AdminAddr, Addresses: c.Addresses,
		Durability: modes[c.Durability], Ordering: ordering,
		PoolBytes: c.PoolBytes, ClientBytes: c.ClientBytes, ClientOps: c.ClientOps, LogBytes: c.LogBytes,
		BaseTimeout: c.BaseTimeout, MaxTimeout: c.MaxTimeout, Pipeline: c.Pipeline, Logger: log,
	}
}

// modes is what the words for durability mean.
var modes = map[string]storage.Mode{"strict": storage.Strict, "relaxed": storage.Relaxed, "memory": storage.MemoryOnly}

// Config returns the configuration of the client that c describes.
func (c *ClientConfig) Config(log *slog.Logger) client.Config {
	m, err := c.Genesis.Membership()
	if err != nil {
		panic(err) // reading the genesis made it once already
	}
	return client.Config{Membership: m, Client: c.Client, Key: c.Key, SessionFile: c.SessionFile, Addresses: c.Addresses, Logger: log}
}

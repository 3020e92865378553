package replica

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
)

// GenerateOptions says what cluster Generate makes. Zero values stand for the defaults in brackets.
type GenerateOptions struct {
	Dir      string   // must not exist ["smr-cluster"]
	Nodes    int      // replicas [4]
	F        int      // faults tolerated; below 0: as many as Nodes can
	Protocol string   // ["pbft"]
	Clients  int      // [1]
	Hosts    []string // one for all replicas, or one each [127.0.0.1]
	BasePort int      // replica I from 1 takes BasePort+2(I-1) and the next [7400]
	// Ports, if set, gives each replica its two ports instead: peers and clients, admin.
	Ports      [][2]int
	Durability string // ["strict"]
	Limits     Limits
	Random     io.Reader // [crypto/rand]
}

// ErrExists is wrapped when the directory of a new cluster is already there.
var ErrExists = errors.New("already exists")

// Generate makes a cluster in a new directory: genesis.json, and for every replica, client and the
// admin a folder with its key.pem and a copy of the genesis; replicas and clients have a config.toml.
// initData is called with each replica's data directory and identity once its files are written, to
// leave there what a first start needs; it may be nil. On error nothing stays behind.
func Generate(o GenerateOptions, initData func(dir string, cluster smr.ClusterID, node smr.NodeID) error) (g *Genesis, err error) {
	o.fill()
	if o.Nodes < 1 || o.Clients < 1 {
		return nil, fmt.Errorf("a cluster takes at least one replica and one client, not %d and %d", o.Nodes, o.Clients)
	}
	model, ok := ProtocolModel(o.Protocol)
	if !ok {
		return nil, fmt.Errorf("protocol %q is unknown", o.Protocol)
	}
	if o.F < 0 {
		o.F = model.MaxFaults(o.Nodes)
	}
	if need := model.MinMembers(o.F); o.Nodes < need {
		return nil, fmt.Errorf("%d replicas cannot tolerate f=%d %s faults: use -n %d, or -f %d", o.Nodes, o.F, model, need, model.MaxFaults(o.Nodes))
	}
	if len(o.Hosts) != 1 && len(o.Hosts) != o.Nodes {
		return nil, fmt.Errorf("%d hosts for %d replicas: name one for all of them, or one each", len(o.Hosts), o.Nodes)
	}
	if !slices.Contains(durabilities, o.Durability) {
		return nil, fmt.Errorf("durability %q: use one of %s", o.Durability, strings.Join(durabilities, ", "))
	}
	if len(o.Ports) == 0 {
		if last := o.BasePort + 2*o.Nodes - 1; o.BasePort < 1 || last > 65535 {
			return nil, fmt.Errorf("ports %d to %d: choose --base-port so that they lie in 1 to 65535", o.BasePort, last)
		}
		for i := range o.Nodes {
			o.Ports = append(o.Ports, [2]int{o.BasePort + 2*i, o.BasePort + 2*i + 1})
		}
	}
	g = &Genesis{Protocol: o.Protocol, F: o.F, Threshold: 1, Limits: o.Limits.withDefaults()}
	if _, err := io.ReadFull(o.Random, g.Nonce[:]); err != nil {
		return nil, err
	}
	keys := make([]*auth.KeyPair, o.Nodes+o.Clients+1)
	for i := range keys {
		if keys[i], err = auth.GenerateKey(o.Random); err != nil {
			return nil, err
		}
	}
	for i := range o.Nodes {
		g.Members = append(g.Members, Member{
			ID: smr.NodeID(i + 1), Key: keys[i].Public(),
			Addr:  net.JoinHostPort(o.Hosts[i%len(o.Hosts)], strconv.Itoa(o.Ports[i][0])),
			Admin: net.JoinHostPort("127.0.0.1", strconv.Itoa(o.Ports[i][1])),
		})
	}
	for i := range o.Clients {
		g.Clients = append(g.Clients, ClientKey{ID: smr.ClientID(i + 1), Key: keys[o.Nodes+i].Public()})
	}
	g.Admins = []smr.PublicKey{keys[o.Nodes+o.Clients].Public()}
	if err := g.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrGenesis, err)
	}
	return g, g.writeTree(o, keys, initData)
}

func (o *GenerateOptions) fill() {
	o.Dir = orElse(o.Dir, "smr-cluster")
	o.Protocol = orElse(o.Protocol, "pbft")
	if len(o.Hosts) == 0 {
		o.Hosts = []string{"127.0.0.1"}
	}
	o.Durability = orElse(o.Durability, "strict")
	if o.Nodes == 0 {
		o.Nodes = 4
	}
	if o.Clients == 0 {
		o.Clients = 1
	}
	if o.BasePort == 0 {
		o.BasePort = 7400
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
}

func (g *Genesis) writeTree(o GenerateOptions, keys []*auth.KeyPair, initData func(string, smr.ClusterID, smr.NodeID) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(o.Dir)), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(o.Dir, 0o755); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s %w: choose another directory with -o, or remove it if that cluster is no longer needed", o.Dir, ErrExists)
	} else if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(o.Dir) // made above: nobody else's files are in it
		}
	}()
	genesis := g.Marshal()
	if err := writeNew(filepath.Join(o.Dir, "genesis.json"), genesis, 0o644); err != nil {
		return err
	}
	folder := func(name string, key *auth.KeyPair, config string) error {
		dir := filepath.Join(o.Dir, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		if err := WriteKey(filepath.Join(dir, "key.pem"), key); err != nil {
			return err
		}
		if err := writeNew(filepath.Join(dir, "genesis.json"), genesis, 0o644); err != nil {
			return err
		}
		if config == "" {
			return nil
		}
		return writeNew(filepath.Join(dir, "config.toml"), []byte(config), 0o644)
	}
	cluster := g.Digest()
	for i, m := range g.Members {
		name := fmt.Sprintf("node-%d", m.ID)
		config := fmt.Sprintf(nodeTemplate, m.ID, cluster, m.ID, o.Durability)
		if err := folder(name, keys[i], config); err != nil {
			return err
		}
		if initData != nil {
			if err := initData(filepath.Join(o.Dir, name, "data"), cluster, m.ID); err != nil {
				return err
			}
		}
	}
	for i, c := range g.Clients {
		config := fmt.Sprintf(clientTemplate, c.ID, cluster, c.ID)
		if err := folder(fmt.Sprintf("client-%d", c.ID), keys[o.Nodes+i], config); err != nil {
			return err
		}
	}
	return folder("admin-1", keys[o.Nodes+o.Clients], "")
}

const nodeTemplate = `# Replica %d of cluster %s. Paths resolve against this file.
node = %d
genesis = "genesis.json"
key = "key.pem"
data = "data"
durability = "%s" # strict: on disk before any vote leaves; relaxed; memory

# listen = "0.0.0.0:7400"  # default: this node's address in the genesis
# admin = "127.0.0.1:7401" # default: this node's admin address in the genesis

# [limits]
# pool_mib = 64      # requests waiting to be ordered
# log_mib = 256      # decided requests kept on disk for replicas that come back
# client_mib = 16    # of which one client's
# client_ops = 8192  # one client's ops waiting

# [ordering]
# timeout = "1s"      # without progress, before this replica complains about the primary
# max_timeout = "30s"
# pipeline = 8        # undecided proposals in flight

# [addresses]          # where this node reaches others, if not at their address in the genesis
# 2 = "gateway:9402"
`

const clientTemplate = `# Client %d of cluster %s. Paths resolve against this file.
client = %d
genesis = "genesis.json"
key = "key.pem"

# timeout = "30s"      # for one command
# session = "session"  # keep the session in a file: exactly-once across a restart of the client

# [addresses]          # where this client reaches replicas, if not at their address in the genesis
# 2 = "gateway:9402"
`

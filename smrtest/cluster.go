package smrtest

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/replica"
	"github.com/atlas-smr/smr/storage"
)

// clusterClients is the number of client keys a test cluster admits.
const clusterClients = 4

// startTimeout bounds how long a replica may take to come up.
const startTimeout = 20 * time.Second

// Running is a cluster of real replicas inside the test process: TLS over loopback, strict
// durability in a temporary directory. Its methods fail the test; they belong to its goroutine.
type Running struct {
	t        testing.TB
	genesis  *replica.Genesis
	configs  []replica.Config
	service  func(i int) smr.Service
	replicas []*runningReplica
	dir      string
}

type runningReplica struct {
	cancel context.CancelFunc
	ended  chan error
}

// Cluster starts n replicas of the service under an ordering and stops them when the test ends.
// service is called once for each start of a replica.
func Cluster(t testing.TB, n int, service func() smr.Service, ordering protocol.Factory) *Running {
	t.Helper()
	return ClusterWith(t, n, service, ordering, ClusterOptions{})
}

// ClusterOptions change what a test cluster runs with; zero fields take the defaults of a replica.
type ClusterOptions struct {
	Limits   replica.Limits // of the genesis
	LogBytes int            // decided batches that replicas keep for those that come back
}

// ClusterWith is Cluster with options.
func ClusterWith(t testing.TB, n int, service func() smr.Service, ordering protocol.Factory, o ClusterOptions) *Running {
	t.Helper()
	return cluster(t, n, o, func(int) smr.Service { return service() }, ordering)
}

// cluster is Cluster with options and a service that may differ by replica.
func cluster(t testing.TB, n int, o ClusterOptions, service func(i int) smr.Service, ordering protocol.Factory) *Running {
	t.Helper()
	c := &Running{t: t, service: service, dir: filepath.Join(t.TempDir(), "cluster"), replicas: make([]*runningReplica, n)}
	opts := replica.GenerateOptions{Dir: c.dir, Nodes: n, F: -1, Protocol: ordering.Name, Clients: clusterClients, Ports: freePorts(t, n), Limits: o.Limits}
	var err error
	c.genesis, err = replica.Generate(opts, func(dir string, cluster smr.ClusterID, node smr.NodeID) error {
		return storage.Init(dir, storage.Identity{Cluster: cluster, Node: node})
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		file, err := replica.LoadNodeConfig(filepath.Join(c.dir, fmt.Sprintf("node-%d", i+1), "config.toml"))
		if err != nil {
			t.Fatal(err)
		}
		cfg := file.Replica(ordering, nil)
		if o.LogBytes > 0 {
			cfg.LogBytes = o.LogBytes
		}
		c.configs = append(c.configs, cfg)
	}
	t.Cleanup(func() {
		for i := range c.replicas {
			c.Stop(i + 1)
		}
	})
	for i := range n {
		c.Start(i + 1)
	}
	return c
}

func freePorts(t testing.TB, n int) [][2]int {
	t.Helper()
	ports := make([][2]int, n)
	for i := range ports {
		for j := range ports[i] {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			ports[i][j] = l.Addr().(*net.TCPAddr).Port
		}
	}
	return ports
}

// Start starts replica i, counted from 1, which does not run.
func (c *Running) Start(i int) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &runningReplica{cancel: cancel, ended: make(chan error, 1)}
	cfg := c.configs[i-1]
	ready := make(chan struct{})
	cfg.Ready = func() { close(ready) }
	go func() { r.ended <- replica.Run(ctx, cfg, c.service(i)) }()
	select {
	case <-ready:
	case err := <-r.ended:
		c.t.Fatalf("replica %d: %v", i, err)
	case <-time.After(startTimeout):
		c.t.Fatalf("replica %d did not come up within %v", i, startTimeout)
	}
	c.replicas[i-1] = r
}

// Stop stops replica i, if it runs, and waits for it.
func (c *Running) Stop(i int) {
	c.t.Helper()
	r := c.replicas[i-1]
	if r == nil {
		return
	}
	c.replicas[i-1] = nil
	r.cancel()
	if err := <-r.ended; err != nil {
		c.t.Errorf("replica %d ended with: %v", i, err)
	}
}

// AdminAddr returns where replica i serves its admin API.
func (c *Running) AdminAddr(i int) string { return c.configs[i-1].AdminAddr }

// Client connects as client j, from 1 to 4. It is closed when the test ends.
func (c *Running) Client(j int) *client.Conn {
	c.t.Helper()
	file, err := replica.LoadClientConfig(filepath.Join(c.dir, fmt.Sprintf("client-%d", j), "config.toml"))
	if err != nil {
		c.t.Fatal(err)
	}
	m, err := c.genesis.Membership()
	if err != nil {
		c.t.Fatal(err)
	}
	conn, err := client.Dial(client.Config{Membership: m, Client: file.Client, Key: file.Key})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

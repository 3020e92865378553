// Package localcluster runs a cluster on this machine: each replica a process of the smr binary, on
// loopback ports that were free, in a directory as `smr init` makes it. Demo, bench and the tests of
// real processes stand on it.
package localcluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/adminpb"
	"github.com/atlas-smr/smr/internal/pb/adminpb/adminpbconnect"
	"github.com/atlas-smr/smr/replica"
	"github.com/atlas-smr/smr/storage"
)

// Cluster is a cluster on this machine. It belongs to one goroutine, but for the methods that only
// read what New made: Client, Admin, Status, the paths.
type Cluster struct {
	Dir     string
	Genesis *replica.Genesis
	Profile string // replica 1 writes a CPU profile here, if set before its start

	exe   string
	procs []*process
}

// New makes the files of a cluster as o says in a directory below dir, each replica on two free ports.
// Its replicas will be processes of exe.
func New(dir, exe string, o replica.GenerateOptions) (*Cluster, error) {
	ports, err := FreePorts(2 * o.Nodes)
	if err != nil {
		return nil, err
	}
	o.Dir, o.Ports = filepath.Join(dir, "cluster"), nil
	for i := range o.Nodes {
		o.Ports = append(o.Ports, [2]int{ports[2*i], ports[2*i+1]})
	}
	g, err := replica.Generate(o, InitStorage)
	if err != nil {
		return nil, err
	}
	return &Cluster{Dir: o.Dir, Genesis: g, exe: exe, procs: make([]*process, o.Nodes)}, nil
}

// InitStorage leaves the once-only mark that lets a replica start with an empty data directory.
func InitStorage(dir string, cluster smr.ClusterID, node smr.NodeID) error {
	return storage.Init(dir, storage.Identity{Cluster: cluster, Node: node})
}

// FreePorts returns loopback ports that nobody uses now.
func FreePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all are held until all are known, so that they differ
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

// Client returns the configuration of client j, from 1.
func (c *Cluster) Client(j int) (*replica.ClientConfig, error) {
	return replica.LoadClientConfig(filepath.Join(c.Dir, "client-"+strconv.Itoa(j), "config.toml"))
}

// NodeDir returns the folder of replica i.
func (c *Cluster) NodeDir(i smr.NodeID) string {
	return filepath.Join(c.Dir, fmt.Sprintf("node-%d", i))
}

// ConfigPath returns the configuration file of replica i.
func (c *Cluster) ConfigPath(i smr.NodeID) string { return filepath.Join(c.NodeDir(i), "config.toml") }

// LogPath returns the log file of replica i.
func (c *Cluster) LogPath(i smr.NodeID) string { return filepath.Join(c.NodeDir(i), "log") }

// adminHTTP calls admin APIs. It goes around any proxy: the servers are on this machine.
var adminHTTP = &http.Client{Transport: &http.Transport{
	DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext, MaxIdleConnsPerHost: 2, IdleConnTimeout: 10 * time.Second,
}}

// AdminClient returns a client of one replica's admin API.
func AdminClient(addr string) adminpbconnect.AdminClient {
	return adminpbconnect.NewAdminClient(adminHTTP, "http://"+addr)
}

// Admin returns a client of the admin API of replica i.
func (c *Cluster) Admin(i smr.NodeID) adminpbconnect.AdminClient {
	return AdminClient(c.Genesis.Members[i-1].Admin)
}

// Start starts replica i as a process; its log is appended to.
func (c *Cluster) Start(i smr.NodeID) error {
	log, err := os.OpenFile(c.LogPath(i), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	args := []string{"run", "-c", c.ConfigPath(i), "--log-format", "json"}
	if i == 1 && c.Profile != "" {
		args = append(args, "--cpuprofile", c.Profile)
	}
	cmd := exec.Command(c.exe, args...)
	cmd.Stderr, cmd.Stdout = log, log
	c.procs[i-1], err = startProcess(cmd)
	return err
}

// Status asks replica i.
func (c *Cluster) Status(ctx context.Context, i smr.NodeID) (*adminpb.StatusReply, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := c.Admin(i).Status(ctx, connect.NewRequest(&adminpb.StatusRequest{}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// Await waits until replica i says what ok wants to hear. A process that ended is an error.
func (c *Cluster) Await(ctx context.Context, i smr.NodeID, what string, ok func(*adminpb.StatusReply) bool) error {
	var last *adminpb.StatusReply
	for {
		if err := c.Ended(i); err != nil {
			return err
		}
		s, err := c.Status(ctx, i)
		if err == nil {
			if last = s; ok(s) {
				return nil
			}
			if s.Fenced != "" || s.Mode == "observer" || s.Mode == "state-transfer-needed" {
				return fmt.Errorf("replica %d is not %s and will not be: %s", i, what, describe(s))
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("replica %d is not %s: %w; %s", i, what, context.Cause(ctx), describe(last))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Normal reports whether a replica votes and executes as it should.
func Normal(s *adminpb.StatusReply) bool { return s.Mode == "normal" && s.Voting && s.Fenced == "" }

// AwaitAll waits until all replicas work.
func (c *Cluster) AwaitAll(ctx context.Context) error {
	for i := range c.procs {
		if err := c.Await(ctx, smr.NodeID(i+1), "up", Normal); err != nil {
			return err
		}
	}
	return nil
}

// CaughtUp waits until all replicas have executed the same, and returns what they say then.
func (c *Cluster) CaughtUp(ctx context.Context) ([]*adminpb.StatusReply, error) {
	stats := make([]*adminpb.StatusReply, len(c.procs))
	var target uint64
	for i := range stats {
		s, err := c.Status(ctx, smr.NodeID(i+1))
		if err != nil {
			return nil, err
		}
		target = max(target, s.Decided)
	}
	for i := range stats {
		reached := func(s *adminpb.StatusReply) bool {
			stats[i] = s
			return s.Executed >= target && s.Executed == s.Decided
		}
		if err := c.Await(ctx, smr.NodeID(i+1), fmt.Sprintf("at %d", target), reached); err != nil {
			return nil, err
		}
	}
	return stats, nil
}

// describe sums up a status for a message.
func describe(s *adminpb.StatusReply) string {
	if s == nil {
		return "it never answered"
	}
	return fmt.Sprintf("it says: %s, voting %v, changing view %v, view %d, decided %d, executed %d, certified %d %s %s",
		s.Mode, s.Voting, s.Changing, s.View, s.Decided, s.Executed, s.Certified, s.Transfer, s.Fenced)
}

// Close ends all processes: politely, then not.
func (c *Cluster) Close(log *slog.Logger) {
	for _, p := range c.procs {
		if p != nil {
			p.terminate()
		}
	}
	patience := time.After(15 * time.Second)
	for i, p := range c.procs {
		if p == nil {
			continue
		}
		select {
		case <-p.ended:
			if p.err != nil {
				log.Warn("replica did not end well", "node", i+1, "err", p.err)
			}
		case <-patience:
			log.Warn("replica does not end: killing it", "node", i+1)
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
		c.procs[i] = nil
	}
}

// Kill ends replicas with SIGKILL, all before any is awaited.
func (c *Cluster) Kill(ids ...smr.NodeID) error {
	var errs []error
	for _, i := range ids {
		if err := c.procs[i-1].cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			errs = append(errs, err)
		}
	}
	for _, i := range ids {
		<-c.procs[i-1].ended
		c.procs[i-1] = nil
	}
	return errors.Join(errs...)
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/adminpb"
	"github.com/atlas-smr/smr/internal/pb/adminpb/adminpbconnect"
	"github.com/atlas-smr/smr/replica"
)

// localCluster is a cluster on this machine: each replica a process of this binary, on loopback ports
// that were free, in a directory of its own. It belongs to one goroutine, but for the methods that
// only read what newLocalCluster made.
type localCluster struct {
	dir     string
	genesis *replica.Genesis
	exe     string
	profile string // replica 1 writes a CPU profile here
	procs   []*process
}

// process is one life of a replica.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed once it was awaited
	err   error         // how it ended; read after ended
}

// newLocalCluster makes the files of a cluster below dir.
func newLocalCluster(dir string, nodes, clients int, durability string) (*localCluster, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(2 * nodes)
	if err != nil {
		return nil, err
	}
	o := replica.GenerateOptions{Dir: filepath.Join(dir, "cluster"), Nodes: nodes, F: -1, Clients: clients, Durability: durability}
	for i := range nodes {
		o.Ports = append(o.Ports, [2]int{ports[2*i], ports[2*i+1]})
	}
	g, err := replica.Generate(o, initStorage)
	if err != nil {
		return nil, err
	}
	return &localCluster{dir: o.Dir, genesis: g, exe: exe, procs: make([]*process, nodes)}, nil
}

// freePorts returns loopback ports that nobody uses now.
func freePorts(n int) ([]int, error) {
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

// client returns the configuration of client j, from 1.
func (c *localCluster) client(j int) (*replica.ClientConfig, error) {
	return replica.LoadClientConfig(filepath.Join(c.dir, "client-"+strconv.Itoa(j), "config.toml"))
}

// admin returns a client of the admin API of replica i.
func (c *localCluster) admin(i smr.NodeID) adminpbconnect.AdminClient {
	return adminClient(c.genesis.Members[i-1].Admin)
}

func (c *localCluster) logPath(i smr.NodeID) string {
	return filepath.Join(c.dir, fmt.Sprintf("node-%d", i), "log")
}

// start starts replica i as a process; its log is appended to.
func (c *localCluster) start(i smr.NodeID) error {
	log, err := os.OpenFile(c.logPath(i), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	args := []string{"run", "-c", filepath.Join(c.dir, fmt.Sprintf("node-%d", i), "config.toml"), "--log-format", "json"}
	if i == 1 && c.profile != "" {
		args = append(args, "--cpuprofile", c.profile)
	}
	p := &process{cmd: exec.Command(c.exe, args...), ended: make(chan struct{})}
	p.cmd.Stderr, p.cmd.Stdout = log, log
	dieWithParent(p.cmd)
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() { // ends with the process, which close ends
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	c.procs[i-1] = p
	return nil
}

// kill ends replicas with SIGKILL, all before any is awaited.
func (c *localCluster) kill(ids ...smr.NodeID) error {
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

// status asks replica i.
func (c *localCluster) status(ctx context.Context, i smr.NodeID) (*adminpb.StatusReply, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	resp, err := c.admin(i).Status(ctx, connect.NewRequest(&adminpb.StatusRequest{}))
	if err != nil {
		return nil, err
	}
	return resp.Msg, nil
}

// await waits until replica i says what ok wants to hear. A process that ended is an error.
func (c *localCluster) await(ctx context.Context, i smr.NodeID, what string, ok func(*adminpb.StatusReply) bool) error {
	var last *adminpb.StatusReply
	for {
		if err := c.ended(i); err != nil {
			return err
		}
		s, err := c.status(ctx, i)
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

// describe sums up a status for a message.
func describe(s *adminpb.StatusReply) string {
	if s == nil {
		return "it never answered"
	}
	return fmt.Sprintf("it says: %s, view %d, decided %d, executed %d, certified %d; %s", s.Mode, s.View, s.Decided, s.Executed, s.Certified, note(s))
}

// ended returns an error if replica i, which should run, ended.
func (c *localCluster) ended(i smr.NodeID) error {
	p := c.procs[i-1]
	if p == nil {
		return fmt.Errorf("replica %d was not started", i)
	}
	select {
	case <-p.ended:
		return fmt.Errorf("replica %d ended by itself (%v); the end of its log:\n%s", i, p.err, tail(c.logPath(i), 2000))
	default:
		return nil
	}
}

// close ends all processes: politely, then not.
func (c *localCluster) close(log *slog.Logger) {
	for _, p := range c.procs {
		if p != nil {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
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

// tail returns the last bytes of a file, for messages.
func tail(path string, n int64) []byte {
	f, err := os.Open(path)
	if err != nil {
		return []byte(err.Error())
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > n {
		_, _ = f.Seek(-n, io.SeekEnd)
	}
	b, _ := io.ReadAll(io.LimitReader(f, n))
	return bytes.TrimSpace(b)
}

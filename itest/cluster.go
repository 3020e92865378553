package itest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/internal/history"
	"github.com/atlas-smr/smr/internal/localcluster"
	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/replica"
)

// Options say what cluster to run. Zero values stand for the defaults in brackets.
type Options struct {
	Dir     string // where to make it; required
	Exe     string // the smr binary; required
	Nodes   int    // [4]
	Clients int    // client identities [4]
	// SmallDisks are the replicas whose data lies on a small disk of its own, of DiskBytes.
	SmallDisks []smr.NodeID
	DiskBytes  int64
	// Timeouts are ordering.timeout by replica, where it is not [500ms]. max_timeout is [4s].
	Timeouts map[smr.NodeID]time.Duration
	Limits   replica.Limits
}

const (
	baseTimeout = 500 * time.Millisecond
	maxTimeout  = 4 * time.Second
)

// Cluster is a cluster of processes with proxies between all ends. It belongs to one goroutine.
type Cluster struct {
	*localcluster.Cluster
	Net      *Mesh
	disks    map[smr.NodeID]*Disk
	timeouts map[smr.NodeID]time.Duration
	stopped  map[smr.NodeID]bool // by SIGSTOP
}

// New makes a cluster; none of its replicas runs yet. Without the right to mount it has no small disks:
// the error is ErrNoDisks beside a cluster that works.
func New(o Options) (*Cluster, error) {
	if o.Nodes == 0 {
		o.Nodes = 4
	}
	if o.Clients == 0 {
		o.Clients = 4
	}
	local, err := localcluster.New(o.Dir, o.Exe, replica.GenerateOptions{Nodes: o.Nodes, F: -1, Clients: o.Clients, Limits: o.Limits})
	if err != nil {
		return nil, err
	}
	var addrs []string
	for _, m := range local.Genesis.Members {
		addrs = append(addrs, m.Addr)
	}
	c := &Cluster{Cluster: local, disks: map[smr.NodeID]*Disk{}, timeouts: o.Timeouts, stopped: map[smr.NodeID]bool{}}
	if c.Net, err = newMesh(addrs, o.Clients); err != nil {
		return nil, err
	}
	for i := range o.Nodes {
		if err := c.configure(smr.NodeID(i + 1)); err != nil {
			return nil, errors.Join(err, c.Net.close())
		}
	}
	for _, i := range o.SmallDisks {
		if c.disks[i], err = MountDisk(c.NodeDir(i)+"/data", o.DiskBytes); err != nil {
			delete(c.disks, i)
			if errors.Is(err, ErrNoDisks) {
				return c, err
			}
			return nil, errors.Join(err, c.Net.close())
		}
	}
	return c, nil
}

// configure adds to what init wrote where to dial the others, and timeouts.
func (c *Cluster) configure(i smr.NodeID) error {
	timeout, ok := c.timeouts[i]
	if !ok {
		timeout = baseTimeout
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n[ordering]\ntimeout = %q\nmax_timeout = %q\n\n[addresses]\n", timeout, maxTimeout)
	addresses := c.Net.Addresses(NodeEnd(i))
	for _, j := range slices.Sorted(maps.Keys(addresses)) {
		fmt.Fprintf(&b, "%d = %q\n", j, addresses[j])
	}
	f, err := os.OpenFile(c.ConfigPath(i), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(b.String())
	return errors.Join(err, f.Close())
}

// Nodes returns the ids of all replicas.
func (c *Cluster) Nodes() (out []smr.NodeID) {
	for i := range c.Genesis.Members {
		out = append(out, smr.NodeID(i+1))
	}
	return out
}

// StartAll starts every replica that does not run.
func (c *Cluster) StartAll() error {
	for _, i := range c.Nodes() {
		if !c.Running(i) {
			if err := c.Start(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// Connect makes client j's connection, through its proxies. It waits for no replica.
func (c *Cluster) Connect(ctx context.Context, j int) (*client.Client[kv.Request, kv.Reply], error) {
	cfg, err := c.Client(j)
	if err != nil {
		return nil, err
	}
	cfg.Addresses = c.Net.Addresses(ClientEnd(j))
	return client.Open(ctx, cfg.Config(nil), kv.RequestCodec{}, kv.ReplyCodec{})
}

// Pause stops a replica where it stands.
func (c *Cluster) Pause(i smr.NodeID) error {
	c.stopped[i] = true
	return c.Signal(i, sigStop)
}

// Resume lets a stopped replica go on.
func (c *Cluster) Resume(i smr.NodeID) error {
	delete(c.stopped, i)
	return c.Signal(i, sigCont)
}

// Heal ends every fault: perfect network, free disks, all replicas running.
func (c *Cluster) Heal() error {
	c.Net.Heal()
	var errs []error
	for _, d := range c.disks { // order-free: all alike
		errs = append(errs, d.Free())
	}
	for i := range c.stopped { // order-free: all alike
		errs = append(errs, c.Resume(i))
	}
	return errors.Join(append(errs, c.StartAll())...)
}

// Primary returns who leads, as most replicas see it: the one of the highest view that anybody names.
func (c *Cluster) Primary(ctx context.Context) (primary smr.NodeID, view smr.View, err error) {
	for _, i := range c.Nodes() {
		if !c.Running(i) || c.stopped[i] {
			continue
		}
		if s, serr := c.Status(ctx, i); serr != nil {
			err = serr
		} else if smr.View(s.View) >= view {
			primary, view = smr.NodeID(s.Primary), smr.View(s.View)
		}
	}
	if primary == 0 {
		return 0, 0, fmt.Errorf("nobody says who leads: %w", err)
	}
	return primary, view, nil
}

// Judge waits until all replicas have executed the same, and holds it and each of them against the
// history. It returns what is wrong, nothing if nothing is.
func (c *Cluster) Judge(ctx context.Context, h *history.History) ([]string, error) {
	stats, err := c.CaughtUp(ctx)
	if err != nil {
		return nil, err
	}
	var (
		views       []history.View
		roots, seqs []string
	)
	for i := range stats {
		st, end, err := history.Dump(ctx, c.Admin(smr.NodeID(i+1)))
		if err != nil {
			return nil, fmt.Errorf("dump of replica %d: %w", i+1, err)
		}
		roots, seqs = append(roots, end.Root), append(seqs, fmt.Sprint(end.Seq))
		views = append(views, history.View{
			Who: fmt.Sprintf("replica %d", i+1), Keys: st.Len(),
			Read: func(k string) ([]byte, smr.SeqNo, bool) { return history.Lookup(st, k) },
		})
	}
	events := h.All()
	v := history.Compare(events, views, isOnce)
	if len(slices.Compact(slices.Clone(roots))) > 1 || len(slices.Compact(slices.Clone(seqs))) > 1 {
		v.Find("replicas differ: roots %v after batches %v", roots, seqs)
	}
	if bad, ok, finished := history.Linearizable(events, 5*time.Minute); !finished {
		v.Find("the history of key %q could not be checked in time", bad)
	} else if !ok {
		v.Find("the history of key %q is not linearizable", bad)
	}
	return v.Examples, nil
}

// Close ends all processes, proxies and disks.
func (c *Cluster) Close(log *slog.Logger) error {
	c.Cluster.Close(log)
	errs := []error{c.Net.close()}
	for _, d := range c.disks { // order-free: all alike
		errs = append(errs, d.Close())
	}
	return errors.Join(errs...)
}

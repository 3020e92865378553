package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/atlas-smr/smr/internal/engine"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/internal/pb/adminpb"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/wire"
)

// loopStatus is what only the loop goroutine can tell.
type loopStatus struct {
	engine engine.Status
	events map[protocol.EventKind]uint64
}

// statusWait bounds how long a status waits for a busy loop.
const statusWait = 2 * time.Second

// askLoop asks the loop goroutine for its part of the status.
func (r *replica) askLoop() (loopStatus, bool) {
	answer := make(chan loopStatus, 1)
	ask := input(func(_ time.Time, e *engine.Engine, _ *engine.Output) {
		events := make(map[protocol.EventKind]uint64, len(r.events))
		for k, n := range r.events {
			events[k] = n
		}
		answer <- loopStatus{e.Status(), events}
	})
	limit := time.NewTimer(statusWait)
	defer limit.Stop()
	select {
	case r.inbox <- ask:
	case <-limit.C:
		return loopStatus{}, false
	case <-r.stopping:
		return loopStatus{}, false
	}
	select {
	case s := <-answer:
		return s, true
	case <-limit.C:
		return loopStatus{}, false
	case <-r.stopping:
		return loopStatus{}, false
	}
}

// Status implements adminSource.
func (r *replica) Status() *adminpb.StatusReply {
	ex := r.executor.Status()
	disk := r.store.Stats()
	s := &adminpb.StatusReply{
		Cluster: fmt.Sprintf("%x", r.cluster[:]), Node: uint32(r.cfg.Node), Protocol: r.cfg.Genesis.Protocol,
		Replicas: uint32(r.membership.N()), Faults: uint32(r.membership.F()), Quorum: uint32(r.membership.Quorum()),
		Version: Version(), Durability: r.cfg.Durability.String(), UptimeMs: uint64(time.Since(r.started).Milliseconds()),
		Mode: "unresponsive", Executed: uint64(ex.Executed), Drops: map[string]uint64{}, Counts: map[string]uint64{},
		Syncs: disk.Commits, SyncUs: uint64(disk.CommitTime.Microseconds()),
	}
	if r.draining.Load() {
		s.Counts["draining"] = 1
	}
	if f := r.fenced.Load(); f != nil {
		s.Fenced = *f
	}
	if l, ok := r.askLoop(); ok {
		r.describe(s, l)
	}
	q := r.requests.Stats()
	for name, n := range map[string]uint64{
		"requests-offered": q.Offered, "requests-accepted": q.Accepted, "requests-duplicate": q.Duplicates,
		"requests-executed-before": q.Executed, "requests-busy": q.Busy, "requests-rejected": q.Rejected,
		"requests-no-key": q.NoKey, "requests-bad-signature": q.BadSignature, "replies-dropped": ex.Dropped,
		"log-records": disk.Records, "log-bytes": disk.Bytes,
	} {
		s.Counts[name] += n
	}
	r.executor.Inspect(func(c *execution.Core) {
		s.Sessions = uint64(c.Sessions())
		n := c.Counts()
		s.Counts["ops-executed"], s.Counts["ops-duplicate"], s.Counts["queries"] = n.Executed, n.Duplicates, n.Queries
	})
	r.describeNetwork(s)
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) == nil {
		s.CpuUs = uint64((u.Utime.Sec+u.Stime.Sec)*1e6 + u.Utime.Usec + u.Stime.Usec)
	}
	s.RssBytes = rss()
	return s
}

func (r *replica) describe(s *adminpb.StatusReply, l loopStatus) {
	e, o := l.engine, l.engine.Ordering
	s.Mode = string(e.Mode)
	if e.Why != "" {
		s.Transfer = e.Why
	}
	s.StateTransfer = describeTransfer(e.Transfer)
	s.Voting, s.Leading, s.Changing = o.Voting, o.Leading, o.Changing
	s.Epoch, s.View, s.Primary = uint64(o.Epoch), uint64(o.View), uint32(o.Primary)
	s.ViewsEntered = l.events[protocol.EventViewEntered]
	s.TimeoutMs = uint64(o.Timeout.Milliseconds())
	s.Tip, s.Prepared, s.Decided = uint64(o.Tip), uint64(o.Prepared), uint64(e.Decided)
	s.Stable, s.Certified = uint64(e.Stable), uint64(max(o.Certified, e.Decided))
	if s.Certified > s.Executed {
		s.Lag = s.Certified - s.Executed
	}
	s.Readable, s.ReadsClosed = uint64(e.ReadGate), !e.Readable
	s.Chain = fmt.Sprintf("%x", o.Chain[:])
	s.InFlight, s.PoolBundles, s.PoolBytes = uint64(o.InFlight), uint64(e.Pool.Bundles), uint64(e.Pool.Bytes)
	if e.Diverged > 0 && s.Fenced == "" {
		s.Fenced = fmt.Sprintf("this replica's state after sequence number %d differs from what a quorum certified", e.Diverged)
	}
	for _, d := range e.Drops {
		s.Drops[d.Reason] += d.N
	}
	for k, n := range l.events {
		if k != protocol.EventDrop {
			s.Counts[string(k)] += n
		}
	}
}

func describeTransfer(p transfer.Progress) *adminpb.StateTransfer {
	t := &adminpb.StateTransfer{
		Active: p.Active, Seq: uint64(p.Seq), Parts: p.Parts, PartsTotal: p.Total, BytesMoved: p.Moved, BytesSaved: p.Saved,
		BytesResumed: p.Resumed, Installed: p.Installed, Changed: p.Changed, Adopting: p.Adopting, Failure: p.Failure,
	}
	for _, x := range p.Sources {
		t.Sources = append(t.Sources, &adminpb.Source{
			Node: uint32(x.Node), Parts: x.Parts, Bytes: x.Bytes, Wrong: x.Wrong, Late: x.Late, Unasked: x.Unasked, Refusals: x.Refusals,
		})
	}
	return t
}

func (r *replica) describeNetwork(s *adminpb.StatusReply) {
	n := r.listening.Load()
	if n == nil {
		return
	}
	st := n.Stats()
	for reason, count := range st.Drops {
		s.Drops[reason.String()] += count
	}
	s.Counts["frames-in"], s.Counts["frames-out"] = st.FramesIn, st.FramesOut
	s.Counts["bytes-in"], s.Counts["bytes-out"] = st.BytesIn, st.BytesOut
	s.Counts["client-connections"] = uint64(st.Clients)
	for _, l := range st.Links {
		if l.Lane != wire.LaneProtocol {
			continue
		}
		c := &adminpb.Connection{Kind: "node", Id: uint64(l.Peer), Up: l.Connected, QueuedBytes: uint64(l.Queued)}
		if m, ok := r.cfg.Genesis.Member(l.Peer); ok {
			c.Addr = m.Addr
		}
		s.Connections = append(s.Connections, c)
	}
}

// Snapshot implements adminSource.
func (r *replica) Snapshot(_ context.Context, w io.Writer) (*adminpb.DumpEnd, error) {
	var snap *execution.Snapshot
	var err error
	if !r.executor.Inspect(func(c *execution.Core) { snap, err = c.Freeze() }) {
		return nil, errors.New("the replica is stopping")
	}
	if err != nil {
		return nil, err
	}
	defer snap.Release()
	out, err := snap.Write(execution.ToWriter(w))
	if err != nil {
		return nil, err
	}
	m := out.Meta
	return &adminpb.DumpEnd{Seq: uint64(m.Seq), Root: out.Root.Hex(), Chain: m.Chain.Hex(), TableBytes: m.Table, Bytes: m.Bytes}, nil
}

// Drain implements adminSource: requests are no longer taken, and once nothing is executed any more
// the replica stops as if its context had ended.
func (r *replica) Drain() {
	if r.draining.Swap(true) {
		return
	}
	r.wait.Add(1)
	go func() {
		defer r.wait.Done()
		quiet := uint64(0)
		for last := r.executed.Load(); quiet < 3; quiet++ {
			select {
			case <-r.stopping:
				return
			case <-time.After(drainPause):
			}
			if now := r.executed.Load(); now != last {
				last, quiet = now, 0
			}
		}
		r.fail(errDrained)
	}()
}

// drainPause is how long nothing must be executed, three times over, before a drained replica ends.
const drainPause = 100 * time.Millisecond

// errDrained ends the loop of a drained replica; Run returns nil for it.
var errDrained = errors.New("drained")

// rss returns the resident memory of the process in bytes; zero where /proc does not tell.
func rss() uint64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}

// Version names the build: the module version, or the commit it was built from.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return s.Value[:12]
		}
	}
	if info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

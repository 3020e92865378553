package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/localcluster"
	"github.com/atlas-smr/smr/internal/pb/adminpb"
)

// demoFlags is what the demo was asked for.
type demoFlags struct {
	replicas, clients, rate, rows int
	json, keep                    bool
	limit                         time.Duration
}

// demoResult is the demo's last word.
type demoResult struct {
	Protocol     string  `json:"protocol"`
	Replicas     int     `json:"replicas"`
	F            int     `json:"f"`
	Requests     int64   `json:"requests"`
	Acknowledged int64   `json:"acknowledged"`
	Lost         int     `json:"lost"`
	Duplicated   int     `json:"duplicated"`
	Kills        int     `json:"kills"`
	ViewChanges  uint64  `json:"view_changes"`
	MaxGapMs     int64   `json:"max_gap_ms"`
	RootsEqual   bool    `json:"roots_equal"`
	Linearizable bool    `json:"linearizable"`
	Seconds      float64 `json:"seconds"`
}

func (r *demoResult) ok() bool {
	return r.Lost == 0 && r.Duplicated == 0 && r.RootsEqual && r.Linearizable
}

func (a *app) newDemoCommand() *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch four replicas serve, die and come back, on this machine",
		Long: `demo starts replicas as processes of this binary on free loopback ports, with mutual TLS, signed
requests and a disk each that is synced before any vote, and puts a real table into them (34,924
characters of Unicode) through several clients at once. On the way it kills the primary with SIGKILL and
brings it back, then a backup, and then all replicas at the same moment. At the end it reads everything
back, through quorum reads and from each replica's own state, and checks the recorded history.

It exits with 0 only if nothing acknowledged was lost, nothing was done twice, all replicas hold the same
state (equal Merkle roots), and the history of all clients is linearizable.`,
		Example: "  smr demo\n  smr demo --replicas 7 --rate 0\n  smr demo --json 2>/dev/null | tail -1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.replicas < 4 || f.replicas > 31 {
				return usagef("--replicas %d: 4 to 31; fewer than 4 tolerate no fault", f.replicas)
			}
			if f.clients < 1 || f.clients > 64 || f.rate < 0 || f.rows < 0 {
				return usagef("--clients takes 1 to 64, --rate and --rows no negative number")
			}
			return a.runDemo(cmd.Context(), f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&f.replicas, "replicas", 4, "number of replicas")
	fl.IntVar(&f.clients, "clients", 4, "number of clients at once")
	fl.IntVar(&f.rate, "rate", 4000, "calls a second of all clients together (0: as fast as they are answered)")
	fl.IntVar(&f.rows, "rows", 0, "import only so many rows (0: all)")
	fl.DurationVar(&f.limit, "timeout", 3*time.Minute, "give up after this long")
	fl.BoolVar(&f.keep, "keep", false, "keep the cluster's directory")
	fl.BoolVar(&f.json, "json", false, "print the result as one JSON object")
	return cmd
}

// demo is one run. It belongs to one goroutine; the load has its own.
type demo struct {
	f        demoFlags
	cluster  *localcluster.Cluster
	load     *load
	progress *progress
	log      *slog.Logger
	began    time.Time
	view     uint64 // highest seen
	first    bool   // the first view was told
	kills    int
	extra    int // ops that a replica executed beyond those made

	restarted map[smr.NodeID]bool
}

func (a *app) runDemo(ctx context.Context, f demoFlags, stdout, stderr io.Writer) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, f.limit, fmt.Errorf("the demo did not end within %v", f.limit))
	defer cancel()
	rows, err := loadDataset()
	if err != nil {
		return err
	}
	if f.rows > 0 {
		rows = rows[:min(f.rows, len(rows))]
	}
	dir, err := os.MkdirTemp("", "smr-demo-")
	if err != nil {
		return err
	}
	d := &demo{f: f, progress: newProgress(stderr, "rows", len(rows)), log: a.logger(stderr), began: time.Now(), restarted: map[smr.NodeID]bool{}}
	defer func() {
		if d.cluster != nil {
			d.cluster.Close(d.log)
		}
		if f.keep || err != nil {
			fmt.Fprintf(stderr, "the cluster's files and logs are in %s\n", dir)
		} else if rerr := os.RemoveAll(dir); rerr != nil {
			d.log.Warn("cannot remove the demo's directory", "err", rerr)
		}
	}()
	if d.cluster, err = newLocalCluster(dir, f.replicas, f.clients, "strict"); err != nil {
		return err
	}
	res, err := d.run(ctx, rows)
	if err != nil {
		return err
	}
	d.summary(res)
	if f.json {
		if err := printJSON(stdout, res); err != nil {
			return err
		}
	}
	if !res.ok() {
		return errors.New("the cluster broke its promise: see above")
	}
	return nil
}

// say tells what happened, with the time since the start.
func (d *demo) say(format string, args ...any) {
	d.progress.say("%6.1fs  %s", time.Since(d.began).Seconds(), fmt.Sprintf(format, args...))
}

func (d *demo) run(ctx context.Context, rows []row) (*demoResult, error) {
	g := d.cluster.Genesis
	d.say("%d replicas of cluster %s on %s, tolerating %d that crash or lie", len(g.Members), g.Digest(), g.Members[0].Addr[:strings.LastIndex(g.Members[0].Addr, ":")], g.F)
	if err := d.startAll(ctx); err != nil {
		return nil, err
	}
	clients, err := d.openClients(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, c := range clients {
			_ = c.Close()
		}
	}()
	d.load = newLoad(clients, rows, d.f.rate)
	d.say("%d clients import %d rows at %s", len(clients), len(rows), rateText(d.f.rate))
	done := make(chan error, 1)
	loading, stop := context.WithCancel(ctx)
	go func() { // awaited below, whatever happens
		defer close(done)
		done <- d.load.run(loading)
	}()
	err = d.script(ctx, done)
	if err != nil {
		stop()
		<-done
		return nil, err
	}
	stop()
	d.progress.set(len(rows))
	d.progress.end()
	d.say("all %d rows are acknowledged; the longest wait for an answer was %d ms", len(rows), d.load.maxGap().Milliseconds())
	return d.verify(ctx, rows)
}

func rateText(rate int) string {
	if rate == 0 {
		return "full speed"
	}
	return fmt.Sprintf("%d calls a second", rate)
}

func (d *demo) startAll(ctx context.Context) error {
	for i := range d.cluster.Genesis.Members {
		if err := d.cluster.Start(smr.NodeID(i + 1)); err != nil {
			return err
		}
	}
	return d.cluster.AwaitAll(ctx)
}

func (d *demo) openClients(ctx context.Context) ([]*kvClient, error) {
	var out []*kvClient
	for j := range d.f.clients {
		cfg, err := d.cluster.Client(j + 1)
		if err == nil {
			var c *kvClient
			if c, err = openKV(ctx, cfg, slog.New(slog.DiscardHandler)); err == nil {
				out = append(out, c)
				continue
			}
		}
		for _, c := range out {
			_ = c.Close()
		}
		return nil, err
	}
	return out, nil
}

// step is something that happens when a share of the rows is acknowledged.
type step struct {
	percent int
	do      func(context.Context) error
}

// script runs beside the load and does what it is time for, until all rows are acknowledged.
func (d *demo) script(ctx context.Context, done <-chan error) error {
	var primary, backup smr.NodeID
	steps := []step{
		{25, func(ctx context.Context) (err error) {
			primary, err = d.killPrimary(ctx)
			return err
		}},
		{40, func(ctx context.Context) error { return d.restart(ctx, primary) }},
		{55, func(ctx context.Context) (err error) {
			backup, err = d.killBackup(ctx)
			return err
		}},
		{70, func(ctx context.Context) error { return d.restart(ctx, backup) }},
		{86, d.countOps},
		{88, d.killAll},
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case err := <-done:
			if err == nil && len(steps) > 0 {
				err = d.finishSteps(ctx, steps)
			}
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		rows := int(d.load.rowsDone.Load())
		d.progress.set(rows)
		if n%4 == 0 {
			d.watch(ctx)
		}
		if len(steps) > 0 && rows*100 >= steps[0].percent*len(d.load.rows) {
			if err := steps[0].do(ctx); err != nil {
				return err
			}
			steps = steps[1:]
		}
	}
}

// finishSteps does what is left when the load was faster than the script.
func (d *demo) finishSteps(ctx context.Context, steps []step) error {
	for _, s := range steps {
		if err := s.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// watch tells of a new view as soon as a quorum's worth of replicas would: when one that leads says so.
func (d *demo) watch(ctx context.Context) *adminpb.StatusReply {
	var leader *adminpb.StatusReply
	for i := range d.cluster.Genesis.Members {
		if !d.cluster.Running(smr.NodeID(i + 1)) {
			continue
		}
		s, err := d.cluster.Status(ctx, smr.NodeID(i+1))
		if err != nil || !s.Leading || s.Changing || leader != nil && s.View < leader.View {
			continue
		}
		leader = s
	}
	if leader != nil && (leader.View > d.view || !d.first) {
		if d.first {
			d.say("view %d: replica %d leads; no answer came for %d ms", leader.View, leader.Primary, d.load.takeGap().Milliseconds())
		} else {
			d.say("view %d: replica %d leads", leader.View, leader.Primary)
		}
		d.view, d.first = leader.View, true
	}
	return leader
}

// leader waits until somebody leads.
func (d *demo) leader(ctx context.Context) (*adminpb.StatusReply, error) {
	for {
		if s := d.watch(ctx); s != nil {
			return s, nil
		}
		if err := pause(ctx); err != nil {
			return nil, fmt.Errorf("nobody leads: %w", err)
		}
	}
}

func (d *demo) killPrimary(ctx context.Context) (smr.NodeID, error) {
	s, err := d.leader(ctx)
	if err != nil {
		return 0, err
	}
	id := smr.NodeID(s.Primary)
	d.load.takeGap()
	d.say("kill -9 of the primary, replica %d (pid %d), with %d rows acknowledged", id, d.cluster.Pid(id), d.load.rowsDone.Load())
	d.kills++
	return id, d.cluster.Kill(id)
}

func (d *demo) killBackup(ctx context.Context) (smr.NodeID, error) {
	s, err := d.leader(ctx)
	if err != nil {
		return 0, err
	}
	id := smr.NodeID(s.Primary%uint32(len(d.cluster.Genesis.Members)) + 1)
	d.load.takeGap()
	d.say("kill -9 of a backup, replica %d (pid %d); replica %d leads on", id, d.cluster.Pid(id), s.Primary)
	d.kills++
	return id, d.cluster.Kill(id)
}

func (d *demo) restart(ctx context.Context, id smr.NodeID) error {
	gap := d.load.takeGap()
	d.restarted[id] = true
	began := time.Now()
	if err := d.cluster.Start(id); err != nil {
		return err
	}
	if err := d.cluster.Await(ctx, id, "back", localcluster.Normal); err != nil {
		return err
	}
	d.say("replica %d is back and votes, %d ms after its start; while it was away the longest wait was %d ms", id, time.Since(began).Milliseconds(), gap.Milliseconds())
	return nil
}

func (d *demo) killAll(ctx context.Context) error {
	all := make([]smr.NodeID, len(d.cluster.Genesis.Members))
	for i := range all {
		all[i] = smr.NodeID(i + 1)
		if err := d.cluster.Ended(all[i]); err != nil {
			return err
		}
	}
	d.load.takeGap()
	d.say("kill -9 of all %d replicas at once, with %d rows acknowledged and the clients still calling", len(all), d.load.rowsDone.Load())
	d.kills += len(all)
	if err := d.cluster.Kill(all...); err != nil {
		return err
	}
	began := time.Now()
	if err := d.startAll(ctx); err != nil {
		return err
	}
	d.say("all %d are back from their disks and vote, %d ms after their start", len(all), time.Since(began).Milliseconds())
	return nil
}

func (d *demo) summary(r *demoResult) {
	word := map[bool]string{true: "yes", false: "NO"}
	d.progress.say("")
	d.progress.say("requests %d, acknowledged %d, lost %d, done twice %d", r.Requests, r.Acknowledged, r.Lost, r.Duplicated)
	d.progress.say("kills %d, view changes %d, longest wait for an answer %d ms", r.Kills, r.ViewChanges, r.MaxGapMs)
	d.progress.say("equal state on all replicas: %s; history linearizable: %s; %.1f s", word[r.RootsEqual], word[r.Linearizable], r.Seconds)
	if r.ok() {
		d.progress.say("nothing that was acknowledged was lost, and nothing was done twice")
	}
}

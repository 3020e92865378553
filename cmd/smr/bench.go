package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/localcluster"
	"github.com/atlas-smr/smr/internal/pb/adminpb"
	"github.com/atlas-smr/smr/kv"
)

// benchFlags is what is measured.
type benchFlags struct {
	replicas, clients, outstanding, payload int
	duration, warmup                        time.Duration
	durability, profile                     string
	json                                    bool
}

// benchResult is the measurement. Latencies are from the call to the reply of a quorum, over all
// calls that ended in the measured time.
type benchResult struct {
	Protocol     string  `json:"protocol"`
	Replicas     int     `json:"replicas"`
	Clients      int     `json:"clients"`
	Outstanding  int     `json:"outstanding"`
	Payload      int     `json:"payload"`
	Durability   string  `json:"durability"`
	Signatures   string  `json:"signatures"`
	TLS          string  `json:"tls"`
	Seconds      float64 `json:"seconds"`
	Ops          int     `json:"ops"`
	OpsPerSecond float64 `json:"ops_per_second"`
	P50          int64   `json:"p50_us"`
	P99          int64   `json:"p99_us"`
	P999         int64   `json:"p999_us"`
	CPUPerOp     float64 `json:"cpu_us_per_op"`
	RSS          uint64  `json:"rss_mib"`
	Fsync        uint64  `json:"fsync_us"`
	Errors       int     `json:"errors"`

	batches uint64 // decided in the measured time
}

func (a *app) newBenchCommand() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure a cluster on this machine, closed loop",
		Long: `bench starts replicas as processes of this binary on loopback, with TLS, signatures and a disk each in a
temporary directory, and keeps --outstanding puts under way over all clients, which run in this process.

cpu_us_per_op is the processor time of all replicas and clients together; rss_mib is the largest replica;
fsync_us is the mean time of a sync of a replica's log. All of them share this machine's processors.
--cpuprofile FILE writes the clients' profile to FILE and replica 1's to FILE.replica.`,
		Example: "  smr bench --json\n  smr bench --clients 1 --outstanding 1\n  smr bench --duration 30s --cpuprofile cpu.pprof",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			res, err := a.runBench(cmd.Context(), f, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if f.json {
				err = printJSON(cmd.OutOrStdout(), res)
			} else {
				err = res.print(cmd.OutOrStdout())
			}
			if err == nil && res.Errors > 0 {
				err = fmt.Errorf("%d calls failed", res.Errors)
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&f.replicas, "replicas", 4, "number of replicas")
	fl.IntVar(&f.clients, "clients", 8, "number of clients, one session each")
	fl.IntVar(&f.outstanding, "outstanding", 1024, "calls under way, over all clients")
	fl.IntVar(&f.payload, "payload", 128, "bytes of an op")
	fl.DurationVar(&f.duration, "duration", 10*time.Second, "measured time")
	fl.DurationVar(&f.warmup, "warmup", 2*time.Second, "time before it")
	fl.StringVar(&f.durability, "durability", "strict", "strict, relaxed or memory")
	fl.StringVar(&f.profile, "cpuprofile", "", "write CPU profiles to this file and FILE.replica")
	fl.BoolVar(&f.json, "json", false, "print the result as one JSON object")
	return cmd
}

// putOverhead is what a put's encoding adds to key and value.
const putOverhead = 1 + 1 + benchKeyBytes + 3

// benchKeyBytes is the length of a key.
const benchKeyBytes = 12

func (f *benchFlags) check() error {
	switch {
	case f.replicas < 1 || f.replicas > 31:
		return usagef("--replicas %d: 1 to 31", f.replicas)
	case f.clients < 1 || f.clients > 1024:
		return usagef("--clients %d: 1 to 1024", f.clients)
	case f.outstanding < f.clients:
		return usagef("--outstanding %d is the total over %d clients: give at least one each", f.outstanding, f.clients)
	case f.outstanding > f.clients*smr.SessionWindow:
		return usagef("--outstanding %d: a session holds %d, so at most %d for %d clients", f.outstanding, smr.SessionWindow, f.clients*smr.SessionWindow, f.clients)
	case f.payload < putOverhead+1 || f.payload > kv.MaxValueBytes:
		return usagef("--payload %d: %d to %d", f.payload, putOverhead+1, kv.MaxValueBytes)
	case f.duration <= 0 || f.warmup < 0:
		return usagef("--duration takes a positive time, --warmup no negative one")
	}
	return nil
}

func (a *app) runBench(ctx context.Context, f benchFlags, stderr io.Writer) (_ *benchResult, err error) {
	dir, err := os.MkdirTemp("", "smr-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	c, err := newLocalCluster(dir, f.replicas, f.clients, f.durability)
	if err != nil {
		return nil, err
	}
	if f.profile != "" {
		if c.Profile, err = filepath.Abs(f.profile + ".replica"); err != nil {
			return nil, err
		}
	}
	log := a.logger(stderr)
	defer c.Close(log)
	d := &demo{f: demoFlags{clients: f.clients}, cluster: c, log: log}
	starting, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := d.startAll(starting); err != nil {
		return nil, err
	}
	clients, err := d.openClients(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, kc := range clients {
			err = errors.Join(err, kc.Close())
		}
	}()
	b := &bench{f: f, cluster: c, clients: clients}
	return b.run(ctx)
}

// bench is one measurement.
type bench struct {
	f       benchFlags
	cluster *localcluster.Cluster
	clients []*kvClient
}

// lane is one of the calls that are under way at a time, and what it measured. It belongs to one
// goroutine.
type lane struct {
	took   []time.Duration
	errors int
}

// usage is what the processes have used so far.
type usage struct {
	cpu         time.Duration
	rss         uint64 // of the largest replica
	syncs, sync uint64 // of all replicas
	decided     uint64 // highest of any replica
}

func (b *bench) run(ctx context.Context) (*benchResult, error) {
	lanes := make([]lane, b.f.outstanding)
	began := time.Now()
	from := began.Add(b.f.warmup)
	to := from.Add(b.f.duration)
	running, cancel := context.WithDeadline(ctx, to.Add(time.Minute))
	defer cancel()
	var wg sync.WaitGroup
	for i := range lanes {
		wg.Go(func() { b.loop(running, i, &lanes[i], from, to) })
	}
	abort := func(err error) (*benchResult, error) {
		cancel()
		wg.Wait()
		return nil, err
	}
	if err := sleepUntil(ctx, from); err != nil {
		return abort(err)
	}
	before, err := b.usage(ctx)
	if err != nil {
		return abort(err)
	}
	stop, err := startProfile(b.f.profile)
	if err != nil {
		return abort(err)
	}
	err = sleepUntil(ctx, to)
	stop()
	if err != nil {
		return abort(err)
	}
	after, err := b.usage(ctx)
	if err != nil {
		return abort(err)
	}
	wg.Wait()
	return b.result(lanes, before, after), nil
}

// loop keeps one call under way until to, and measures those that end after from.
func (b *bench) loop(ctx context.Context, i int, l *lane, from, to time.Time) {
	c := b.clients[i%len(b.clients)]
	rng := rand.New(rand.NewPCG(uint64(i), 1))
	value := make([]byte, b.f.payload-putOverhead)
	for j := range value {
		value[j] = byte(rng.Uint32())
	}
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("%0*d", benchKeyBytes, rng.IntN(100_000))
		start := time.Now()
		if !start.Before(to) {
			return
		}
		rep, err := c.Do(ctx, kv.Put(key, value))
		end := time.Now()
		if end.Before(from) || end.After(to) {
			continue
		}
		if err != nil || rep.Status != kv.StatusOK {
			l.errors++
			continue
		}
		l.took = append(l.took, end.Sub(start))
	}
}

func sleepUntil(ctx context.Context, t time.Time) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(time.Until(t)):
		return nil
	}
}

// usage asks all replicas, and the system about this process.
func (b *bench) usage(ctx context.Context) (usage, error) {
	var u usage
	for i := range b.cluster.Genesis.Members {
		if err := b.cluster.Ended(smr.NodeID(i + 1)); err != nil {
			return u, err
		}
		s, err := b.cluster.Status(ctx, smr.NodeID(i+1))
		if err != nil {
			return u, err
		}
		u.add(s)
	}
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return u, err
	}
	u.cpu += time.Duration(r.Utime.Nano() + r.Stime.Nano())
	return u, nil
}

func (u *usage) add(s *adminpb.StatusReply) {
	u.cpu += time.Duration(s.CpuUs) * time.Microsecond
	u.rss = max(u.rss, s.RssBytes)
	u.syncs += s.Syncs
	u.sync += s.SyncUs
	u.decided = max(u.decided, s.Decided)
}

func (b *bench) result(lanes []lane, before, after usage) *benchResult {
	g := b.cluster.Genesis
	r := &benchResult{
		Protocol: g.Protocol, Replicas: len(g.Members), Clients: b.f.clients, Outstanding: b.f.outstanding, Payload: b.f.payload,
		Durability: b.f.durability, Signatures: "ed25519", TLS: "1.3", Seconds: b.f.duration.Seconds(), RSS: after.rss >> 20,
		Fsync: mean(after.sync-before.sync, after.syncs-before.syncs),
	}
	r.batches = after.decided - before.decided
	var took []time.Duration
	for i := range lanes {
		took = append(took, lanes[i].took...)
		r.Errors += lanes[i].errors
	}
	slices.Sort(took)
	r.Ops = len(took)
	r.OpsPerSecond = float64(int64(10*float64(r.Ops)/r.Seconds)) / 10
	r.P50, r.P99, r.P999 = percentile(took, 0.5), percentile(took, 0.99), percentile(took, 0.999)
	if r.Ops > 0 {
		r.CPUPerOp = float64(int64(100*float64((after.cpu-before.cpu).Microseconds())/float64(r.Ops))) / 100
	}
	return r
}

// percentile returns the smallest duration that a share p of the sorted ones does not exceed, in
// microseconds.
func percentile(sorted []time.Duration, p float64) int64 {
	if len(sorted) == 0 {
		return 0
	}
	i := int(math.Ceil(p*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)].Microseconds()
}

func (r *benchResult) print(w io.Writer) error {
	fmt.Fprintf(w, "%s, %d replicas, %d clients, %d outstanding, %d bytes, %s, TLS %s, %s\n", r.Protocol, r.Replicas, r.Clients, r.Outstanding, r.Payload, r.Durability, r.TLS, r.Signatures)
	fmt.Fprintf(w, "%.0f ops/s over %.0f s, %d failed\n", r.OpsPerSecond, r.Seconds, r.Errors)
	fmt.Fprintf(w, "%.0f batches/s of %.0f ops\n", float64(r.batches)/r.Seconds, float64(r.Ops)/max(float64(r.batches), 1))
	fmt.Fprintf(w, "latency: median %d us, 99%% %d us, 99.9%% %d us\n", r.P50, r.P99, r.P999)
	_, err := fmt.Fprintf(w, "%.1f us of processor an op (replicas and clients), largest replica %d MiB, a sync of the log %d us\n", r.CPUPerOp, r.RSS, r.Fsync)
	return err
}

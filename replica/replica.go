package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/engine"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/internal/requests"
	"github.com/atlas-smr/smr/network"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/storage"
)

// Config says which replica to run and how. NodeConfig.Replica makes one from a configuration file.
type Config struct {
	Genesis    *Genesis
	Node       smr.NodeID
	Key        *auth.KeyPair
	DataDir    string
	ListenAddr string // peers and clients
	AdminAddr  string // admin API; empty: none
	// Addresses are where to dial members, where that is not their address in the genesis. May be nil.
	Addresses  map[smr.NodeID]string
	Durability storage.Mode
	Ordering   protocol.Factory

	PoolBytes   int // requests waiting to be ordered; zero: default
	ClientBytes int // of which one client's
	ClientOps   int // one client's bundles waiting
	LogBytes    int // decided batches kept for replicas that come back, once a checkpoint covers them

	BaseTimeout time.Duration // without progress, before this replica complains about the primary
	MaxTimeout  time.Duration
	Pipeline    int // undecided proposals in flight

	Logger *slog.Logger // nil: nothing is logged
	Ready  func()       // called once the replica listens and recovered
}

// fixed timing and windows that nobody has needed to change.
const (
	window        = 1024
	heartbeat     = 200 * time.Millisecond
	resend        = 500 * time.Millisecond
	maxClockDrift = 5 * time.Second
)

func (c *Config) setDefaults() {
	if c.BaseTimeout == 0 {
		c.BaseTimeout = DefaultBaseTimeout
	}
	if c.MaxTimeout == 0 {
		c.MaxTimeout = DefaultMaxTimeout
	}
	if c.Pipeline == 0 {
		c.Pipeline = DefaultPipeline
	}
	if c.LogBytes == 0 {
		c.LogBytes = DefaultLogBytes
	}
	if c.PoolBytes == 0 {
		c.PoolBytes = DefaultPoolBytes
	}
	if c.ClientBytes == 0 {
		c.ClientBytes = DefaultClientBytes
	}
	if c.ClientOps == 0 {
		c.ClientOps = DefaultClientOps
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate reports every mistake of the configuration.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Genesis != nil, "replica: no genesis")
	check(c.Key != nil, "replica: no key")
	check(c.Ordering.New != nil && c.Ordering.NewCodec != nil, "replica: no ordering protocol")
	check(c.DataDir != "", "replica: no data directory")
	check(c.ListenAddr != "", "replica: no address to listen on")
	if c.Genesis != nil {
		errs = append(errs, c.Genesis.Validate())
		me, ok := c.Genesis.Member(c.Node)
		check(ok, "replica: node %d is no member of the genesis", c.Node)
		check(!ok || c.Key == nil || me.Key == c.Key.Public(), "replica: the key is not node %d's: use the key.pem that init wrote for it", c.Node)
		check(c.Ordering.New == nil || c.Ordering.Model == c.Genesis.Model(), "replica: ordering %q does not fit the genesis, which is for %q", c.Ordering.Name, c.Genesis.Protocol)
	}
	check(c.BaseTimeout >= 0 && c.MaxTimeout >= c.BaseTimeout || c.MaxTimeout == 0, "replica: max timeout %v is below timeout %v", c.MaxTimeout, c.BaseTimeout)
	return errors.Join(errs...)
}

// replica is one running replica. What the loop goroutine owns is marked; the rest is immutable or
// safe for concurrent use.
type replica struct {
	cfg        Config
	log        *slog.Logger
	membership *quorum.Membership
	decoder    *engine.Decoder
	codec      protocol.Codec
	store      *storage.Store
	node       *network.Node
	executor   *execution.Executor
	requests   *requests.Pool
	cluster    smr.ClusterID

	inbox     chan input
	broken    chan error // first local fault that ends the replica
	executedC chan struct{}
	executed  atomic.Uint64
	logReads  chan engine.LogRead
	// Each holds whatever the engine may ask for at once: a few questions a peer, and the operations
	// of one transfer.
	stateReads chan engine.StateRead
	stateOps   chan transfer.StateOp
	stopping   chan struct{}
	stop       sync.Once
	wait       sync.WaitGroup
	started    time.Time
	fenced     atomic.Pointer[string]
	draining   atomic.Bool
	listening  atomic.Pointer[network.Node]

	// Owned by the loop goroutine.
	engine       *engine.Engine
	out          engine.Output
	timers       *timers
	durable      uint64
	executedSeen smr.SeqNo
	gate         readGate
	retention    retention
	events       map[protocol.EventKind]uint64
}

type readGate struct {
	seq  smr.SeqNo
	open bool
	set  bool
}

// Run runs a replica of service until ctx ends, which is a clean stop and returns nil, or until a
// local fault ends it. The errors of storage and network keep their names in the chain. service
// belongs to the replica from here on.
func Run(ctx context.Context, cfg Config, service smr.Service) error {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return err
	}
	r, err := start(cfg, service)
	if err != nil {
		return err
	}
	var admin *adminServer
	if cfg.AdminAddr != "" {
		if admin, err = serveAdmin(cfg.AdminAddr, r, r.log); err != nil {
			return errors.Join(err, r.close())
		}
	}
	if cfg.Ready != nil {
		cfg.Ready()
	}
	err = r.loop(ctx)
	if errors.Is(err, errDrained) {
		err = nil
	}
	r.stop.Do(func() { close(r.stopping) })
	if admin != nil {
		admin.Close()
	}
	return errors.Join(err, r.close())
}

// start opens the disk, restores execution, replays the log and listens. On error nothing runs.
func start(cfg Config, service smr.Service) (_ *replica, err error) {
	switch service.State().(type) {
	case smr.Monolithic, smr.Divisible:
	default:
		return nil, errors.New("replica: the application has no state to checkpoint: implement smr.Stateful")
	}
	r := &replica{
		cfg: cfg, log: cfg.Logger.With("node", uint64(cfg.Node)), cluster: cfg.Genesis.Digest(),
		inbox: make(chan input, inboxLength), broken: make(chan error, 1), executedC: make(chan struct{}, 1),
		started: time.Now(), logReads: make(chan engine.LogRead, 16), stopping: make(chan struct{}),
		timers: newTimers(), retention: retention{keep: uint64(cfg.LogBytes)}, events: map[protocol.EventKind]uint64{},
	}
	if r.membership, err = cfg.Genesis.Membership(); err != nil {
		return nil, err
	}
	r.stateReads = make(chan engine.StateRead, 16*len(r.membership.Members()))
	r.stateOps = make(chan transfer.StateOp, 1024)
	r.store, err = storage.Open(cfg.DataDir, storage.Identity{Cluster: r.cluster, Node: cfg.Node}, storage.Options{
		Mode: cfg.Durability, Logger: r.log, OnFatal: func(err error) { r.fail(fmt.Errorf("storage: %w", err)) },
	})
	if err != nil {
		return nil, err
	}
	recovered, err := r.store.Recover()
	if err != nil {
		return nil, errors.Join(err, r.store.Close())
	}
	core, err := r.restore(service)
	if err != nil {
		return nil, errors.Join(err, r.store.Close())
	}
	verifier, scheme := r.verifier()
	r.codec = cfg.Ordering.NewCodec(verifier)
	r.decoder = engine.NewDecoder(verifier, r.codec, scheme)
	r.executed.Store(uint64(core.Executed()))
	view := r.startExecution(core)
	r.startRequests(scheme, view, service)
	r.engine = engine.New(r.engineConfig(verifier))
	r.wait.Add(3)
	go r.readLogs()
	go r.serveState()
	go r.receiveState()
	if err := r.boot(core.Executed(), recovered, verifier); err != nil {
		return nil, errors.Join(err, r.close())
	}
	if err := r.listen(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *replica) verifier() (*auth.Verifier, auth.Scheme) {
	scheme := auth.NewEd25519()
	if r.membership.Model() == quorum.Crash {
		return auth.NewTrusting(r.membership), scheme
	}
	return auth.NewVerifier(r.membership, scheme), scheme
}

func (r *replica) engineConfig(v *auth.Verifier) engine.Config {
	return engine.Config{
		Factory: r.cfg.Ordering,
		Params: protocol.Params{
			Self: r.cfg.Node, Membership: r.membership, Verifier: v, Signer: r.cfg.Key,
			Pipeline: r.cfg.Pipeline, Window: window, BaseTimeout: r.cfg.BaseTimeout, MaxTimeout: r.cfg.MaxTimeout,
			Heartbeat: heartbeat, Resend: resend, MaxClockDrift: maxClockDrift,
		},
		Limits:          engine.Limits{PoolBytes: r.cfg.PoolBytes, ClientBytes: r.cfg.ClientBytes, ClientBundles: r.cfg.ClientOps},
		CheckpointBytes: r.cfg.Genesis.Limits.withDefaults().CheckpointBytes,
	}
}

// restore makes the execution core from the newest valid checkpoint, or from genesis.
func (r *replica) restore(service smr.Service) (*execution.Core, error) {
	limits := r.cfg.Genesis.Limits.withDefaults()
	cfg := execution.Config{Membership: r.membership.Digest(), Limits: execution.Limits{
		Sessions: limits.Sessions, SessionsPerClient: limits.SessionsPerClient, ReplyCacheBytes: limits.ReplyCacheBytes,
	}}
	for _, c := range r.cfg.Genesis.Clients {
		cfg.Clients = append(cfg.Clients, execution.Client{ID: c.ID, Key: c.Key})
	}
	core, err := execution.New(cfg, service)
	if err != nil {
		return nil, err
	}
	from, err := r.store.LatestCheckpoint()
	if err != nil {
		return nil, err
	}
	if from == nil {
		return core, core.Genesis()
	}
	defer func() { _ = from.Close() }()
	if err := core.Restore(from.Meta, io.Reader(from)); err != nil {
		return nil, fmt.Errorf("restore checkpoint %d: %w", from.Seq, err)
	}
	return core, nil
}

// boot starts the engine from what the disk held. Its first effects wait for the loop.
func (r *replica) boot(executed smr.SeqNo, rec storage.Recovered, v *auth.Verifier) error {
	boot := engine.Boot{Recovered: rec.Recovered, Bundles: rec.Bundles, Executed: executed, Observe: rec.Amnesic}
	if rec.Checkpoint != nil {
		boot.CheckpointSize = rec.Checkpoint.Bytes
		if len(rec.Certificate) > 0 {
			cert, err := v.Open(v.Statement(auth.KindRoot, 0, rec.Checkpoint.Seq, rec.Checkpoint.Root), rec.Certificate)
			if err != nil {
				return fmt.Errorf("certificate of checkpoint %d: %w", rec.Checkpoint.Seq, err)
			}
			boot.Checkpoint = auth.CheckpointCert{Cert: cert}
		}
	}
	if rec.Amnesic {
		r.log.Warn("this replica ran without strict durability and did not stop cleanly: it follows without voting", "remedy", "replace it by one with a new node id")
	}
	r.engine.Start(time.Now(), boot, &r.out)
	if c := rec.Checkpoint; c != nil {
		r.engine.CheckpointDurable(time.Now(), c.Seq, c.Root, &r.out) // its root is signed again
	}
	return nil
}

// fail ends the replica with a local fault; the first one counts.
func (r *replica) fail(err error) {
	select {
	case r.broken <- err:
	default:
	}
}

// close stops everything in the order in which it feeds on each other, and waits.
func (r *replica) close() error {
	r.stop.Do(func() { close(r.stopping) })
	var errs []error
	if r.node != nil {
		errs = append(errs, r.node.Close())
	}
	if r.requests != nil {
		r.requests.Close()
	}
	if r.executor != nil {
		r.executor.Close()
	}
	r.wait.Wait()
	return errors.Join(append(errs, r.store.Close())...)
}

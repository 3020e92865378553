package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// Config says who the client is and how it works.
type Config struct {
	Membership *quorum.Membership // of the genesis
	Client     smr.ClientID
	Key        *auth.KeyPair
	// Signer signs bundles; Key if nil.
	Signer auth.Signer
	// SessionFile, if not empty, keeps the session so that the client is exactly-once across its own
	// restart; see [Conn.Recovered]. The file is locked; it costs one or two syncs of it a bundle.
	SessionFile string
	// MaxPendingBytes bounds ops that have no result yet, each counted with 256 bytes on top.
	// Beyond it Do waits and Submit refuses. Default 64 MiB.
	MaxPendingBytes int
	Limits
	// Addresses are where to dial replicas, where that is not their address in the membership. May be nil.
	Addresses map[smr.NodeID]string
	Logger    *slog.Logger // nil: discard
	// Dial connects the client; nil is TCP with mutual TLS to the members' addresses.
	Dial func(Config, Handler) (Transport, error)
}

// Handler takes what arrives from replicas. payload belongs to it from then on. An error is
// misbehaviour of the replica.
type Handler interface {
	Frame(from smr.NodeID, class wire.Class, kind uint8, payload []byte) error
	// Up says that frames can be sent to a replica again: what waits is sent to it.
	Up(replica smr.NodeID)
}

// Transport sends to replicas. Send never blocks; false means dropped, which costs a retransmission.
// Close ends what the transport started; no Frame is delivered after it.
type Transport interface {
	Send(to smr.NodeID, class wire.Class, kind uint8, payload []byte) bool
	io.Closer
}

// Conn calls a service in bytes. It owns one goroutine, started by Dial and awaited by Close; the
// Core and the session file belong to that goroutine. Conn is safe for concurrent use.
type Conn struct {
	cfg       Config
	log       *slog.Logger
	transport Transport
	file      *sessionFile
	room      *semaphore.Weighted
	recovered []*Pending
	wake      chan struct{} // holds a token if the inbox has something
	stop      chan struct{}
	closed    chan struct{} // the goroutine ended
	once      sync.Once
	closing   error

	mu     sync.Mutex
	inbox  inbox // guarded by mu
	status Status
}

// Dial makes a connection. It does not wait for replicas: the session is opened by the first ordered
// call, and calls wait as long as their contexts allow.
func Dial(cfg Config) (*Conn, error) {
	if cfg.Membership == nil || cfg.Client == 0 || cfg.Key == nil && cfg.Signer == nil {
		return nil, errors.New("client: Membership, Client and Key are needed")
	}
	if cfg.Signer == nil {
		cfg.Signer = cfg.Key
	}
	if cfg.Dial == nil {
		cfg.Dial = dialTCP
	}
	if cfg.MaxPendingBytes <= 0 {
		cfg.MaxPendingBytes = 64 << 20
	}
	cfg.MaxPendingBytes = max(cfg.MaxPendingBytes, smr.MaxOpBytes+callBytes)
	c := &Conn{
		cfg: cfg, log: cfg.Logger, room: semaphore.NewWeighted(int64(cfg.MaxPendingBytes)),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), closed: make(chan struct{}),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.inbox.init(cfg.Membership.N())
	core := CoreConfig{
		Membership: cfg.Membership, Client: cfg.Client, Signer: cfg.Signer, Limits: cfg.Limits,
		Rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
	}
	if cfg.SessionFile != "" {
		var err error
		if c.file, core.Resume, err = openSessionFile(cfg.SessionFile, cfg.Membership.Cluster(), cfg.Client); err != nil {
			return nil, err
		}
		core.Keep = true
	}
	logic := NewCore(core)
	c.recover(logic)
	var err error
	if c.transport, err = cfg.Dial(cfg, c); err != nil {
		if c.file != nil {
			_ = c.file.close()
		}
		return nil, err
	}
	go c.run(logic)
	return c, nil
}

// recover adopts the calls of the resumed state.
func (c *Conn) recover(core *Core) {
	calls, ops := core.Recovered()
	for i, call := range calls {
		p := &Pending{conn: c, core: call, ended: make(chan struct{}), op: ops[i]}
		call.Tag = p
		c.recovered = append(c.recovered, p)
	}
}

// Recovered returns the calls of the session file that had no result when it was last written,
// oldest first. They are being sent again under their old op numbers. A program that reads its
// outcomes from them before it calls anew is exactly-once across its own crash: every op it handed
// over before is either answered, or was never signed and had no effect, or is among these. An op
// whose result arrived just before the crash may be among them too; it is not executed again.
func (c *Conn) Recovered() []*Pending { return c.recovered }

// Do executes op as one ordered call and returns its reply. op must not change until Do returns; the
// reply belongs to the caller. Every error wraps ErrNotExecuted or ErrUnknown; see Retry.
func (c *Conn) Do(ctx context.Context, op []byte) ([]byte, error) {
	p, err := c.start(ctx, true, op, taskSubmit, Level{})
	if err != nil {
		return nil, err
	}
	return p.Wait(ctx)
}

// Submit starts an ordered call and returns at once; calls submitted together share bundles. It is
// refused with a *LimitError (wrapping ErrNotExecuted) if Config.MaxPendingBytes are pending. op
// must not change until the call ended.
func (c *Conn) Submit(op []byte) (*Pending, error) {
	return c.start(context.Background(), false, op, taskSubmit, Level{})
}

// Query asks op unordered; see Level. If the replicas do not agree in time it is executed as an
// ordered op, which the application sees as Execute.
func (c *Conn) Query(ctx context.Context, op []byte, level Level) (*Pending, error) {
	return c.start(ctx, true, op, taskQuery, level)
}

// callBytes is what a pending call is charged beside its op.
const callBytes = 256

// start posts a call; it waits for room if told to.
func (c *Conn) start(ctx context.Context, wait bool, op []byte, kind taskKind, level Level) (*Pending, error) {
	most := pick(c.cfg.MaxOpBytes, smr.MaxOpBytes, smr.MaxOpBytes)
	if len(op) > most {
		return nil, &LimitError{Name: "op bytes", Value: len(op), Limit: most}
	}
	p := &Pending{conn: c, ended: make(chan struct{}), op: op, weight: int64(len(op) + callBytes)}
	p.own.Tag, p.core = p, &p.own
	switch {
	case !wait:
		if !c.room.TryAcquire(p.weight) {
			return nil, &LimitError{Name: "pending bytes", Value: c.cfg.MaxPendingBytes + len(op), Limit: c.cfg.MaxPendingBytes}
		}
	case ctx.Err() != nil:
		return nil, &fateError{ErrNotExecuted, context.Cause(ctx)}
	default:
		if err := c.room.Acquire(ctx, p.weight); err != nil {
			return nil, &fateError{ErrNotExecuted, context.Cause(ctx)}
		}
	}
	if !c.post(task{kind: kind, call: p, level: level}) {
		c.room.Release(p.weight)
		return nil, &fateError{ErrNotExecuted, ErrClosed}
	}
	return p, nil
}

// Frame implements Handler. A replica's frames wait in a share of the inbox of its own; beyond it
// they are dropped, and asked for again by retransmission.
func (c *Conn) Frame(from smr.NodeID, class wire.Class, kind uint8, payload []byte) error {
	i, ok := c.cfg.Membership.Index(from)
	if !ok {
		return errReply
	}
	c.mu.Lock()
	err := c.inbox.frame(i, frame{from, class, kind, payload})
	c.mu.Unlock()
	c.signal()
	return err
}

// Up implements Handler.
func (c *Conn) Up(replica smr.NodeID) { c.post(task{kind: taskUp, replica: replica}) }

// Status returns the state of the client, as of the last time its goroutine ran.
func (c *Conn) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.status
	s.DropsInbox = c.inbox.dropped
	return s
}

// Close ends the client: calls without a result end as ErrNotExecuted if nothing signed left for
// them, else as ErrUnknown, both with ErrClosed. It awaits everything the client started.
func (c *Conn) Close() error {
	c.once.Do(func() {
		close(c.stop)
		<-c.closed
		c.closing = errors.Join(c.closing, c.transport.Close())
	})
	return c.closing
}

func (c *Conn) post(t task) bool {
	c.mu.Lock()
	ok := !c.inbox.shut
	if ok {
		c.inbox.tasks = append(c.inbox.tasks, t)
	}
	c.mu.Unlock()
	c.signal()
	return ok
}

func (c *Conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run owns the Core: it takes all that waits, lets the Core flush once, and does what it says. What
// arrives meanwhile is the next bundle.
func (c *Conn) run(core *Core) {
	defer close(c.closed)
	l := loop{conn: c, core: core}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.wake:
		case <-timer.C:
		case <-c.stop:
			l.finish()
			return
		}
		next := l.turn(time.Now())
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(time.Until(next), 0))
		}
	}
}

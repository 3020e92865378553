package execution

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/wire"
)

// Delivery is a decided batch on its way to execution.
type Delivery struct {
	Decision   protocol.Decision
	Bundles    []*smr.Bundle
	Checkpoint bool // a checkpoint is due after it
}

func (d *Delivery) bytes() int {
	n := 512
	for _, b := range d.Bundles {
		n += len(b.Raw)
	}
	return n
}

// CheckpointSink takes the parts of one checkpoint to disk.
type CheckpointSink interface {
	PartSink
	// Commit makes the checkpoint durable. It returns when it is.
	Commit(w Written) error
	// Abort drops what was written.
	Abort()
}

// Checkpoint is the outcome of writing one.
type Checkpoint struct {
	Written
	Err error // nil if it is durable
}

// ErrSuperseded is the outcome of a checkpoint that a newer one overtook before it was written.
var ErrSuperseded = errors.New("checkpoint superseded before it was written")

// ExecutorConfig says what an Executor works with. Callbacks run on the executor's goroutines and
// must not block.
type ExecutorConfig struct {
	Sender Sender
	// Read returns decided batches from the log, contiguous from after+1 on, as many as fit
	// maxBytes and at least one if the log has it; none if it does not have it yet.
	Read func(after, upto smr.SeqNo, maxBytes int) ([]Delivery, error)
	// Begin starts a checkpoint on disk; m is Snapshot.Meta. Nil: checkpoints are computed only.
	Begin func(m Meta) (CheckpointSink, error)

	OnExecuted   func(seq smr.SeqNo)
	OnCheckpoint func(Checkpoint)
	OnFenced     func(error)

	FeedBytes        int           // delivered batches that may wait; beyond it they are read back from the log
	Queries          int           // unordered requests and resends that may wait
	QueriesPerClient int           // of one client
	RetryRead        time.Duration // pause before a log that has not got the next batch yet is read again
}

func (c *ExecutorConfig) setDefaults() {
	if c.FeedBytes == 0 {
		c.FeedBytes = 32 << 20
	}
	if c.Queries == 0 {
		c.Queries = 4096
	}
	if c.QueriesPerClient == 0 {
		c.QueriesPerClient = 512
	}
	if c.RetryRead == 0 {
		c.RetryRead = 5 * time.Millisecond
	}
	if c.OnExecuted == nil {
		c.OnExecuted = func(smr.SeqNo) {}
	}
	if c.OnCheckpoint == nil {
		c.OnCheckpoint = func(Checkpoint) {}
	}
	if c.OnFenced == nil {
		c.OnFenced = func(error) {}
	}
}

// Executor owns a Core and the goroutine it runs on, and a second goroutine while a checkpoint is
// written. All its methods are safe for concurrent use and none blocks, but Close and Inspect.
type Executor struct {
	cfg     ExecutorConfig
	core    *Core
	view    *View
	replies *ReplyNode
	wake    chan struct{} // capacity 1: something below changed
	quit    chan struct{}
	wg      sync.WaitGroup

	mu       sync.Mutex // guards what follows
	feed     []Delivery // contiguous, all above executed; what follows its last was not kept
	fed      int        // bytes in feed
	fedTo    smr.SeqNo  // newest batch that ever was in feed
	newest   smr.SeqNo  // newest decided
	marks    []smr.SeqNo
	executed smr.SeqNo
	asks     []ask
	perAsker map[smr.ClientID]int
	calls    []func(*Core)
	gate     *readGate
	fenced   error
	snapshot *Snapshot // waits for the checkpoint writer
	writing  bool
	closed   bool
}

type readGate struct {
	seq  smr.SeqNo
	open bool
}

// ask is an unordered request or the resend of a bundle.
type ask struct {
	client smr.ClientID
	query  *wirepb.UnorderedRequest
	bundle *smr.Bundle
	missed func(*smr.Bundle) // called if the bundle cannot be answered from the cache
}

// NewExecutor starts an executor that owns core from now on.
func NewExecutor(core *Core, cfg ExecutorConfig) *Executor {
	cfg.setDefaults()
	e := &Executor{
		cfg: cfg, core: core, view: NewView(core), replies: NewReplyNode(cfg.Sender),
		wake: make(chan struct{}, 1), quit: make(chan struct{}),
		executed: core.Executed(), newest: core.Executed(), perAsker: make(map[smr.ClientID]int),
	}
	e.wg.Go(e.run)
	return e
}

// View returns the published view of the session table.
func (e *Executor) View() *View { return e.view }

// Replies returns the node through which replies leave.
func (e *Executor) Replies() *ReplyNode { return e.replies }

// Status is where an executor stands.
type Status struct {
	Executed smr.SeqNo
	Newest   smr.SeqNo // decided
	Waiting  int       // bytes of delivered batches that wait
	Behind   bool      // batches beyond those that wait must be read back from the log
	Asks     int       // unordered requests and resends that wait
	Fenced   error
	Dropped  uint64 // replies that could not be sent
}

// Status returns where the executor stands.
func (e *Executor) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Status{
		Executed: e.executed, Newest: e.newest, Waiting: e.fed, Behind: e.lastFed() < e.newest,
		Asks: len(e.asks), Fenced: e.fenced, Dropped: e.replies.Dropped(),
	}
}

// lastFed returns the newest sequence number up to which nothing need be read back. mu is held.
func (e *Executor) lastFed() smr.SeqNo {
	return max(e.fedTo, e.executed)
}

// Deliver hands over a decided batch. If too much waits already only its number is kept, and the
// batch is read back from the log when its turn comes.
func (e *Executor) Deliver(d Delivery) {
	e.mu.Lock()
	seq, n := d.Decision.Seq, d.bytes()
	if seq > e.newest {
		e.newest = seq
		if d.Checkpoint {
			e.marks = append(e.marks, seq)
		}
		if seq == e.lastFed()+1 && (e.fed+n <= e.cfg.FeedBytes || len(e.feed) == 0) {
			e.feed = append(e.feed, d)
			e.fed += n
			e.fedTo = seq
		}
	}
	e.mu.Unlock()
	e.nudge()
}

// Unordered hands over an unordered request of a client, as it came in a frame. An error is
// misbehaviour of the sender. If too much waits the client is told at once.
func (e *Executor) Unordered(from auth.Identity, payload []byte) error {
	client, ok := from.Client()
	if !ok {
		return fmt.Errorf("unordered request from %v", from)
	}
	req := new(wirepb.UnorderedRequest)
	if err := req.UnmarshalVT(payload); err != nil {
		return fmt.Errorf("unordered request: %w", err)
	}
	if limit := e.enqueue(ask{client: client, query: req}); limit != "" {
		e.sendQuery(client, &wirepb.UnorderedReply{Id: req.Id, Code: uint32(wire.QueryBusy), Text: limit})
	}
	return nil
}

// Resend answers a bundle that was executed before from the cached replies. If they are not all
// there, missed is called with the bundle, on the executor's goroutine: it must be ordered again.
// It reports false if too much waits.
func (e *Executor) Resend(b *smr.Bundle, missed func(*smr.Bundle)) bool {
	return e.enqueue(ask{client: b.Client, bundle: b, missed: missed}) == ""
}

// enqueue returns the limit that refuses the ask, or "".
func (e *Executor) enqueue(a ask) string {
	e.mu.Lock()
	switch {
	case len(e.asks) >= e.cfg.Queries:
		e.mu.Unlock()
		return fmt.Sprintf("%d requests wait at this replica", e.cfg.Queries)
	case e.perAsker[a.client] >= e.cfg.QueriesPerClient:
		e.mu.Unlock()
		return fmt.Sprintf("%d requests of this client wait", e.cfg.QueriesPerClient)
	}
	e.asks = append(e.asks, a)
	e.perAsker[a.client]++
	e.mu.Unlock()
	e.nudge()
	return ""
}

// SetReadGate passes Core.SetReadGate on.
func (e *Executor) SetReadGate(seq smr.SeqNo, open bool) {
	e.mu.Lock()
	e.gate = &readGate{seq, open}
	e.mu.Unlock()
	e.nudge()
}

// Inspect runs fn with the core, between batches, and returns after it. It reports false if the
// executor closed first.
func (e *Executor) Inspect(fn func(*Core)) bool {
	done := make(chan struct{})
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return false
	}
	e.calls = append(e.calls, func(c *Core) { defer close(done); fn(c) })
	e.mu.Unlock()
	e.nudge()
	select {
	case <-done:
		return true
	case <-e.quit:
		return false
	}
}

// Close stops both goroutines, at the end of the batch and of the checkpoint they work on, and
// waits for them.
func (e *Executor) Close() {
	e.mu.Lock()
	was := e.closed
	e.closed = true
	e.mu.Unlock()
	if !was {
		close(e.quit)
	}
	e.wg.Wait()
}

func (e *Executor) nudge() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

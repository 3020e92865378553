package execution

import (
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/protocol"
)

// Client is an admitted client key.
type Client struct {
	ID  smr.ClientID
	Key smr.PublicKey
}

// Skip names an op that the operators of the cluster have decided, by hand, to pass over.
type Skip struct {
	Seq     smr.SeqNo
	Session smr.SessionID
	Op      smr.OpNumber
}

// Config says what a Core starts from. All of it must be equal on all replicas.
type Config struct {
	Clients    []Client // admitted at genesis
	Limits     Limits   // zero: DefaultLimits
	Membership smr.Digest
	Skips      []Skip
}

// ErrFenced is wrapped by every error after which a Core refuses to go on.
var ErrFenced = errors.New("execution is fenced")

// FencedError says why execution stopped, and at which op.
type FencedError struct {
	Seq     smr.SeqNo
	Client  smr.ClientID
	Session smr.SessionID // zero if no op was being executed
	Op      smr.OpNumber
	Cause   error
	Stack   []byte // of a panic
}

// Error implements error.
func (e *FencedError) Error() string {
	if e.Session == 0 {
		return fmt.Sprintf("%v at sequence number %d: %v", ErrFenced, e.Seq, e.Cause)
	}
	return fmt.Sprintf("%v at sequence number %d by op %d of session %v of client %d: %v", ErrFenced, e.Seq, e.Op, e.Session, e.Client, e.Cause)
}

// Unwrap makes errors.Is find ErrFenced and the cause.
func (e *FencedError) Unwrap() []error { return []error{ErrFenced, e.Cause} }

// Counts are what a Core has done since it started, for metrics.
type Counts struct {
	Batches, Executed, Malformed, Duplicates, Refused, Opens, Evicted, Queries, QueryPanics uint64
}

// Core applies decisions to the application and the session table. It belongs to one goroutine.
type Core struct {
	service    smr.Service
	batch      smr.BatchService // service, if it takes runs of ops at once
	table      *table
	membership smr.Digest
	skips      map[Skip]bool

	executed smr.SeqNo
	chain    smr.Digest
	epoch    smr.Epoch
	view     smr.View
	time     int64
	fenced   *FencedError

	gate     smr.SeqNo
	gateOpen bool

	counts  Counts
	applies uint64
	touched []*session      // changed by the last Apply
	gone    []smr.SessionID // evicted by the last Apply
	work    work
}

// New returns a core at the genesis state. The caller hands service over.
func New(cfg Config, service smr.Service) (*Core, error) {
	if cfg.Limits == (Limits{}) {
		cfg.Limits = DefaultLimits()
	}
	if err := cfg.Limits.Validate(); err != nil {
		return nil, err
	}
	c := &Core{service: service, table: newTable(cfg.Limits, cfg.Clients), membership: cfg.Membership}
	if len(c.table.clients) != len(cfg.Clients) {
		return nil, errors.New("two admitted keys share a client id")
	}
	c.batch, _ = service.(smr.BatchService)
	if len(cfg.Skips) > 0 {
		c.skips = make(map[Skip]bool)
		for _, s := range cfg.Skips {
			c.skips[s] = true
		}
	}
	c.work.done = c.batchResult
	return c, nil
}

// Executed returns the sequence number of the newest applied batch.
func (c *Core) Executed() smr.SeqNo { return c.executed }

// Chain returns the chain digest of the newest applied batch.
func (c *Core) Chain() smr.Digest { return c.chain }

// Time returns the agreed time of the newest applied batch, in nanoseconds since the Unix epoch.
func (c *Core) Time() int64 { return c.time }

// Epoch returns the epoch of the newest applied batch.
func (c *Core) Epoch() smr.Epoch { return c.epoch }

// Sessions returns the number of live sessions.
func (c *Core) Sessions() int { return len(c.table.sessions) }

// Counts returns what was done so far.
func (c *Core) Counts() Counts { return c.counts }

// Fenced returns why the core refuses to go on, or nil.
func (c *Core) Fenced() error {
	if c.fenced == nil {
		return nil
	}
	return c.fenced
}

// SetMembership states the digest of the membership in force from the next batch on; it is part of
// the root.
func (c *Core) SetMembership(digest smr.Digest) { c.membership = digest }

// Apply executes the batch of d, whose bundles are given in proposal order, and appends the replies
// to out. d must be the successor of the newest applied batch. An error fences the core: what the
// application had done by then stays undefined, and every later call is refused with the same
// error, which wraps ErrFenced.
func (c *Core) Apply(d protocol.Decision, bundles []*smr.Bundle, out *Output) (err error) {
	if c.fenced != nil {
		return c.fenced
	}
	c.begin(d.Seq, out)
	defer func() {
		if p := recover(); p != nil {
			err = c.fence(fmt.Errorf("panic: %v", p), debug.Stack())
		}
		c.work.release()
	}()
	invariant.Check(d.Seq == c.executed+1, "batch %d applied after batch %d", d.Seq, c.executed)
	invariant.Check(len(bundles) == len(d.Refs), "batch %d names %d bundles and comes with %d", d.Seq, len(d.Refs), len(bundles))
	for i, b := range bundles {
		invariant.Check(b.ID == d.Refs[i].ID, "batch %d: bundle %d is %v, not %v", d.Seq, i, b.ID, d.Refs[i].ID)
	}
	if err := c.applyBundles(d, bundles); err != nil {
		return err
	}
	c.executed, c.chain, c.epoch, c.view, c.time = d.Seq, d.Digest, d.Epoch, d.View, d.Time
	c.counts.Batches++
	return nil
}

// fence stops execution for good, naming the op that was being executed.
func (c *Core) fence(cause error, stack []byte) error {
	f := &FencedError{Seq: c.work.seq, Cause: cause, Stack: stack}
	if i := c.work.item; i >= 0 && i < len(c.work.items) {
		it := c.work.items[i]
		b := c.work.runs[it.run].b
		f.Client, f.Session, f.Op = b.Client, b.Session, b.First+smr.OpNumber(it.offset)
	}
	c.fenced = f
	c.work.out.Reset()
	return f
}

func (c *Core) agreedTime(d protocol.Decision) time.Time { return time.Unix(0, d.Time).UTC() }

// note puts a session on the list of those that this Apply changed.
func (c *Core) note(s *session) {
	if s.noted != c.applies {
		s.noted = c.applies
		c.touched = append(c.touched, s)
	}
}

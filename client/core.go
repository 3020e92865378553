package client

import (
	"math/rand/v2"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// CoreConfig is what a Core is made of. Zero limits take their defaults.
type CoreConfig struct {
	Membership *quorum.Membership
	Client     smr.ClientID
	Signer     auth.Signer
	// Rand spreads retransmissions and draws the first query id, so it must not repeat what an
	// earlier Core of this client drew: an old answer would pass for a new one. The Core owns it.
	Rand *rand.Rand
	Limits
	// Resume continues the session of an earlier Core; nil starts without one.
	Resume *SessionState
	// Keep makes every Output that sends new bundles carry the state to store first.
	Keep bool
}

// Limits bounds a client. Zero fields take the defaults.
type Limits struct {
	// MaxInFlightBundles is how many signed bundles may be unanswered before further ops gather.
	// More of them shorten the wait of an op behind others, fewer make larger bundles: a bundle
	// costs every replica a signature check whatever its size. Two keep the cluster ordering one
	// while the next travels. Default 2.
	MaxInFlightBundles int
	// MaxOpBytes bounds one op; default and at most smr.MaxOpBytes.
	MaxOpBytes int
	// MaxBundleOps bounds the ops of a bundle; default and at most smr.MaxBundleOps.
	MaxBundleOps int
	// Window bounds the unanswered ops of a session; default and at most smr.SessionWindow.
	Window int
	// RetryTimeout is when a bundle is sent again at the earliest; it grows with the measured
	// round trip and doubles up to MaxRetryTimeout. Defaults 500 ms and 10 s.
	RetryTimeout, MaxRetryTimeout time.Duration
	// QueryTimeout is when an unordered call turns to an ordered one. Default 1 s.
	QueryTimeout time.Duration
}

func pick[T int | time.Duration](v, def, most T) T {
	if v <= 0 {
		return def
	}
	return min(v, most)
}

func (l Limits) withDefaults() Limits {
	l.MaxInFlightBundles = pick(l.MaxInFlightBundles, 2, 64)
	l.MaxOpBytes = pick(l.MaxOpBytes, smr.MaxOpBytes, smr.MaxOpBytes)
	l.MaxBundleOps = pick(l.MaxBundleOps, smr.MaxBundleOps, smr.MaxBundleOps)
	l.Window = pick(l.Window, smr.SessionWindow, smr.SessionWindow)
	l.RetryTimeout = pick(l.RetryTimeout, 500*time.Millisecond, time.Hour)
	l.MaxRetryTimeout = max(l.RetryTimeout, pick(l.MaxRetryTimeout, 10*time.Second, time.Hour))
	l.QueryTimeout = pick(l.QueryTimeout, time.Second, time.Hour)
	return l
}

// Core is the client's logic: sessions, bundles, tallies, retransmission. One caller at a time. It
// takes the time and what arrived and appends to an Output what must happen; it keeps no reference
// to an Output. After any run of inputs the caller calls Flush, which signs and sends what waits,
// does what the Output says, and calls Expire once Next has passed.
//
// Invariants: an op number is signed with one content only; Acked of a bundle never exceeds the
// lowest op without a result; a call ends at most once unless it is retried.
type Core struct {
	cfg       CoreConfig
	m         *quorum.Membership
	trust     int // distinct replicas among which one is correct (crash: one)
	replies   int // equal ordered replies that make a result
	state     SessionState
	current   *session   // takes new ops; nil while none is open
	retired   []*session // take no new ops, still have unanswered ones
	opening   *flight    // the open in flight
	flights   []*flight  // unanswered bundles, oldest first, opening included
	queue     callQueue
	queries   map[uint64]*Call
	waiting   []deadline // of queries, soonest first; answered ones are passed over
	lastQuery uint64
	lead      int           // voter taken for the primary
	spray     int           // crash mode: bundles still sent to all after a late one
	turned    time.Time     // when lead was last moved
	rtt       time.Duration // smoothed
	seen      smr.SeqNo     // highest sequence number a correct replica attested
	refusals  int           // stale nonces in a row
	stopped   error         // why no more is taken
	stats     Stats
}

// Call is one op on its way. The zero value is ready; the caller owns the memory and must leave it
// alone until the call ended. Tag is the caller's.
type Call struct {
	Tag any

	data    []byte
	phase   phase
	session *session
	number  smr.OpNumber
	flight  *flight
	votes   []vote
	first   [4]vote // votes' first backing
	query   *query
}

type phase uint8

const (
	phaseNew     phase = iota
	phaseQuery         // asked unordered
	phaseQueued        // not signed yet
	phaseSigned        // signed and sent
	phaseGivenUp       // signed, refused by replicas one of which is correct; not sent again
	phaseEnded
)

// Signed reports whether an ordered request of the call ever left.
func (c *Call) Signed() bool { return c.session != nil }

// Op returns the session and number the call was signed under; zero before.
func (c *Call) Op() (smr.SessionID, smr.OpNumber) {
	if c.session == nil {
		return 0, 0
	}
	return c.session.id, c.number
}

// Frame is one message to a replica. Payload may be shared with other frames: do not change it.
type Frame struct {
	To      smr.NodeID
	Class   wire.Class
	Kind    uint8
	Payload []byte
}

// Completion is the end of a call. Data aliases the frame it came in.
type Completion struct {
	Call    *Call
	Data    []byte
	Err     error // nil, or wraps ErrNotExecuted or ErrUnknown
	Ordered bool
	// Seq is where the op was executed, or what the answer of a query reflects at least; zero if
	// the replicas did not agree on it.
	Seq smr.SeqNo
	// Version is the version of a linearizable query's answer.
	Version smr.SeqNo
}

// Output collects what must happen, in this order: store Save, send the frames, end the calls.
type Output struct {
	Save *SessionState // newest; nil for no change
	Send []Frame
	Done []Completion
}

// Reset empties o and keeps its memory.
func (o *Output) Reset() {
	clear(o.Send)
	clear(o.Done)
	o.Save, o.Send, o.Done = nil, o.Send[:0], o.Done[:0]
}

// NewCore returns a Core. With cfg.Resume the first Flush sends the bundles that were unanswered;
// see Recovered.
func NewCore(cfg CoreConfig) *Core {
	cfg.Limits = cfg.Limits.withDefaults()
	c := &Core{cfg: cfg, m: cfg.Membership, queries: map[uint64]*Call{}}
	c.trust, c.replies = c.m.Weak(), c.m.Quorum()
	if c.m.Model() == quorum.Crash {
		c.trust, c.replies, c.spray = 1, 1, sprayBundles
	}
	c.lead, _ = c.m.Index(c.m.Primary(0))
	c.lastQuery = cfg.Rand.Uint64()
	c.state = SessionState{Cluster: c.m.Cluster(), Client: cfg.Client}
	if cfg.Resume != nil {
		c.resume(*cfg.Resume)
	}
	return c
}

// Submit queues an ordered op; op is kept until it is signed. An op that is too large is refused
// with a *LimitError. The same call goes through Submit once.
func (c *Core) Submit(call *Call, op []byte) error {
	if err := c.admit(op); err != nil {
		return err
	}
	call.data = op
	c.enqueue(call)
	return nil
}

func (c *Core) admit(op []byte) error {
	if c.stopped != nil {
		return &fateError{ErrNotExecuted, c.stopped}
	}
	if len(op) > c.cfg.MaxOpBytes {
		return &LimitError{Name: "op bytes", Value: len(op), Limit: c.cfg.MaxOpBytes}
	}
	return nil
}

func (c *Core) enqueue(call *Call) {
	call.phase = phaseQueued
	call.votes = call.first[:0]
	c.queue.push(call)
	c.stats.Ops++
}

// Cancel withdraws a call that nothing signed has left for; it ends with cause as not executed. It
// reports false if the call was signed (it goes on, and may still end) or has ended.
func (c *Core) Cancel(call *Call, cause error, out *Output) bool {
	switch call.phase {
	case phaseQueued:
		c.queue.cancelled(call)
	case phaseQuery:
		delete(c.queries, call.query.id)
	default:
		return false
	}
	c.end(out, Completion{Call: call, Err: &fateError{ErrNotExecuted, cause}})
	return true
}

// Retry sends again, under the same op number, an op that was given up on advice. Of a call in any
// other phase it changes nothing: it is still being sent, or has ended.
func (c *Core) Retry(now time.Time, call *Call, out *Output) {
	if call.phase == phaseGivenUp && c.stopped == nil {
		call.session.waits++
		if c.session(call.session.id) == nil {
			c.retired = append(c.retired, call.session)
		}
		f := c.sign(call.session, []*Call{call}, call.number)
		c.launch(now, f, out)
	}
}

// Next returns when Expire is due; zero for never.
func (c *Core) Next() time.Time {
	var next time.Time
	for _, f := range c.flights {
		if !f.sent.IsZero() && (next.IsZero() || f.deadline.Before(next)) {
			next = f.deadline
		}
	}
	for len(c.waiting) > 0 && c.queries[c.waiting[0].query] == nil {
		c.waiting = c.waiting[1:]
	}
	if len(c.waiting) > 0 {
		if d := c.waiting[0].at; next.IsZero() || d.Before(next) {
			next = d
		}
	}
	return next
}

// Expire sends again what is late and turns late queries into ordered ops.
func (c *Core) Expire(now time.Time, out *Output) {
	for _, f := range c.flights {
		if !f.sent.IsZero() && !f.deadline.After(now) {
			c.resend(now, f, out)
		}
	}
	for len(c.waiting) > 0 {
		if call := c.queries[c.waiting[0].query]; call != nil {
			if c.waiting[0].at.After(now) {
				break
			}
			c.fallBack(call)
		}
		c.waiting = c.waiting[1:]
	}
}

// deadline is when a query falls back.
type deadline struct {
	query uint64
	at    time.Time
}

// Stop ends every call that has not ended, as unknown if it was signed, else as not executed, with
// cause. The Core takes no more. What is in the last Save can be resumed.
func (c *Core) Stop(cause error, out *Output) {
	c.stopped = cause
	for {
		call := c.queue.pop()
		if call == nil {
			break
		}
		c.end(out, Completion{Call: call, Err: &fateError{ErrNotExecuted, cause}})
	}
	for _, w := range c.waiting {
		if call := c.queries[w.query]; call != nil {
			c.end(out, Completion{Call: call, Err: &fateError{ErrNotExecuted, cause}})
		}
	}
	for _, s := range append([]*session{c.current}, c.retired...) {
		if s == nil {
			continue
		}
		for _, call := range s.calls {
			if call != nil && call.phase == phaseSigned {
				c.end(out, Completion{Call: call, Err: &fateError{ErrUnknown, cause}})
			}
		}
	}
	c.flights, c.opening, c.waiting, c.queries = nil, nil, nil, nil
}

// end ends a call.
func (c *Core) end(out *Output, d Completion) {
	d.Call.phase = phaseEnded
	d.Call.data, d.Call.flight, d.Call.query = nil, nil, nil
	c.report(out, d)
}

// report tells the caller about a call.
func (c *Core) report(out *Output, d Completion) {
	c.stats.count(d.Err)
	if d.Err == nil && d.Seq > c.seen {
		c.seen = d.Seq
	}
	out.Done = append(out.Done, d)
}

// callQueue is a first-in first-out queue that skips what was cancelled.
type callQueue struct {
	calls []*Call
	head  int
	live  int
}

func (q *callQueue) push(c *Call) {
	if q.head > 0 && q.head == len(q.calls) {
		q.calls, q.head = q.calls[:0], 0
	}
	q.calls = append(q.calls, c)
	q.live++
}

func (q *callQueue) cancelled(*Call) { q.live-- }

// peek returns the oldest call that waits, or nil.
func (q *callQueue) peek() *Call {
	for q.head < len(q.calls) {
		if c := q.calls[q.head]; c.phase == phaseQueued {
			return c
		}
		q.calls[q.head] = nil
		q.head++
	}
	return nil
}

func (q *callQueue) pop() *Call {
	c := q.peek()
	if c != nil {
		q.calls[q.head] = nil
		q.head++
		q.live--
	}
	return c
}

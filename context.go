package smr

import (
	"math/rand/v2"
	"time"
)

// Context is what an ordered request sees of the world. All of it is agreed: equal on every
// replica for the same request. It is valid during the call only.
type Context struct {
	Seq     SeqNo     // sequence number of the batch
	Index   int       // position of the request among the executed requests of its batch
	Time    time.Time // agreed time of the batch, UTC, never decreasing
	Client  ClientID
	Session SessionID
	Op      OpNumber

	fence error
	rng   *rand.Rand
}

// Rand returns a random source seeded by the agreed position of the request: it draws the same
// numbers on every replica. It is not secret: do not draw keys from it.
func (c *Context) Rand() *rand.Rand {
	if c.rng == nil {
		c.rng = rand.New(rand.NewPCG(uint64(c.Seq), uint64(c.Index)<<32|uint64(c.Op)&(1<<32-1)))
	}
	return c.rng
}

// Fence reports a local fault: this replica stops executing and serving, says why, and waits for
// the operator. It never stands for a failure of the business.
func (c *Context) Fence(err error) {
	if c.fence == nil {
		c.fence = err
	}
}

// Fenced returns the first error passed to Fence, or nil. The framework reads it after the call.
func (c *Context) Fenced() error { return c.fence }

// Reset makes c ready for another request, so that the executor need not allocate one an op.
func (c *Context) Reset() { *c = Context{} }

// QueryContext is what an unordered request sees.
type QueryContext struct {
	Seq    SeqNo // the state reflects every batch up to and including it
	Client ClientID

	version SeqNo
}

// NewQueryContext returns a context for a query on the state after seq. Until SetVersion is called
// the answer's version is seq.
func NewQueryContext(seq SeqNo, client ClientID) *QueryContext {
	return &QueryContext{Seq: seq, Client: client, version: seq}
}

// SetVersion states the sequence number of the last write to anything the answer depends on (0 if
// nothing was ever written). Replicas at different heights then agree on (value, version) as long
// as what was read did not change between them, so that unordered reads succeed under write load.
// A version that misses a write the answer depends on makes reads non-linearizable; when in doubt
// do not call it.
func (q *QueryContext) SetVersion(v SeqNo) { q.version = v }

// Version returns what SetVersion stated, else Seq.
func (q *QueryContext) Version() SeqNo { return q.version }

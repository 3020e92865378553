// Package requests takes in what clients and replicas send to be ordered: it decodes, checks
// signatures in batches across clients, drops what the session table has already, bounds what each
// client may have outstanding, and asks the application's Validate.
//
// All of it filters this replica's own pool and nothing else: a bundle refused here may still be
// proposed by another replica and is then valid (design: validity of a proposal). So bundles that
// come from replicas, forwarded or fetched, are checked for their signature only.
//
// [Core] is the logic of one partition, without goroutines; a session's bundles all go to one
// partition. [Pool] is the shell with the verification and partition workers.
package requests

import (
	"fmt"
	"time"

	"github.com/atlas-smr/smr"
)

// Limits bound what one client may have outstanding at this replica, and for how long.
type Limits struct {
	ClientBundles int           // bundles of one client
	ClientBytes   int           // their encoded bytes
	Expiry        time.Duration // a bundle not decided by then is forgotten; its client may send it again
	Resend        time.Duration // a copy that comes later than this is passed on again
}

// DefaultLimits returns the limits of a replica that was given none.
func DefaultLimits() Limits {
	return Limits{ClientBundles: 1024, ClientBytes: 16 << 20, Expiry: time.Minute, Resend: 2 * time.Second}
}

// Sessions is what request workers know of the replicated session table: advice, perhaps a batch
// old. It must be safe for use from every worker.
type Sessions interface {
	// Admitted reports whether key is the admitted key of client.
	Admitted(client smr.ClientID, key smr.PublicKey) bool
	// Seen reports whether every op of b was consumed.
	Seen(b *smr.Bundle) bool
}

// VerdictKind says what becomes of an offered bundle.
type VerdictKind uint8

// The verdicts.
const (
	Accept    VerdictKind = 1 // to the engine
	Duplicate VerdictKind = 2 // known and on its way: nothing to do
	Executed  VerdictKind = 3 // consumed already: answer from the cached replies
	Busy      VerdictKind = 4 // a bound is full: Text names it
	Rejected  VerdictKind = 5 // this replica will not propose it: Text says why
	NoKey     VerdictKind = 6 // the client's key is not admitted
)

// Verdict is the answer to Offer.
type Verdict struct {
	Kind VerdictKind
	Text string
}

// Core decides about the bundles of one partition. It belongs to one goroutine; the Ledger is
// shared by the partitions of a replica.
type Core struct {
	limits   Limits
	sessions Sessions
	ledger   *Ledger
	validate func(op []byte) error
	pending  map[smr.BundleID]pending
	queue    []queued // pending and gone ones, oldest first; queue[head:]
	head     int
}

type pending struct {
	client smr.ClientID
	bytes  int
	since  time.Time
	passed time.Time // last passed on to the engine
}

type queued struct {
	id    smr.BundleID
	since time.Time
}

// NewCore returns the logic of one partition. validate may be nil.
func NewCore(limits Limits, sessions Sessions, ledger *Ledger, validate func(op []byte) error) *Core {
	return &Core{limits: limits, sessions: sessions, ledger: ledger, validate: validate, pending: make(map[smr.BundleID]pending)}
}

// Offer decides about a bundle whose signature is valid and which came from its own client.
func (c *Core) Offer(now time.Time, b *smr.Bundle) Verdict {
	c.expire(now)
	if !c.sessions.Admitted(b.Client, b.Key) {
		return Verdict{Kind: NoKey}
	}
	if p, ok := c.pending[b.ID]; ok {
		if now.Sub(p.passed) < c.limits.Resend {
			return Verdict{Kind: Duplicate}
		}
		if !c.sessions.Seen(b) {
			p.passed = now
			c.pending[b.ID] = p
			return Verdict{Kind: Accept}
		}
		c.forget(b.ID)
	}
	if c.sessions.Seen(b) {
		return Verdict{Kind: Executed}
	}
	if text := c.check(b); text != "" {
		return Verdict{Kind: Rejected, Text: text}
	}
	return c.admit(now, b)
}

// Reorder decides about a bundle that was consumed but whose replies are gone: ordering it again
// yields outcomes that all replicas agree on.
func (c *Core) Reorder(now time.Time, b *smr.Bundle) Verdict {
	if _, ok := c.pending[b.ID]; ok {
		return Verdict{Kind: Duplicate}
	}
	return c.admit(now, b)
}

// admit books a new bundle.
func (c *Core) admit(now time.Time, b *smr.Bundle) Verdict {
	if limit := c.ledger.take(b.Client, len(b.Raw), c.limits); limit != "" {
		return Verdict{Kind: Busy, Text: limit}
	}
	c.pending[b.ID] = pending{client: b.Client, bytes: len(b.Raw), since: now, passed: now}
	c.queue = append(c.queue, queued{b.ID, now})
	return Verdict{Kind: Accept}
}

// check asks the application about every op and returns why one is refused, or "".
func (c *Core) check(b *smr.Bundle) (text string) {
	if c.validate == nil {
		return ""
	}
	at := 0
	defer func() {
		if p := recover(); p != nil {
			text = fmt.Sprintf("op %d: the application's check panicked", b.First+smr.OpNumber(at))
		}
	}()
	for i, op := range b.Ops {
		at = i
		if err := c.validate(op); err != nil {
			s := err.Error()
			return fmt.Sprintf("op %d: %s", b.First+smr.OpNumber(i), s[:min(len(s), 256)])
		}
	}
	return ""
}

// Decided says that these bundles were decided: they count no longer.
func (c *Core) Decided(ids []smr.BundleID) {
	for _, id := range ids {
		c.forget(id)
	}
	c.compact()
}

// compact drops gone bundles from the queue once they are most of it: one that waits at its head
// must not keep all that were decided meanwhile.
func (c *Core) compact() {
	if len(c.queue)-c.head <= 2*len(c.pending)+goneBundles {
		return
	}
	kept := c.queue[:0]
	for _, q := range c.queue[c.head:] {
		if p, ok := c.pending[q.id]; ok && p.since.Equal(q.since) {
			kept = append(kept, q)
		}
	}
	c.queue, c.head = kept, 0
}

// Stopped says that the engine gave these bundles up without a decision. Their clients may send
// them again, to be taken as new.
func (c *Core) Stopped(ids []smr.BundleID) { c.Decided(ids) }

// Released says that a view change dropped the proposals that named these bundles. They stay
// outstanding; a copy from the client is passed on at once.
func (c *Core) Released(ids []smr.BundleID) {
	for _, id := range ids {
		if p, ok := c.pending[id]; ok {
			p.passed = time.Time{}
			c.pending[id] = p
		}
	}
}

// Outstanding returns the number of bundles that count.
func (c *Core) Outstanding() int { return len(c.pending) }

// goneBundles is how many gone bundles may stay queued, beside as many as count.
const goneBundles = 1024

// Overfull names the table that is beyond its bound, with its size, or returns the empty string: it
// must always.
func (c *Core) Overfull() string {
	if n, most := len(c.queue)-c.head, 2*len(c.pending)+goneBundles+1; n > most {
		return fmt.Sprintf("requests: %d queued of %d, %d outstanding", n, most, len(c.pending))
	}
	return ""
}

func (c *Core) forget(id smr.BundleID) {
	if p, ok := c.pending[id]; ok {
		delete(c.pending, id)
		c.ledger.give(p.client, p.bytes)
	}
}

// expire forgets bundles that were not decided in time, such as those whose ops another bundle
// carried, or which the engine dropped.
func (c *Core) expire(now time.Time) {
	for c.head < len(c.queue) {
		q := c.queue[c.head]
		p, ok := c.pending[q.id]
		current := ok && p.since.Equal(q.since)
		if current && now.Sub(q.since) < c.limits.Expiry {
			break
		}
		if current {
			c.forget(q.id)
		}
		c.head++
	}
	if c.head*2 >= len(c.queue) {
		n := copy(c.queue, c.queue[c.head:])
		c.queue, c.head = c.queue[:n], 0
	}
	c.compact()
}

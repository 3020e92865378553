package client

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// sprayBundles is for how many bundles after a late one crash mode sends to all replicas: until the
// first to answer shows who leads.
const sprayBundles = 8

// transmit sends a flight for the first time: to all replicas, the one taken for the primary last,
// so that the others hold the bundle when its proposal comes; in crash mode to the leader.
func (c *Core) transmit(now time.Time, f *flight, out *Output) {
	if f.payload == nil {
		f.payload = wire.EncodeBundles([]*smr.Bundle{f.bundle})
	}
	f.sent = now
	f.deadline = now.Add(c.jitter(c.patience()))
	if c.m.Model() == quorum.Crash && c.spray == 0 {
		c.sendTo(c.lead, f, out)
		return
	}
	if c.spray > 0 {
		c.spray--
	}
	c.sendAll(f, out)
}

func (c *Core) sendAll(f *flight, out *Output) {
	n := c.m.N()
	for i := 1; i <= n; i++ {
		c.sendTo((c.lead+i)%n, f, out)
	}
}

func (c *Core) sendTo(voter int, f *flight, out *Output) {
	out.Send = append(out.Send, Frame{To: c.m.Voter(voter).ID, Class: wire.ClassOrderedRequest, Kind: wire.KindOnly, Payload: f.payload})
}

// Connected sends to a replica, whose connection was made anew, what waits for an answer: what was
// sent before may be lost.
func (c *Core) Connected(replica smr.NodeID, out *Output) {
	voter, ok := c.m.Index(replica)
	if !ok || c.stopped != nil {
		return
	}
	for _, f := range c.flights {
		if !f.sent.IsZero() {
			c.sendTo(voter, f, out)
		}
	}
	for _, w := range c.waiting {
		if call := c.queries[w.query]; call != nil && !voted(call.votes, voter) {
			out.Send = append(out.Send, Frame{To: replica, Class: wire.ClassUnorderedRequest, Kind: wire.KindOnly, Payload: askPayload(call)})
		}
	}
}

// resend sends the same bytes to all and backs off.
func (c *Core) resend(now time.Time, f *flight, out *Output) {
	c.stats.Resends++
	f.attempt++
	f.busy, f.refused = quorum.Set{}, quorum.Set{}
	wait := c.cfg.MaxRetryTimeout
	if f.attempt < 16 {
		wait = min(wait, c.patience()<<f.attempt)
	}
	f.deadline = now.Add(c.jitter(wait))
	// Whom we took for the primary let this flight wait: try the next, once per round of flights.
	if f.sent.After(c.turned) || c.turned.IsZero() {
		c.lead = (c.lead + 1) % c.m.N()
		c.turned = now
	}
	c.spray = sprayBundles
	if mutant.On(mutant.NoRetry) {
		return
	}
	c.sendAll(f, out)
}

// patience is how long a first answer may take.
func (c *Core) patience() time.Duration {
	return min(max(c.cfg.RetryTimeout, 4*c.rtt), c.cfg.MaxRetryTimeout)
}

// jitter spreads d over [d, 1.5 d).
func (c *Core) jitter(d time.Duration) time.Duration {
	return d + time.Duration(c.cfg.Rand.Int64N(int64(d/2)+1))
}

// measure takes the round trip of a flight that was sent once.
func (c *Core) measure(now time.Time, f *flight) {
	if f.attempt > 0 {
		return
	}
	d := max(now.Sub(f.sent), 0)
	if c.rtt == 0 {
		c.rtt = d
	} else {
		c.rtt += (d - c.rtt) / 8
	}
}

package client

import (
	"encoding/binary"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// session is one session of this client. Ops base to next-1 are signed; calls[i] is op base+i, nil
// once it has a result.
type session struct {
	id         smr.SessionID
	base, next smr.OpNumber
	calls      []*Call
	waits      int  // calls that are being sent
	gone       bool // a quorum says it is no session of ours
}

func (s *session) call(n smr.OpNumber) *Call {
	if n < s.base || n-s.base >= smr.OpNumber(len(s.calls)) {
		return nil
	}
	return s.calls[n-s.base]
}

// answered marks op n as having a result.
func (s *session) answered(n smr.OpNumber) {
	if s.calls[n-s.base].phase == phaseSigned {
		s.waits--
	}
	s.calls[n-s.base] = nil
	for len(s.calls) > 0 && s.calls[0] == nil {
		s.calls = s.calls[1:]
		s.base++
	}
}

// flight is a signed bundle that is not answered yet.
type flight struct {
	bundle   *smr.Bundle
	payload  []byte
	session  *session // nil for an open
	calls    []*Call  // those of the bundle's ops that wait
	left     int
	attempt  int
	sent     time.Time // first
	deadline time.Time
	votes    []vote // of an open
	busy     quorum.Set
	refused  quorum.Set // rejected or no key, since it was last sent
}

// bundleOverhead bounds what an op costs in a bundle beside its bytes.
const bundleOverhead = 5

// maxBundleOpBytes bounds the ops of a bundle so that its encoding stays within
// smr.MaxBundleBytes.
const maxBundleOpBytes = 1<<20 + bundleOverhead

// Flush numbers, signs and sends what waits, as far as the window and the bundles in flight allow,
// and opens a session if there is none.
func (c *Core) Flush(now time.Time, out *Output) {
	if c.stopped != nil {
		return
	}
	for _, f := range c.flights { // resumed ones were never sent by this Core
		if f.sent.IsZero() {
			c.transmit(now, f, out)
		}
	}
	for c.queue.peek() != nil {
		s := c.current
		if s == nil || s.gone {
			c.open(now, out)
			return
		}
		room := c.cfg.Window - int(s.next-s.base)
		if room <= 0 && s.calls[0].phase == phaseGivenUp {
			c.retire() // the hole at its base will not close: only a new session goes on
			continue
		}
		if room <= 0 || c.inFlight() >= c.cfg.MaxInFlightBundles {
			return
		}
		c.launch(now, c.gather(s, room), out)
	}
}

func (c *Core) inFlight() int {
	n := 0
	for _, f := range c.flights {
		if f.session == c.current {
			n++
		}
	}
	return n
}

// gather makes a bundle of the oldest calls that wait.
func (c *Core) gather(s *session, room int) *flight {
	most := min(room, c.cfg.MaxBundleOps, c.queue.live)
	calls := make([]*Call, 0, most)
	size := 0
	for len(calls) < most {
		call := c.queue.peek()
		if call == nil || len(calls) > 0 && size+len(call.data)+bundleOverhead > maxBundleOpBytes {
			break
		}
		size += len(call.data) + bundleOverhead
		calls = append(calls, c.queue.pop())
	}
	first := s.next
	for i, call := range calls {
		call.session, call.number = s, first+smr.OpNumber(i)
	}
	s.next += smr.OpNumber(len(calls))
	s.waits += len(calls)
	s.calls = append(s.calls, calls...)
	return c.sign(s, calls, first)
}

// sign makes the flight of consecutive calls, whose data becomes an alias of the bundle's.
func (c *Core) sign(s *session, calls []*Call, first smr.OpNumber) *flight {
	ops := make([][]byte, len(calls))
	for i, call := range calls {
		ops[i] = call.data
	}
	b, err := wire.EncodeBundle(c.m.Cluster(), c.cfg.Signer, smr.Bundle{
		Kind: smr.BundleOps, Client: c.cfg.Client, Session: s.id, First: first, Acked: min(s.base, first), Ops: ops,
	})
	invariant.Check(err == nil, "bundle within its limits: %v", err)
	f := &flight{bundle: b, session: s, calls: calls, left: len(calls)}
	for i, call := range calls {
		call.data, call.flight, call.phase = b.Ops[i], f, phaseSigned
	}
	c.stats.Bundles++
	return f
}

// launch sends a new flight for the first time.
func (c *Core) launch(now time.Time, f *flight, out *Output) {
	c.flights = append(c.flights, f)
	c.save(out)
	c.transmit(now, f, out)
}

// open starts the opening of a session unless one is under way.
func (c *Core) open(now time.Time, out *Output) {
	if c.opening != nil {
		return
	}
	c.retire()
	// Two processes of one client that drew the same nonce would share a session, and number
	// different ops alike: what is finer than 16 ms is drawn, not read off a clock.
	const drawn = 1<<24 - 1
	if nonce := uint64(max(now.UnixNano(), 0))&^drawn | (c.cfg.Rand.Uint64()&drawn | 1); nonce > c.state.Nonce {
		c.state.Nonce = nonce
	} else {
		c.state.Nonce++
	}
	c.opening = c.openFlight()
	c.launch(now, c.opening, out)
}

func (c *Core) openFlight() *flight {
	b, err := wire.EncodeBundle(c.m.Cluster(), c.cfg.Signer, smr.Bundle{Kind: smr.BundleOpen, Client: c.cfg.Client, Nonce: c.state.Nonce})
	invariant.Check(err == nil, "open within its limits: %v", err)
	c.stats.Opens++
	return &flight{bundle: b, left: 1}
}

// maxRetired bounds the sessions that only wait for answers.
const maxRetired = 16

// retire makes the current session take no more ops.
func (c *Core) retire() {
	if s := c.current; s != nil {
		c.current, c.state.Session, c.state.Next = nil, 0, 0
		if s.waits > 0 {
			c.retired = append(c.retired, s)
		}
	}
}

// dropRetired forgets retired sessions without waiting calls, and ends as unknown what waits in the
// oldest beyond maxRetired.
func (c *Core) dropRetired(out *Output) {
	kept := c.retired[:0]
	for i, s := range c.retired {
		if s.waits == 0 {
			continue
		}
		if len(c.retired)-i > maxRetired {
			c.lose(s, out)
			continue
		}
		kept = append(kept, s)
	}
	clear(c.retired[len(kept):])
	c.retired = kept
}

// lose ends as unknown all calls of a session that is gone.
func (c *Core) lose(s *session, out *Output) {
	for _, call := range s.calls {
		if call != nil && call.phase == phaseSigned {
			c.end(out, Completion{Call: call, Ordered: true, Err: outcomeOf(smr.OutcomeNoSession)})
		}
	}
	s.waits = 0
	kept := c.flights[:0]
	for _, f := range c.flights {
		if f.session != s {
			kept = append(kept, f)
		}
	}
	clear(c.flights[len(kept):])
	c.flights = kept
}

// opened takes the agreed result of the open in flight.
func (c *Core) opened(outcome smr.Outcome, data []byte, out *Output) {
	c.land(c.opening)
	c.opening = nil
	switch {
	case outcome == smr.OutcomeExecuted:
		c.refusals = 0
		c.retire()
		c.current = &session{id: smr.SessionID(binary.BigEndian.Uint64(data)), base: 1, next: 1}
		c.state.Session, c.state.Next = c.current.id, 1
		return
	case outcome == smr.OutcomeNoSession:
		return // opened, and evicted since: the next Flush opens another
	case outcome == smr.OutcomeStaleNonce && c.refusals < maxNonceSteps:
		// Another process of this client, or an earlier clock, was ahead: step over it.
		c.state.Nonce += uint64(time.Second) << c.refusals
		c.refusals++
		return
	}
	c.refuseQueued(&OutcomeError{Outcome: outcome, fate: ErrNotExecuted}, out)
}

// maxNonceSteps bounds how often a stale nonce is stepped over, by doubling steps from a second.
const maxNonceSteps = 32

// refuseQueued ends what no session could be opened for: nothing of it was signed.
func (c *Core) refuseQueued(err error, out *Output) {
	c.refusals = 0
	for {
		call := c.queue.pop()
		if call == nil {
			return
		}
		c.end(out, Completion{Call: call, Err: err})
	}
}

// land takes a flight off.
func (c *Core) land(f *flight) {
	for i, x := range c.flights {
		if x == f {
			c.flights = append(c.flights[:i], c.flights[i+1:]...)
			return
		}
	}
}

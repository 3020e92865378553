package client

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/wire"
)

// SessionState is what a client must remember to stay exactly-once across its own restart. It is
// stored before the bundles it describes leave, so that after a crash at any moment:
//
//   - every op number that may ever have left the client is below Next, and is used for no other op;
//   - every op that may have left without a result is in Pending, as the very bytes that were signed,
//     but for those whose call ended with an AdviceError.
//
// What was queued and not signed is not in it: it had no effect. A result that arrived after the
// last store is asked for again, and comes from the replicas' reply cache.
type SessionState struct {
	Cluster smr.ClusterID
	Client  smr.ClientID
	Nonce   uint64        // of the newest open, answered or not; zero for none
	Session smr.SessionID // that takes new ops; zero while none is open
	Next    smr.OpNumber  // first unused number in Session
	Pending [][]byte      // unanswered bundles of ops, encoded, oldest first
}

// save puts the state into out if it is kept.
func (c *Core) save(out *Output) {
	if !c.cfg.Keep {
		return
	}
	s := c.state
	if c.current != nil {
		s.Next = c.current.next
	}
	for _, f := range c.flights {
		if f.session != nil {
			s.Pending = append(s.Pending, f.bundle.Raw)
		}
	}
	out.Save = &s
}

// State returns the state as of now. Storing it after Stop keeps what was answered since the last
// Save from being asked for again.
func (c *Core) State() SessionState {
	var out Output
	keep := c.cfg.Keep
	c.cfg.Keep = true
	c.save(&out)
	c.cfg.Keep = keep
	return *out.Save
}

// resume takes over a state. It was checked by DecodeSessionState or comes from a Core.
func (c *Core) resume(s SessionState) {
	c.state = SessionState{Cluster: s.Cluster, Client: s.Client, Nonce: s.Nonce, Session: s.Session, Next: s.Next}
	if s.Session != 0 {
		c.current = &session{id: s.Session, base: s.Next, next: s.Next}
	}
	var bundles []*smr.Bundle
	for _, raw := range s.Pending {
		b, err := wire.DecodeBundle(raw)
		if err == nil && b.Kind == smr.BundleOps && b.Client == c.cfg.Client {
			bundles = append(bundles, b)
		}
	}
	slices.SortStableFunc(bundles, func(a, b *smr.Bundle) int {
		return cmp.Or(cmp.Compare(a.Session, b.Session), cmp.Compare(a.First, b.First))
	})
	for _, b := range bundles {
		c.adopt(b)
	}
	if s.Session == 0 && s.Nonce != 0 {
		// An open may be on its way: an equal nonce finds the session it made, or tells that it is
		// gone.
		c.opening = c.openFlight()
		c.flights = append(c.flights, c.opening)
	}
}

// adopt makes a stored bundle a flight again. Bundles come oldest first, and those of a session with
// rising numbers.
func (c *Core) adopt(b *smr.Bundle) {
	s := c.session(b.Session)
	if s == nil {
		s = &session{id: b.Session, base: b.First, next: b.First}
		c.retired = append(c.retired, s)
	}
	end := b.First + smr.OpNumber(len(b.Ops))
	if len(s.calls) == 0 {
		s.base = b.First
	}
	if b.First < s.base || end-s.base > smr.SessionWindow {
		return
	}
	for s.base+smr.OpNumber(len(s.calls)) < max(end, s.next) {
		s.calls = append(s.calls, nil)
	}
	s.next = max(s.next, end)
	f := &flight{bundle: b, session: s, left: len(b.Ops)}
	for i := range b.Ops {
		n := b.First + smr.OpNumber(i)
		call := &Call{session: s, number: n, flight: f, phase: phaseSigned, data: b.Ops[i]}
		call.votes = call.first[:0]
		s.calls[n-s.base] = call
		f.calls = append(f.calls, call)
	}
	s.waits += len(b.Ops)
	c.flights = append(c.flights, f)
}

// Recovered returns the calls that were unanswered in the state that was resumed, oldest first, with
// their ops, until the first Flush sends them. They end like calls of this Core.
func (c *Core) Recovered() (calls []*Call, ops [][]byte) {
	for _, f := range c.flights {
		if f.sent.IsZero() {
			for _, call := range f.calls {
				calls, ops = append(calls, call), append(ops, call.data)
			}
		}
	}
	return calls, ops
}

// The stored form of a SessionState, all integers big endian:
//
//	"atlas-smr session v1\n"
//	cluster 32 | client 8 | nonce 8 | session 8 | next 8 | bundles 4
//	for each bundle: length 4 | bytes
//	SHA-256 of all the above
const stateMagic = "atlas-smr session v1\n"

const stateHeader = len(stateMagic) + 32 + 8 + 8 + 8 + 8 + 4

// ErrSessionState is wrapped by refusals of a stored session state.
var ErrSessionState = errors.New("bad session state")

// Append appends the stored form of s to dst.
func (s *SessionState) Append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, stateMagic...)
	dst = append(dst, s.Cluster[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Client))
	dst = binary.BigEndian.AppendUint64(dst, s.Nonce)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Session))
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Next))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(s.Pending)))
	for _, b := range s.Pending {
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(b)))
		dst = append(dst, b...)
	}
	sum := sha256.Sum256(dst[start:])
	return append(dst, sum[:]...)
}

// DecodeSessionState reads a stored state; the result aliases b. Errors wrap ErrSessionState.
func DecodeSessionState(b []byte) (*SessionState, error) {
	if len(b) < stateHeader+sha256.Size || string(b[:len(stateMagic)]) != stateMagic {
		return nil, fmt.Errorf("%w: not a session file", ErrSessionState)
	}
	body, sum := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if got := sha256.Sum256(body); string(got[:]) != string(sum) {
		return nil, fmt.Errorf("%w: damaged (checksum)", ErrSessionState)
	}
	s := &SessionState{}
	rest := body[len(stateMagic):]
	rest = rest[copy(s.Cluster[:], rest):]
	u64 := func() uint64 { v := binary.BigEndian.Uint64(rest); rest = rest[8:]; return v }
	s.Client, s.Nonce, s.Session, s.Next = smr.ClientID(u64()), u64(), smr.SessionID(u64()), smr.OpNumber(u64())
	n := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	for range n {
		if len(rest) < 4 || uint64(binary.BigEndian.Uint32(rest)) > uint64(len(rest)-4) {
			return nil, fmt.Errorf("%w: truncated", ErrSessionState)
		}
		size := binary.BigEndian.Uint32(rest)
		raw := rest[4 : 4+size : 4+size]
		if _, err := wire.DecodeBundle(raw); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrSessionState, err)
		}
		s.Pending = append(s.Pending, raw)
		rest = rest[4+size:]
	}
	if len(rest) != 0 || s.Client == 0 || s.Session != 0 && s.Next == 0 {
		return nil, fmt.Errorf("%w: inconsistent", ErrSessionState)
	}
	return s, nil
}

// Stats counts what a Core did.
type Stats struct {
	Ops, Queries, Fallbacks        uint64 // queued ops (fallbacks included), queries, queries turned ordered
	Bundles, Opens, Resends        uint64 // signed bundles of ops, signed opens, sendings beyond the first
	Executed, NotExecuted, Unknown uint64 // ends of calls
	Busy, Rejected, BeyondWindow   uint64 // advice and non-results received
	DropsStranger, DropsLate       uint64 // frames of non-members; answers nobody waits for
	DropsMalformed, DropsInbox     uint64 // what no correct replica sends; what the shell had no room for
}

func (s *Stats) count(err error) {
	switch {
	case err == nil:
		s.Executed++
	case errors.Is(err, ErrNotExecuted):
		s.NotExecuted++
	default:
		s.Unknown++
	}
}

// Status is a Core at a moment.
type Status struct {
	Stats
	Session   smr.SessionID // zero while none is open
	Queued    int           // ops that wait to be signed
	InFlight  int           // unanswered bundles, opens included
	Unordered int           // queries without an answer
	RoundTrip time.Duration // smoothed, of bundles answered without a second sending
	Seen      smr.SeqNo     // highest sequence number that a correct replica attested
	Primary   smr.NodeID    // whom bundles are sent to last (crash mode: to alone)
}

// Status returns the Core's status.
func (c *Core) Status() Status {
	s := Status{
		Stats: c.stats, Queued: c.queue.live, InFlight: len(c.flights), Unordered: len(c.queries),
		RoundTrip: c.rtt, Seen: c.seen, Primary: c.m.Voter(c.lead).ID,
	}
	if c.current != nil {
		s.Session = c.current.id
	}
	return s
}

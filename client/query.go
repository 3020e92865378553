package client

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/wire"
)

// Level is how fresh the answer of an unordered call must be. The zero value is Linearizable.
type Level struct {
	weak bool
	lag  bool
	seq  smr.SeqNo
}

// Linearizable answers reflect every ordered call that ended before the query began, and every
// linearizable query that did: a quorum of replicas agrees on value and version. (Berger, Reiser,
// Bessani, "Making Reads in BFT State Machine Replication Fast, Linearizable, and Live", SRDS 2021:
// agreement on the value alone fails when a value comes back.)
func Linearizable() Level { return Level{} }

// AtLeast answers come from a state that reflects everything up to seq, and are vouched for by at
// least one correct replica. Unlike Linearizable ones they may go back in time from call to call.
func AtLeast(seq smr.SeqNo) Level { return Level{weak: true, seq: seq} }

// Stale answers come from a state at most maxLag sequence numbers behind the newest one that this
// client has seen attested by a correct replica, in any earlier answer of its own.
func Stale(maxLag uint64) Level { return Level{weak: true, lag: true, seq: smr.SeqNo(maxLag)} }

// query is a call while it is asked unordered.
type query struct {
	id      uint64
	need    int // equal answers
	weak    bool
	atLeast smr.SeqNo // weak levels: state the answer must reflect
}

// Query sends an unordered call to all replicas at once. If they do not agree, or not in time, it
// becomes an ordered op: the application then sees an ordered Execute of the same request. op is
// kept until the call ends. An op that is too large is refused with a *LimitError.
func (c *Core) Query(now time.Time, call *Call, op []byte, level Level, out *Output) error {
	if err := c.admit(op); err != nil {
		return err
	}
	c.lastQuery++
	q := &query{id: c.lastQuery, need: c.m.Quorum()}
	if mutant.On(mutant.WeakReads) {
		q.need = c.m.Weak()
	}
	if level.weak {
		q.need, q.weak, q.atLeast = c.trust, true, level.seq
		if level.lag {
			q.atLeast = c.seen - min(c.seen, level.seq)
		}
	}
	call.data, call.query, call.phase, call.votes = op, q, phaseQuery, call.first[:0]
	c.queries[q.id] = call
	c.waiting = append(c.waiting, deadline{q.id, now.Add(c.cfg.QueryTimeout)})
	c.stats.Queries++
	payload := askPayload(call)
	for i := range c.m.N() {
		out.Send = append(out.Send, Frame{To: c.m.Voter(i).ID, Class: wire.ClassUnorderedRequest, Kind: wire.KindOnly, Payload: payload})
	}
	return nil
}

func askPayload(call *Call) []byte {
	m := wirepb.UnorderedRequest{Id: call.query.id, Op: call.data, AtLeast: uint64(call.query.atLeast)}
	payload, err := m.MarshalVT()
	invariant.Check(err == nil, "a query always encodes: %v", err)
	return payload
}

func (c *Core) unorderedReply(_ time.Time, voter int, payload []byte, out *Output) error {
	var r wirepb.UnorderedReply
	if err := r.UnmarshalVTUnsafe(payload); err != nil || len(r.Data) > smr.MaxReplyBytes || r.Code > 255 {
		return errReply
	}
	call := c.queries[r.Id]
	if mutant.On(mutant.StaleReply) {
		call = c.queries[c.lastQuery]
	}
	if call == nil {
		c.stats.DropsLate++
		return nil
	}
	q := call.query
	code, executed := wire.QueryCode(r.Code), smr.SeqNo(r.Executed)
	if code == wire.QueryOK && (smr.SeqNo(r.Version) > executed || executed < q.atLeast) {
		code = wire.QueryNotReady // not what a correct replica answers; at best it is behind
	}
	val := valueOf(uint8(code), nil, 0)
	if code == wire.QueryOK {
		version := smr.SeqNo(r.Version)
		if q.weak {
			version = 0 // one correct replica's word is enough: when it was written does not matter
		}
		val = valueOf(uint8(code), r.Data, version)
	}
	call.votes = record(call.votes, vote{voter: int32(voter), value: val, seq: executed})
	n := equal(call.votes, val)
	switch {
	case code == wire.QueryOK && n >= q.need:
		delete(c.queries, q.id)
		c.seen = max(c.seen, kthHighest(call.votes, c.trust))
		c.end(out, Completion{Call: call, Data: r.Data, Seq: lowest(call.votes, val), Version: val.version})
	case code == wire.QueryMalformed && n >= c.trust:
		delete(c.queries, q.id)
		c.end(out, Completion{Call: call, Err: &OutcomeError{Outcome: smr.OutcomeMalformed, fate: ErrNotExecuted}})
	case code == wire.QueryTooLarge && n >= c.trust:
		delete(c.queries, q.id)
		c.end(out, Completion{Call: call, Err: &OutcomeError{Outcome: smr.OutcomeTooLarge, fate: ErrNotExecuted}})
	case !c.possible(call.votes, q.need):
		c.fallBack(call)
	}
	return nil
}

// possible reports whether the replicas that have not answered can still make need equal answers.
func (c *Core) possible(votes []vote, need int) bool {
	best := 0
	for i := range votes {
		if votes[i].value.code == uint8(wire.QueryOK) {
			best = max(best, equal(votes, votes[i].value))
		}
	}
	return best+c.m.N()-len(votes) >= need
}

// lowest returns the lowest sequence number that a voter of val claims: with f+1 voters at least one
// is correct, and the answer reflects the state it names or an equal one.
func lowest(votes []vote, val value) smr.SeqNo {
	var low smr.SeqNo
	found := false
	for i := range votes {
		if votes[i].value == val && (!found || votes[i].seq < low) {
			low, found = votes[i].seq, true
		}
	}
	return low
}

// fallBack turns a query into an ordered op.
func (c *Core) fallBack(call *Call) {
	delete(c.queries, call.query.id)
	call.query = nil
	c.stats.Fallbacks++
	c.enqueue(call)
}

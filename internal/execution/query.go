package execution

import (
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/wire"
)

// SetReadGate says from which sequence number on unordered requests may be answered: every write
// acknowledged before this replica started, or took over a state, lies at or below it. While open
// is false nothing is answered: the number is not known yet, or this replica must not speak now. A
// new Core is closed.
func (c *Core) SetReadGate(seq smr.SeqNo, open bool) { c.gate, c.gateOpen = seq, open }

// Query answers an unordered request of client from the current state. It never fails: what stands
// against an answer is its code. A panic of the application in Query is answered and counted but
// does not fence: Query changes no state.
func (c *Core) Query(client smr.ClientID, req *wirepb.UnorderedRequest) *wirepb.UnorderedReply {
	rep := &wirepb.UnorderedReply{Id: req.Id, Executed: uint64(c.executed)}
	refuse := func(code wire.QueryCode, text string) *wirepb.UnorderedReply {
		rep.Code, rep.Text = uint32(code), text
		return rep
	}
	switch {
	case c.fenced != nil:
		return refuse(wire.QueryNotReady, "this replica's execution is fenced")
	case !c.gateOpen:
		return refuse(wire.QueryNotReady, "this replica does not know yet what it may have missed")
	case c.executed < c.gate:
		return refuse(wire.QueryNotReady, fmt.Sprintf("executed %d, must reach %d first", c.executed, c.gate))
	case uint64(c.executed) < req.AtLeast:
		return refuse(wire.QueryNotReady, fmt.Sprintf("executed %d, asked for %d", c.executed, req.AtLeast))
	case len(req.Op) > smr.MaxOpBytes:
		return refuse(wire.QueryMalformed, fmt.Sprintf("op of %d bytes, at most %d", len(req.Op), smr.MaxOpBytes))
	}
	c.counts.Queries++
	ctx := smr.NewQueryContext(c.executed, client)
	data, err := c.query(ctx, req.Op)
	switch {
	case errors.Is(err, smr.ErrMalformed):
		return refuse(wire.QueryMalformed, clip(err.Error()))
	case err != nil:
		return refuse(wire.QueryNotReady, clip(err.Error()))
	case len(data) > smr.MaxReplyBytes:
		return refuse(wire.QueryTooLarge, fmt.Sprintf("reply of %d bytes, at most %d", len(data), smr.MaxReplyBytes))
	}
	rep.Code, rep.Data, rep.Version = uint32(wire.QueryOK), data, uint64(ctx.Version())
	return rep
}

func (c *Core) query(ctx *smr.QueryContext, op []byte) (data []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.counts.QueryPanics++
			err = fmt.Errorf("panic in query: %v", p)
		}
	}()
	return c.service.Query(ctx, op, nil)
}

// clip bounds a text that goes to a client.
func clip(s string) string { return s[:min(len(s), 256)] }

// Seen reports whether the table has consumed all of b's ops (or, for an open, its nonce), so that
// ordering it again would change nothing.
func (c *Core) Seen(b *smr.Bundle) bool {
	if b.Kind == smr.BundleOpen {
		cl := c.table.clients[b.Client]
		return cl != nil && cl.key == b.Key && b.Nonce <= cl.nonce
	}
	s := c.table.sessions[b.Session]
	return s != nil && s.client == b.Client && s.seenAll(b.First, len(b.Ops))
}

// Admitted reports whether key is the admitted key of client.
func (c *Core) Admitted(client smr.ClientID, key smr.PublicKey) bool {
	cl := c.table.clients[client]
	return cl != nil && cl.key == key
}

// Cached adds to out what answers a resend of b without ordering it again, and reports whether it
// could: all of b was consumed, and every reply that the client has not acknowledged is still there.
// What is gone is left to the ordered path, whose outcomes are agreed.
func (c *Core) Cached(b *smr.Bundle, out *Output) bool {
	if c.fenced != nil || !c.Admitted(b.Client, b.Key) || !c.Seen(b) {
		return false
	}
	if b.Kind == smr.BundleOpen {
		cl := c.table.clients[b.Client]
		if b.Nonce != cl.nonce || c.table.sessions[cl.last] == nil {
			return false
		}
		out.add(openReply(b.Client, b.Nonce, smr.OutcomeExecuted, cl.last, c.executed))
		return true
	}
	s := c.table.sessions[b.Session]
	var want opSet
	for i := range b.Ops {
		if b.First+smr.OpNumber(i) >= s.low { // below it the client has the replies
			want.add(i)
		}
	}
	if want == (opSet{}) {
		return false
	}
	var found []Reply
	for _, blk := range s.cached() {
		if enc := blk.pick(b.First, len(b.Ops), &want); enc != nil {
			found = append(found, Reply{Client: b.Client, Session: b.Session, Results: enc})
		}
	}
	if want != (opSet{}) {
		return false
	}
	for _, r := range found {
		out.add(r)
	}
	return true
}

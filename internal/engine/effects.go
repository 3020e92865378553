package engine

import (
	"fmt"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/wire"
)

// The owners of timers.
const (
	ownerOrdering uint8 = 1
	ownerTransfer uint8 = 2
	ownerFetch    uint8 = 4
	ownerWatch    uint8 = 5
)

const ownerShift = 56

func timerID(owner uint8, id protocol.TimerID) TimerID {
	invariant.Check(id < 1<<ownerShift, "timer id %d", id)
	return TimerID(owner)<<ownerShift | TimerID(id)
}

func (t TimerID) split() (uint8, protocol.TimerID) {
	return uint8(t >> ownerShift), protocol.TimerID(t & (1<<ownerShift - 1))
}

func (e *Engine) setTimer(now time.Time, owner uint8, id protocol.TimerID, after time.Duration, out *Output) {
	t := timerID(owner, id)
	e.due[t] = now.Add(after)
	out.setTimer(t, after)
}

func (e *Engine) stopTimer(owner uint8, id protocol.TimerID, out *Output) {
	t := timerID(owner, id)
	if _, armed := e.due[t]; armed {
		delete(e.due, t)
		out.stopTimer(t)
	}
}

// absorb turns the ordering's effects into the engine's. It never calls the ordering: what must be
// answered waits for finish.
func (e *Engine) absorb(now time.Time, out *Output) {
	eff := &e.eff
	for _, id := range eff.Hold {
		e.hold(now, id, out)
	}
	e.persist(eff.Persist, out)
	for _, o := range eff.Send {
		e.send(o, out)
	}
	for _, o := range eff.SendDurable {
		e.sendDurable(o, out)
	}
	for _, d := range eff.Decide {
		e.decide(now, d, out)
	}
	for _, id := range eff.Release {
		e.release(id, out)
	}
	for _, n := range eff.Fetch {
		e.need(now, n, out)
	}
	for _, k := range eff.Found {
		e.fetch.found(k)
	}
	for _, t := range eff.StopTimer {
		e.stopTimer(ownerOrdering, t, out)
	}
	for _, t := range eff.SetTimer {
		e.setTimer(now, ownerOrdering, t.ID, t.After, out)
	}
	if eff.Behind != nil {
		e.log.Catch(now, e.deliver.position(), eff.Behind.Seq, eff.Behind.Peers, &e.teff)
		out.Events = append(out.Events, protocol.Event{Kind: protocol.EventBehind, Seq: eff.Behind.Seq})
	}
	for _, ev := range eff.Note {
		e.counts.note(ev)
		out.Events = append(out.Events, ev)
	}
	eff.Reset()
}

// transferEffects hands out what the transfer machines want.
func (e *Engine) transferEffects(now time.Time, out *Output) {
	t := &e.teff
	for _, o := range t.Send {
		out.Send = append(out.Send, Frame{To: o.To, Class: o.Class, Kind: o.Kind, Payload: o.Payload})
	}
	for _, id := range t.StopTimer {
		e.stopTimer(ownerTransfer, id, out)
	}
	for _, x := range t.SetTimer {
		e.setTimer(now, ownerTransfer, x.ID, x.After, out)
	}
	out.State = append(out.State, t.State...)
	for _, ev := range t.Note {
		e.counts.note(ev)
		out.Events = append(out.Events, ev)
	}
	t.Reset()
}

// persist writes records, those of one output under one token.
func (e *Engine) persist(records []protocol.Record, out *Output) {
	if len(records) == 0 {
		return
	}
	e.startWrite(out)
	w := &out.Write[len(out.Write)-1]
	for _, r := range records {
		var bundles []*smr.Bundle
		if r.Kind == protocol.RecordProposal {
			bundles = make([]*smr.Bundle, len(r.Refs))
			for i, ref := range r.Refs {
				x, ok := e.store.get(ref.ID)
				if !ok {
					e.fail(out, fmt.Errorf("the proposal for seq %d is accepted, but bundle %s is not held", r.Seq, ref.ID))
					return
				}
				bundles[i] = x.b
				x.written = true
			}
		}
		w.Records = append(w.Records, r)
		w.Bundles = append(w.Bundles, bundles)
	}
}

// startWrite opens a write in out, or goes on with the one opened since the driver took the last.
func (e *Engine) startWrite(out *Output) {
	if n := len(out.Write); n > 0 && out.Write[n-1].Token == e.gate.written {
		return
	}
	e.gate.written++
	out.Write = append(out.Write, Write{Token: e.gate.written})
}

func (e *Engine) receivers(to smr.NodeID) []smr.NodeID {
	if to == protocol.Everyone {
		return e.members
	}
	return []smr.NodeID{to}
}

func (e *Engine) frame(o protocol.Outbound) Frame {
	var attach []*smr.Bundle
	for _, id := range o.Attach {
		if x, ok := e.store.get(id); ok {
			attach = append(attach, x.b)
		}
	}
	epoch := e.cfg.Params.Membership.Epoch()
	return Frame{
		To: e.receivers(o.To), Class: wire.ClassProtocol, Kind: o.Msg.Kind(),
		Payload: encodeOrdering(e.codec, epoch, o.Msg, attach),
	}
}

func (e *Engine) send(o protocol.Outbound, out *Output) {
	if o.To == e.self {
		e.loop = append(e.loop, o.Msg)
		return
	}
	out.Send = append(out.Send, e.frame(o))
}

// gate holds what may not leave before the log is durable.
type gate struct {
	written uint64 // newest token given to a write
	durable uint64
	waiting []gated // ascending tokens
}

type gated struct {
	token uint64
	frame Frame
	self  protocol.Message // set for a message to self
}

func (e *Engine) sendDurable(o protocol.Outbound, out *Output) {
	if e.gate.durable >= e.gate.written || mutant.On(mutant.VoteBeforeDurable) || mutant.On(mutant.OwnVoteBeforeDurable) && o.To == e.self {
		e.send(o, out)
		return
	}
	g := gated{token: e.gate.written}
	if o.To == e.self {
		g.self = o.Msg
	} else {
		g.frame = e.frame(o)
	}
	e.gate.waiting = append(e.gate.waiting, g)
}

// open lets out what token covers.
func (g *gate) open(token uint64, e *Engine, out *Output) {
	if token > g.written {
		e.fail(out, fmt.Errorf("token %d is durable, but only %d was written", token, g.written))
		return
	}
	g.durable = max(g.durable, token)
	n := 0
	for n < len(g.waiting) && g.waiting[n].token <= g.durable {
		if x := g.waiting[n]; x.self != nil {
			e.loop = append(e.loop, x.self)
		} else {
			out.Send = append(out.Send, x.frame)
		}
		g.waiting[n] = gated{}
		n++
	}
	if g.waiting = g.waiting[n:]; len(g.waiting) == 0 {
		g.waiting = nil
	}
}

// bring keeps bundles that came with a message of a peer.
func (e *Engine) bring(from smr.NodeID, bs []*smr.Bundle) {
	for _, b := range bs {
		if e.store.bring(b, from) {
			e.arrived(b.ID)
		}
	}
}

// arrived tells the ordering of a bundle that a live proposal waits for.
func (e *Engine) arrived(id smr.BundleID) {
	holds := e.fetch.arrived(id)
	if holds == 0 {
		return
	}
	if x, ok := e.store.get(id); ok {
		for range holds {
			e.store.hold(x)
		}
		e.held = append(e.held, id)
	}
}

func (e *Engine) hold(now time.Time, id smr.BundleID, out *Output) {
	if x, ok := e.store.get(id); ok {
		e.store.hold(x)
		e.held = append(e.held, id)
		return
	}
	if !e.fetch.hold(now.Add(e.cfg.GraceTime), id, e.cfg.Limits.Wanted) {
		e.drop(out, 0, "wanted-full")
	}
}

func (e *Engine) release(id smr.BundleID, out *Output) {
	if e.fetch.release(id) {
		return
	}
	if x, ok := e.store.get(id); ok && e.store.release(x) {
		out.Released = append(out.Released, x.b)
	}
}

func (e *Engine) drop(out *Output, from smr.NodeID, reason string) {
	ev := protocol.Event{Kind: protocol.EventDrop, Node: from, Detail: reason}
	e.counts.note(ev)
	out.Events = append(out.Events, ev)
}

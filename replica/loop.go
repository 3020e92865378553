package replica

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/engine"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/network"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/wire"
)

// input is one event for the engine. It runs on the loop goroutine.
type input func(now time.Time, e *engine.Engine, out *engine.Output)

// inboxLength bounds the inputs that wait for the loop; a full inbox blocks the reader that brings
// one more, and so its connection.
const inboxLength = 1024

// turnInputs bounds how many inputs one turn of the loop takes before its effects go out.
const turnInputs = 64

// enqueue hands an input to the loop, waiting while the inbox is full. It reports false once the
// replica is stopping.
func (r *replica) enqueue(in input) bool {
	select {
	case r.inbox <- in:
		return true
	case <-r.stopping:
		return false
	}
}

// loop runs the engine until ctx ends or the replica breaks. It owns engine, timers and output.
func (r *replica) loop(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("replica %d fenced: %v", r.cfg.Node, p)
			r.log.Error("broken invariant: this replica stops", "cause", p)
		}
	}()
	alarm := time.NewTimer(time.Hour)
	defer alarm.Stop()
	for {
		if at, ok := r.timers.next(); ok {
			alarm.Reset(time.Until(at))
		} else {
			alarm.Reset(time.Hour)
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-r.broken:
			return err
		case in := <-r.inbox:
			in(time.Now(), r.engine, &r.out)
		case <-r.store.Durable():
		case <-r.executedC:
		case <-alarm.C:
		}
		if err := r.turn(); err != nil {
			return err
		}
	}
}

// turn takes what waits, newest values first, and lets the effects out.
func (r *replica) turn() error {
	now := time.Now()
	if t := r.store.DurableToken(); t > r.durable {
		r.durable = t
		r.engine.Durable(now, t, &r.out)
	}
	if s := smr.SeqNo(r.executed.Load()); s > r.executedSeen {
		r.executedSeen = s
		r.engine.Executed(now, s, &r.out)
	}
	for range turnInputs {
		select {
		case in := <-r.inbox:
			in(now, r.engine, &r.out)
			continue
		default:
		}
		break
	}
	for {
		id, ok := r.timers.pop(now)
		if !ok {
			break
		}
		r.engine.Expire(now, id, &r.out)
	}
	return r.dispatch(now)
}

// dispatch performs the effects of a turn. Nothing in it waits but the store's append bound.
func (r *replica) dispatch(now time.Time) error {
	out := &r.out
	for _, w := range out.Write {
		r.store.Append(w.Token, w.Records, w.Bundles)
	}
	for _, f := range out.Send {
		r.send(f)
	}
	for _, d := range out.Deliver {
		r.executor.Deliver(execution.Delivery{Decision: d.Decision, Bundles: d.Bundles, Checkpoint: d.Checkpoint})
		r.retention.add(deliveredBytes(d.Bundles))
	}
	if len(out.Decided) > 0 {
		r.requests.Decided(slices.Clone(out.Decided)) // workers keep it past the reset of out
	}
	if len(out.Stopped) > 0 {
		r.requests.Stopped(slices.Clone(out.Stopped))
	}
	if len(out.Released) > 0 {
		ids := make([]smr.BundleID, len(out.Released))
		for i, b := range out.Released {
			ids[i] = b.ID
		}
		r.requests.Released(ids)
	}
	for _, o := range out.Offer {
		if err := r.requests.Submit(o.From, wire.EncodeBundles(o.Bundles)); err != nil {
			r.log.Debug("forwarded requests refused", "from", o.From, "err", err)
		}
	}
	for _, q := range out.ReadLog {
		select {
		case r.logReads <- q:
		default: // the peer asks again
		}
	}
	for _, q := range out.ReadState {
		select {
		case r.stateReads <- q:
		default:
			return fmt.Errorf("more than %d questions about checkpoints are open", cap(r.stateReads))
		}
	}
	for _, op := range out.State {
		select {
		case r.stateOps <- op:
		default:
			return fmt.Errorf("more than %d operations of a state transfer are open", cap(r.stateOps))
		}
	}
	if out.StableCert.Seq() > 0 {
		r.store.SetCheckpointCert(out.StableCert.Seq(), out.StableCert.Cert.Bytes())
	}
	if out.Truncate > 0 {
		if upto := r.retention.stable(out.Truncate); upto > 0 {
			r.store.Truncate(upto)
		}
	}
	for _, id := range out.StopTimer {
		r.timers.stop(id)
	}
	for _, t := range out.SetTimer {
		r.timers.set(now, t.ID, t.After)
	}
	if g := (readGate{seq: out.ReadGate, open: !out.ReadClosed, set: true}); g != r.gate {
		r.gate = g
		r.executor.SetReadGate(g.seq, g.open)
	}
	for _, ev := range out.Events {
		r.note(ev)
	}
	fatal := out.Fatal
	out.Reset()
	if fatal != nil {
		return fmt.Errorf("replica %d fenced: %w", r.cfg.Node, fatal)
	}
	return nil
}

// send puts a frame on its lane for each receiver; a full queue drops it there and counts it.
func (r *replica) send(f engine.Frame) {
	stub := network.Route(r.node, f.Class)
	for _, to := range f.To {
		stub.Send(auth.NodeIdentity(to), f.Class, f.Kind, f.Payload)
	}
}

// note makes an event visible.
func (r *replica) note(ev protocol.Event) {
	r.events[ev.Kind]++
	switch ev.Kind {
	case protocol.EventDrop:
		return
	case protocol.EventEvidence:
		r.log.Warn("misbehaviour", "node", ev.Node, "view", ev.View, "seq", ev.Seq, "detail", ev.Detail)
	default:
		r.log.Info(string(ev.Kind), "node", ev.Node, "view", ev.View, "seq", ev.Seq, "detail", ev.Detail)
	}
}

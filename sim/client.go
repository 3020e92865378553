package sim

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/wire"
)

// worker is a correct client with its workload: outstanding lanes, each of which thinks, calls, and
// waits for the end of the call.
type worker struct {
	c    *cluster
	id   smr.ClientID
	rng  random
	core *client.Core
	out  client.Output
	left int    // operations not begun yet
	busy int    // calls that have not ended
	gen  uint64 // of the alarm that counts
	seq  int    // of values written, to make each unique
}

func newWorker(c *cluster, id smr.ClientID, signer auth.Signer) *worker {
	t := c.plan.Timeout
	r := c.stream(streamClient, uint64(id))
	return &worker{
		c: c, id: id, rng: r, left: c.plan.Operations,
		core: client.NewCore(client.CoreConfig{
			Membership: c.members, Client: id, Signer: signer,
			Rand: r.Rand,
			Limits: client.Limits{
				RetryTimeout: t, MaxRetryTimeout: 4 * t, QueryTimeout: t,
				MaxInFlightBundles: 1 + r.IntN(3), MaxBundleOps: 1 + r.IntN(8),
			},
		}),
	}
}

// now is the client's clock: virtual time; clients are not skewed.
func (w *worker) now() time.Time { return start.Add(w.c.clk.now) }

func (w *worker) begin() {
	for range w.c.plan.Outstanding {
		w.rest()
	}
}

// rest lets a lane think, then call.
func (w *worker) rest() {
	w.c.clk.after(w.rng.exponential(w.c.plan.Think), w.call)
}

// call begins the lane's next operation, if any is left.
func (w *worker) call() {
	if w.left == 0 {
		return
	}
	w.left--
	w.busy++
	c, r := w.c, w.rng
	o := &operation{client: int(w.id), key: fmt.Sprintf("key%d", r.IntN(c.plan.Keys))}
	switch x := r.Float64(); {
	case x < c.plan.Reads:
		o.kind, o.unordered = opGet, true
	case x < c.plan.Reads+0.1:
		o.kind = opGet
	case x < c.plan.Reads+0.2:
		o.kind = opDelete
	case x < c.plan.Reads+0.3:
		o.kind, o.value, o.expect = opCAS, w.value(), w.guess(o.key)
	default:
		o.kind, o.value = opPut, w.value()
	}
	c.history.begin(o, c.clk.now)
	c.trace.event("call", uint64(w.id), uint64(o.kind), uint64(w.left))
	call := &client.Call{Tag: o}
	var err error
	if o.unordered {
		err = w.core.Query(w.now(), call, encodeRequest(o), client.Linearizable(), &w.out)
	} else {
		err = w.core.Submit(call, encodeRequest(o))
	}
	if err != nil {
		c.fail("client %d: %s refused: %v", w.id, o, err)
	}
	w.flush()
}

// value makes a value that no other operation of the run writes.
func (w *worker) value() string {
	w.seq++
	s := fmt.Sprintf("c%d.%d.", w.id, w.seq)
	return s + strings.Repeat("x", max(0, w.rng.IntN(w.c.plan.ValueBytes+1)-len(s)))
}

// guess returns a value that the key may have: the newest this run wrote to it, or none.
func (w *worker) guess(key string) string {
	ops := w.c.history.ops
	for i := len(ops) - 1; i >= 0 && i > len(ops)-20; i-- {
		if ops[i].key == key && ops[i].value != "" {
			return ops[i].value
		}
	}
	return ""
}

// frame takes a frame from a replica.
func (w *worker) frame(from auth.Identity, class wire.Class, kind uint8, payload []byte) {
	node, _ := from.Node()
	w.c.trace.event("reply", uint64(w.id), uint64(node), uint64(class), uint64(len(payload)))
	if err := w.core.Receive(w.now(), node, class, kind, payload, &w.out); err != nil && !w.c.nodes[node-1].byzantine {
		w.c.fail("client %d refuses a %s of correct replica %d: %v", w.id, class, node, err)
	}
	w.flush()
}

// flush lets the core sign and send, and does what it says.
func (w *worker) flush() {
	w.core.Flush(w.now(), &w.out)
	for len(w.out.Send)+len(w.out.Done) > 0 {
		send, done := w.out.Send, w.out.Done
		w.out = client.Output{}
		for _, f := range send {
			w.c.net.send(auth.ClientIdentity(w.id), auth.NodeIdentity(f.To), f.Class, f.Kind, f.Payload)
		}
		for _, d := range done {
			w.ended(d)
		}
		w.core.Flush(w.now(), &w.out)
	}
	w.gen++
	gen, next := w.gen, w.core.Next()
	if next.IsZero() {
		return
	}
	w.c.clk.after(next.Sub(w.now()), func() {
		if w.gen == gen {
			w.c.trace.event("alarm", uint64(w.id))
			w.core.Expire(w.now(), &w.out)
			w.flush()
		}
	})
}

// ended records the end of a call.
func (w *worker) ended(d client.Completion) {
	o := d.Call.Tag.(*operation)
	var advice *client.AdviceError
	if errors.As(d.Err, &advice) && errors.Is(d.Err, client.ErrUnknown) {
		w.c.clk.after(w.c.plan.Timeout, func() {
			w.core.Retry(w.now(), d.Call, &w.out)
			w.flush()
		})
		return
	}
	if d.Err != nil {
		w.c.fail("client %d: %s ended with: %v", w.id, o, d.Err)
	}
	if err := decodeReply(o, d.Data); err != nil {
		w.c.fail("client %d: %s: reply %q: %v", w.id, o, d.Data, err)
	}
	o.done, o.ret, o.unordered = true, w.c.clk.now, !d.Ordered
	o.session, o.number = d.Call.Op()
	w.busy--
	if d.Ordered {
		w.c.counts.Acknowledged++
	} else {
		w.c.counts.Reads++
	}
	if then := w.c.onAck; then != nil && d.Ordered && o.kind != opGet {
		w.c.onAck = nil
		then()
	}
	w.c.trace.event("done", uint64(w.id), uint64(d.Seq), uint64(o.number))
	w.rest()
}

// open says what the client still waits for; empty if nothing.
func (w *worker) open() string {
	if w.busy+w.left == 0 {
		return ""
	}
	return fmt.Sprintf("client %d waits for %d operations and has %d to begin", w.id, w.busy, w.left)
}

package sim

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/engine"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/storage"
)

// receiving is what a replica does for state transfer beside its loop, in one life: operations on
// storage, one after the other, each of which takes a while.
type receiving struct {
	receiver *storage.Receiver
	server   *storage.Server
	ops      []transfer.StateOp
	working  bool
}

func (r *receiving) begin(d *disk) {
	*r = receiving{receiver: storage.NewReceiver(d.store), server: storage.NewServer(d.store)}
}

// stateOps queues what the engine wants of storage.
func (n *node) stateOps(ops []transfer.StateOp) {
	n.transfer.ops = append(n.transfer.ops, ops...)
	n.stateWork()
}

func (n *node) stateWork() {
	r := &n.transfer
	if r.working || len(r.ops) == 0 {
		return
	}
	r.working = true
	n.after(n.rng.exponential(n.c.plan.Sync/8), func() {
		op := r.ops[0]
		r.ops = r.ops[1:]
		done, answer := r.receiver.Do(op)
		if op.Kind == transfer.OpAdopt && done.Err == nil {
			n.adopt(done.Meta, op.Root)
		}
		n.c.trace.event("state-op", uint64(n.id), uint64(op.Kind), op.Index)
		r.working = false
		if answer {
			n.input(func(now time.Time) { n.engine.StateDone(now, done, &n.out) })
		}
		if n.up {
			n.stateWork()
		}
	})
}

// adopt restores execution from a checkpoint that was taken over, unless it has come further, and
// judges it.
func (n *node) adopt(m transfer.Meta, root smr.Digest) {
	d, e := n.disk, &n.exec
	if m.Seq > d.durableCheckpoint {
		d.newestSeq, d.newestRoot, d.newestSize = m.Seq, root, m.Bytes
		d.durableBefore, d.durableCheckpoint = d.durableCheckpoint, m.Seq
	}
	if !n.byzantine {
		n.c.counts.Transfers++
	}
	n.c.trace.event("install", uint64(n.id), uint64(m.Seq), hash(root[:]))
	if e.fenced || e.core.Executed() >= m.Seq {
		return
	}
	from, err := d.store.OpenCheckpoint(m.Seq)
	if err == nil && from != nil {
		err = e.core.Restore(from.Meta, from)
	}
	if err != nil || from == nil {
		n.c.fail("replica %d: restore the checkpoint taken over at %d: %v", n.id, m.Seq, err)
	}
	for len(e.feed) > 0 && e.feed[0].Decision.Seq <= m.Seq {
		e.feed = e.feed[1:]
	}
	e.view.Reload(e.core)
	if n.byzantine {
		return
	}
	if have, err := e.core.RootOf(); err != nil || have != root {
		n.c.fail("replica %d: restored %d to root %s, certified is %s (%v)", n.id, m.Seq, have, root, err)
	}
	n.c.oracle.root(n.id, m.Seq, root)
	if e.core.Executed() != m.Seq {
		n.c.fail("replica %d: executes on from %d after the checkpoint at %d", n.id, e.core.Executed()+1, m.Seq)
	}
}

// stateRead answers a peer's question about a checkpoint.
func (n *node) stateRead(q engine.StateRead) {
	n.after(n.rng.exponential(n.c.plan.Sync/4), func() {
		payload, err := n.transfer.server.Answer(q.Query)
		if err != nil && n.disk.store.Err() == nil && !n.disk.damaged {
			n.c.fail("replica %d: read checkpoint %d for replica %d: %v", n.id, q.Query.Seq, q.To, err)
		}
		n.input(func(now time.Time) { n.engine.StateRead(now, q.To, payload, &n.out) })
	})
}

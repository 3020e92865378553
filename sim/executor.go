package sim

import (
	"bytes"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/engine"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/storage"
)

// executor is a replica's execution in one life: the core, the batches that wait for it, and the
// checkpoint that is being written. Batches and checkpoints take virtual time.
type executor struct {
	n       *node
	core    *execution.Core
	view    *execution.View
	service smr.Service
	out     execution.Output
	feed    []engine.Delivery
	working bool
	next    *execution.Snapshot // waits while another is written
	writing bool
	fenced  bool // the application failed: nothing is executed or answered in this life
}

// begin restores the newest checkpoint.
func (e *executor) begin(n *node) {
	*e = executor{n: n, service: newApplication()}
	svc := e.service
	if !n.byzantine {
		svc = &watchedService{Service: e.service, o: n.c.oracle, n: n}
	}
	core, err := execution.New(execution.Config{Clients: n.admitted, Membership: n.c.members.Digest()}, svc)
	if err != nil {
		n.c.fail("execution: %v", err)
	}
	e.core = core
	n.disk.restore(core)
	e.view = execution.NewView(core)
}

// end drops what the life held.
func (e *executor) end() {
	if e.next != nil {
		e.next.Release()
	}
	*e = executor{}
}

// deliver queues a decided batch.
func (e *executor) deliver(d engine.Delivery) {
	e.feed = append(e.feed, d)
	e.work()
}

// work executes the next batch after a while, if none is being executed.
func (e *executor) work() {
	if e.working || e.fenced || len(e.feed) == 0 {
		return
	}
	e.working = true
	n := e.n
	n.after(n.rng.exponential(n.c.plan.Execute)*time.Duration(max(1, n.app.slow)), func() {
		e.working = false
		if len(e.feed) == 0 {
			return // a checkpoint was taken over
		}
		d := e.feed[0]
		e.feed = e.feed[1:]
		if e.apply(d); e.fenced {
			return
		}
		n.input(func(now time.Time) { n.engine.Executed(now, e.core.Executed(), &n.out) })
		e.work()
	})
}

func (e *executor) apply(d engine.Delivery) {
	n := e.n
	n.c.trace.event("execute", uint64(n.id), uint64(d.Decision.Seq))
	if err := e.core.Apply(d.Decision, d.Bundles, &e.out); err != nil && n.app.panicked {
		e.fenced = true
		n.c.trace.event("execution-fence", uint64(n.id))
		n.c.counts.Fenced++
		return
	} else if err != nil {
		n.c.fail("replica %d: %v", n.id, err)
	}
	n.replies(&e.out)
	e.view.Publish(e.core)
	if !d.Checkpoint {
		return
	}
	s, err := e.core.Freeze()
	if err != nil {
		n.c.fail("replica %d: freeze: %v", n.id, err)
	}
	if e.next != nil {
		e.next.Release()
	}
	e.next = s
	e.write()
}

// write writes the frozen state that waits, beside execution.
func (e *executor) write() {
	if e.writing || e.next == nil {
		return
	}
	s, n := e.next, e.n
	e.next, e.writing = nil, true
	n.after(n.disk.latency(n.c.plan.Checkpoint), func() { n.disk.unlessHung(func() { e.written(s) }) })
}

// written ends the writing of a checkpoint.
func (e *executor) written(s *execution.Snapshot) {
	n := e.n
	if n.disk.store.Err() != nil {
		return // the replica stops
	}
	if n.disk.full {
		n.disk.fence(storage.ErrDiskFull)
		return
	}
	w := n.disk.checkpoint(s)
	s.Release()
	if n.disk.tearing() {
		return
	}
	e.writing = false
	n.c.counts.Checkpoints++
	n.c.trace.event("checkpoint", uint64(n.id), uint64(w.Meta.Seq), hash(w.Root[:]))
	if !n.byzantine && !n.app.diverges {
		n.c.oracle.root(n.id, w.Meta.Seq, w.Root)
	}
	n.input(func(now time.Time) {
		n.engine.CheckpointSize(w.Meta.Seq, w.Meta.Bytes)
		n.engine.CheckpointDurable(now, w.Meta.Seq, w.Root, &n.out)
	})
	e.write()
}

// sameState demands that replicas at the same height hold the same state, to the byte.
func (c *cluster) sameState() {
	var first *node
	var want []byte
	for _, n := range c.nodes {
		if n.byzantine || !n.up || n.app.diverges || n.exec.fenced || n.executed() != c.oracle.top {
			continue
		}
		s, err := n.exec.core.Freeze()
		if err != nil {
			c.fail("replica %d: freeze: %v", n.id, err)
		}
		var b bytes.Buffer
		_, err = s.Write(execution.ToWriter(&b))
		s.Release()
		if err != nil {
			c.fail("replica %d: write state: %v", n.id, err)
		}
		if first == nil {
			first, want = n, b.Bytes()
		} else if !bytes.Equal(want, b.Bytes()) {
			c.fail("states differ at %d: replicas %d and %d", c.oracle.top, first.id, n.id)
		}
	}
	if first == nil {
		c.fail("no correct replica reached %d", c.oracle.top)
	}
}

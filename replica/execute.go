package replica

import (
	"errors"
	"fmt"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/engine"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/internal/requests"
	"github.com/atlas-smr/smr/network"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/storage"
	"github.com/atlas-smr/smr/wire"
)

// sender lets executor and request workers answer clients once the node listens; before that
// nothing was asked, and what is replayed from the log needs no answer.
type sender struct{ r *replica }

// Send implements execution.Sender.
func (s sender) Send(to auth.Identity, class wire.Class, kind uint8, payload []byte) bool {
	n := s.r.listening.Load()
	return n != nil && network.Route(n, class).Send(to, class, kind, payload)
}

// startExecution starts the executor and returns the view of the session table.
func (r *replica) startExecution(core *execution.Core) *execution.View {
	r.executor = execution.NewExecutor(core, execution.ExecutorConfig{
		Sender:       sender{r},
		Read:         r.readBack,
		Begin:        r.beginCheckpoint,
		OnExecuted:   r.onExecuted,
		OnCheckpoint: r.onCheckpoint,
		OnFenced: func(err error) {
			text := err.Error()
			r.fenced.Store(&text)
			r.log.Error("execution is fenced: this replica goes on voting but serves nothing", "cause", text)
		},
	})
	return r.executor.View()
}

func (r *replica) startRequests(scheme auth.Scheme, view *execution.View, service smr.Service) {
	limits := requests.DefaultLimits()
	limits.ClientBundles, limits.ClientBytes = r.cfg.ClientOps, r.cfg.ClientBytes
	r.requests = requests.NewPool(requests.PoolConfig{
		Cluster: r.cluster, Scheme: scheme, Sessions: view, Validate: service.Validate, Limits: limits,
		Accepted: func(bundles []*smr.Bundle, from auth.Identity) {
			r.enqueue(func(now time.Time, e *engine.Engine, out *engine.Output) { e.Bundles(now, bundles, from, out) })
		},
		Resend: r.executor.Resend,
		Advise: func(client smr.ClientID, a *wirepb.Advice) {
			if payload, err := a.MarshalVT(); err == nil {
				sender{r}.Send(auth.ClientIdentity(client), wire.ClassAdvice, wire.KindOnly, payload)
			}
		},
	})
}

// onExecuted runs on the executor's goroutine: the newest value replaces the older.
func (r *replica) onExecuted(seq smr.SeqNo) {
	r.executed.Store(uint64(seq))
	select {
	case r.executedC <- struct{}{}:
	default:
	}
}

// onCheckpoint runs on the checkpoint writer's goroutine.
func (r *replica) onCheckpoint(c execution.Checkpoint) {
	switch {
	case errors.Is(c.Err, execution.ErrSuperseded):
		return
	case c.Err != nil:
		r.fail(fmt.Errorf("write checkpoint %d: %w", c.Meta.Seq, c.Err))
		return
	}
	seq, size, root := c.Meta.Seq, c.Meta.Bytes, c.Root
	r.enqueue(func(now time.Time, e *engine.Engine, out *engine.Output) {
		e.CheckpointSize(seq, size)
		e.CheckpointDurable(now, seq, root, out)
	})
}

// checkpointFile is an execution.CheckpointSink on the store.
type checkpointFile struct{ *storage.CheckpointWriter }

// Commit implements execution.CheckpointSink.
func (f checkpointFile) Commit(w execution.Written) error {
	d, err := f.CheckpointWriter.Commit(w.Meta)
	if err != nil {
		return err
	}
	if d.Root != w.Root {
		return fmt.Errorf("checkpoint %d was stored with root %v but computed as %v", w.Meta.Seq, d.Root, w.Root)
	}
	return nil
}

// Abort implements execution.CheckpointSink.
func (f checkpointFile) Abort() { f.CheckpointWriter.Abort() }

func (r *replica) beginCheckpoint(m execution.Meta) (execution.CheckpointSink, error) {
	begin := r.store.BeginCheckpoint
	if m.Kind == transfer.StateDivisible {
		begin = r.store.BeginDivisible
	}
	w, err := begin(m.Seq)
	if err != nil {
		return nil, err
	}
	return checkpointFile{w}, nil
}

// readBack gives the executor decided batches that its feed had no room for.
func (r *replica) readBack(after, upto smr.SeqNo, maxBytes int) ([]execution.Delivery, error) {
	entries, _, err := r.store.ReadDecisions(after, upto, maxBytes)
	if err != nil {
		return nil, err
	}
	out := make([]execution.Delivery, 0, len(entries))
	for _, e := range entries {
		info, err := r.codec.Header(e.Header)
		if err != nil {
			return nil, fmt.Errorf("log entry %d: %w", e.Seq, err)
		}
		d := execution.Delivery{Decision: protocol.Decision{HeaderInfo: info, Header: e.Header}}
		for _, raw := range e.Bundles {
			b, err := wire.DecodeBundle(raw)
			if err != nil {
				return nil, fmt.Errorf("log entry %d: %w", e.Seq, err)
			}
			d.Bundles = append(d.Bundles, b)
		}
		out = append(out, d)
	}
	return out, nil
}

// readLogs reads the log for peers that catch up, beside the loop.
func (r *replica) readLogs() {
	defer r.wait.Done()
	for {
		select {
		case <-r.stopping:
			return
		case q := <-r.logReads:
			res := engine.LogReadResult{ID: q.ID}
			entries, first, err := r.store.ReadDecisions(q.After, q.Upto, q.MaxBytes)
			if err != nil {
				r.log.Warn("reading the log for a peer failed", "peer", q.To, "after", q.After, "err", err)
			}
			res.First = first
			for _, e := range entries {
				res.Entries = append(res.Entries, transfer.LogEntry{Header: e.Header, Bundles: e.Bundles, Proof: e.Proof})
			}
			r.enqueue(func(now time.Time, e *engine.Engine, out *engine.Output) { e.LogRead(now, res, out) })
		}
	}
}

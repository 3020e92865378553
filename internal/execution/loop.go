package execution

import (
	"fmt"
	"slices"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/wire"
)

// asksPerTurn bounds the unordered requests answered between two batches.
const asksPerTurn = 256

// readBackBytes is how much is read back from the log at a time.
const readBackBytes = 8 << 20

// run is the executor's goroutine: between two batches it answers some of what waits.
func (e *Executor) run() {
	defer e.dropSnapshot()
	out := &Output{Flush: e.flush}
	for {
		select {
		case <-e.quit:
			return
		default:
		}
		busy := e.answer(out)
		progressed, retry := e.step(out)
		if busy || progressed {
			continue
		}
		e.pause(retry)
	}
}

// pause waits until something changed, or for the log to be read again.
func (e *Executor) pause(retry bool) {
	var after <-chan time.Time
	if retry {
		t := time.NewTimer(e.cfg.RetryRead)
		defer t.Stop()
		after = t.C
	}
	select {
	case <-e.wake:
	case <-after:
	case <-e.quit:
	}
}

// step applies the next batch, if there is one. retry says that there is, but the log does not
// show it yet.
func (e *Executor) step(out *Output) (progressed, retry bool) {
	e.mu.Lock()
	if e.fenced != nil || e.executed >= e.newest {
		e.mu.Unlock()
		return false, false
	}
	if len(e.feed) > 0 {
		d := e.feed[0]
		e.feed[0] = Delivery{}
		e.feed = e.feed[1:]
		e.fed -= d.bytes()
		e.mu.Unlock()
		e.apply(d, out)
		return true, false
	}
	after, upto := e.executed, e.newest
	e.mu.Unlock()
	return e.readBack(after, upto, out)
}

// readBack applies batches from the log.
func (e *Executor) readBack(after, upto smr.SeqNo, out *Output) (progressed, retry bool) {
	if e.cfg.Read == nil {
		return false, true
	}
	ds, err := e.cfg.Read(after, upto, readBackBytes)
	if err != nil {
		e.fence(err)
		return false, false
	}
	for _, d := range ds {
		if d.Decision.Seq != after+1 {
			break
		}
		after++
		e.apply(d, out)
		progressed = true
		if e.core.Fenced() != nil {
			break
		}
	}
	return progressed, !progressed
}

// apply executes one batch and whatever is due after it.
func (e *Executor) apply(d Delivery, out *Output) {
	if err := e.core.Apply(d.Decision, d.Bundles, out); err != nil {
		e.fence(err)
		return
	}
	e.flush(out)
	e.view.Publish(e.core)
	seq := d.Decision.Seq
	e.mu.Lock()
	e.executed = seq
	due := d.Checkpoint
	for len(e.marks) > 0 && e.marks[0] <= seq {
		due = due || e.marks[0] == seq
		e.marks = e.marks[1:]
	}
	// What was read back may have overtaken what waits.
	for len(e.feed) > 0 && e.feed[0].Decision.Seq <= seq {
		e.fed -= e.feed[0].bytes()
		e.feed = e.feed[1:]
	}
	e.mu.Unlock()
	if due {
		e.freeze()
	}
	e.cfg.OnExecuted(seq)
}

func (e *Executor) fence(err error) {
	e.mu.Lock()
	e.fenced = err
	e.feed, e.fed = nil, 0
	e.mu.Unlock()
	if e.core.fenced == nil {
		e.core.fenced = &FencedError{Seq: e.core.executed + 1, Cause: err}
	}
	e.cfg.OnFenced(e.core.fenced)
}

// flush sends the replies of out.
func (e *Executor) flush(out *Output) {
	out.Frames(func(client smr.ClientID, payload []byte) {
		e.replies.Send(client, wire.ClassOrderedReply, payload)
	})
	out.Reset()
}

// answer works off calls and some asks; it reports whether there were any.
func (e *Executor) answer(out *Output) bool {
	e.mu.Lock()
	calls, gate := e.calls, e.gate
	e.calls, e.gate = nil, nil
	n := min(len(e.asks), asksPerTurn)
	asks := slices.Clone(e.asks[:n])
	e.asks = append(e.asks[:0], e.asks[n:]...)
	clear(e.asks[len(e.asks) : len(e.asks)+n])
	for _, a := range asks {
		if e.perAsker[a.client]--; e.perAsker[a.client] == 0 {
			delete(e.perAsker, a.client)
		}
	}
	e.mu.Unlock()
	if gate != nil {
		e.core.SetReadGate(gate.seq, gate.open)
	}
	for _, fn := range calls {
		fn(e.core)
	}
	if len(calls) > 0 {
		e.resync()
	}
	for _, a := range asks {
		if a.query != nil {
			e.sendQuery(a.client, e.core.Query(a.client, a.query))
		} else if !e.core.Cached(a.bundle, out) {
			a.missed(a.bundle)
		}
	}
	if len(out.Replies) > 0 {
		e.flush(out)
	}
	return len(calls)+len(asks) > 0
}

// resync takes note of a call that restored the core to another position.
func (e *Executor) resync() {
	seq := e.core.Executed()
	e.mu.Lock()
	moved := seq != e.executed
	if moved {
		e.executed = seq
		e.newest = max(e.newest, seq)
		for len(e.feed) > 0 && e.feed[0].Decision.Seq <= seq {
			e.fed -= e.feed[0].bytes()
			e.feed = e.feed[1:]
		}
	}
	e.mu.Unlock()
	if moved {
		e.view.Reload(e.core)
		e.cfg.OnExecuted(seq)
	}
}

func (e *Executor) sendQuery(client smr.ClientID, rep *wirepb.UnorderedReply) {
	payload, err := rep.MarshalVT()
	if err != nil {
		return
	}
	e.replies.Send(client, wire.ClassUnorderedReply, payload)
}

// freeze captures the state and sees that it is written. A capture that still waits is superseded.
func (e *Executor) freeze() {
	s, err := e.core.Freeze()
	if err != nil {
		e.cfg.OnCheckpoint(Checkpoint{Written: Written{Meta: Meta{Seq: e.core.Executed()}}, Err: err})
		if e.core.Fenced() != nil {
			e.fence(err)
		}
		return
	}
	e.mu.Lock()
	old := e.snapshot
	e.snapshot = s
	start := !e.writing
	e.writing = true
	e.mu.Unlock()
	if old != nil {
		e.cfg.OnCheckpoint(Checkpoint{Written: Written{Meta: old.Meta()}, Err: ErrSuperseded})
		old.Release()
	}
	if start {
		e.wg.Go(e.writeCheckpoints)
	}
}

// writeCheckpoints writes snapshots until none waits. One goroutine at a time runs it.
func (e *Executor) writeCheckpoints() {
	for {
		e.mu.Lock()
		s := e.snapshot
		e.snapshot = nil
		if s == nil || e.closed {
			e.snapshot, e.writing = s, false
			e.mu.Unlock()
			e.dropSnapshotIfClosed()
			return
		}
		e.mu.Unlock()
		w, err := e.write(s)
		e.cfg.OnCheckpoint(Checkpoint{Written: w, Err: err})
		s.Release()
	}
}

func (e *Executor) write(s *Snapshot) (w Written, err error) {
	meta := s.Meta()
	defer func() {
		if p := recover(); p != nil {
			w, err = Written{Meta: meta}, fmt.Errorf("panic while a checkpoint was written: %v", p)
		}
	}()
	if e.cfg.Begin == nil {
		return s.Write(forRoot{})
	}
	sink, err := e.cfg.Begin(s.Meta())
	if err != nil {
		return Written{Meta: s.Meta()}, err
	}
	done := false
	defer func() {
		if !done {
			sink.Abort()
		}
	}()
	if w, err = s.Write(sink); err != nil {
		return Written{Meta: meta}, err
	}
	done = true
	return w, sink.Commit(w)
}

func (e *Executor) dropSnapshotIfClosed() {
	select {
	case <-e.quit:
		e.dropSnapshot()
	default:
	}
}

// dropSnapshot releases a capture that will not be written.
func (e *Executor) dropSnapshot() {
	e.mu.Lock()
	s := e.snapshot
	e.snapshot = nil
	e.mu.Unlock()
	if s != nil {
		s.Release()
	}
}

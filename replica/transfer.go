package replica

import (
	"errors"
	"fmt"
	"time"

	"github.com/atlas-smr/smr/internal/engine"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/storage"
)

// stateBytesPerSecond is how fast parts of checkpoints are read for others at most, so that the disk
// and the network are ordering's first.
const stateBytesPerSecond = 128 << 20

// serveState reads pages and parts of checkpoints for peers, beside the loop and paced.
func (r *replica) serveState() {
	defer r.wait.Done()
	server := storage.NewServer(r.store)
	defer server.Close()
	p := pace{bytesPerSecond: stateBytesPerSecond}
	for {
		select {
		case <-r.stopping:
			return
		case q := <-r.stateReads:
			payload, err := server.Answer(q.Query)
			if err != nil {
				r.log.Warn("reading a checkpoint for a peer failed", "peer", q.To, "seq", q.Query.Seq, "err", err)
			}
			if !r.sleep(p.next(time.Now(), len(payload))) {
				return
			}
			r.enqueue(func(now time.Time, e *engine.Engine, out *engine.Output) { e.StateRead(now, q.To, payload, out) })
		}
	}
}

// sleep waits; it reports false once the replica is stopping.
func (r *replica) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.stopping:
		return false
	}
}

// pace spreads bytes over time.
type pace struct {
	bytesPerSecond int
	free           time.Time // when what was let go so far is paid for
}

// paceBurst is how much of the past may be made up for.
const paceBurst = 100 * time.Millisecond

// next returns how long to wait before n more bytes go.
func (p *pace) next(now time.Time, n int) time.Duration {
	if earliest := now.Add(-paceBurst); p.free.Before(earliest) {
		p.free = earliest
	}
	p.free = p.free.Add(time.Duration(n) * time.Second / time.Duration(p.bytesPerSecond))
	return max(0, p.free.Sub(now))
}

// receiveState does what state transfer wants of the disk, beside the loop and in order.
func (r *replica) receiveState() {
	defer r.wait.Done()
	receiver := storage.NewReceiver(r.store)
	defer func() {
		if err := receiver.Close(); err != nil {
			r.log.Warn("closing what was received of a checkpoint failed", "err", err)
		}
	}()
	for {
		select {
		case <-r.stopping:
			return
		case op := <-r.stateOps:
			done, answer := receiver.Do(op)
			if op.Kind == transfer.OpAdopt && done.Err == nil {
				if err := r.takeOver(done.Meta); err != nil {
					r.fail(fmt.Errorf("take over checkpoint %d: %w", done.Meta.Seq, err))
					return
				}
			}
			if answer {
				r.enqueue(func(now time.Time, e *engine.Engine, out *engine.Output) { e.StateDone(now, done, out) })
			}
		}
	}
}

// takeOver restores execution from an adopted checkpoint, unless it has come further by itself.
func (r *replica) takeOver(m transfer.Meta) (err error) {
	from, err := r.store.OpenCheckpoint(m.Seq)
	if err != nil || from == nil {
		return errors.Join(err, fmt.Errorf("the checkpoint is not there: %v", from == nil))
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	r.executor.Inspect(func(c *execution.Core) {
		if c.Fenced() == nil && c.Executed() < m.Seq {
			err = c.Restore(from.Meta, from)
		}
	})
	return err
}

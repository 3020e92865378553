package engine

import (
	"time"

	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// needState starts, or carries on with, state transfer: no peer's log holds what is lacking, and a
// checkpoint above it is certified. It reports whether it set anything in motion.
func (e *Engine) needState(now time.Time) bool {
	if e.state.Active() {
		e.state.Cancel(e.deliver.decided, &e.teff)
	}
	newest := e.roots.Newest()
	if e.log.NeedsState() && newest.Seq() > e.deliver.decided {
		e.state.Want(now, newest, &e.teff)
	}
	return len(e.teff.Send)+len(e.teff.State)+len(e.teff.Note)+len(e.teff.SetTimer)+len(e.teff.StopTimer) > 0
}

// StateDone takes the result of an operation that Output.State asked for. With that of OpAdopt the
// checkpoint is on disk and execution has been restored from it, unless it had come further already.
func (e *Engine) StateDone(now time.Time, d transfer.StateDone, out *Output) {
	if e.state.Done(now, d, &e.teff) {
		e.installState(now, d.Meta, out)
	}
	e.finish(now, out)
}

// installState takes over an adopted checkpoint. The ordering keeps its vote state and goes on right
// above it.
func (e *Engine) installState(now time.Time, m transfer.Meta, out *Output) {
	cert := e.state.Cert()
	ahead := m.Seq > e.deliver.decided
	e.deliver.jump(m)
	if ahead {
		e.store.forgetPooled()
		e.watch.watched = nil
		d := protocol.Decision{HeaderInfo: m.HeaderInfo()}
		e.ord.Install(now, m.Seq, protocol.Proof{Decision: d, Checkpoint: cert}, &e.eff)
		e.absorb(now, out)
		e.log.Installed(now, e.deliver.position(), &e.teff)
		// What a quorum may have acknowledged meanwhile must be executed before reads are answered.
		st := e.ord.Status()
		e.view.Reopen(now, st.Voted, st.Locked, &e.teff)
		e.watch.lastDecision, e.watch.lastProgress = now, now
	}
	e.roots.Cert(cert, &e.teff)
	e.stable(now, out)(e.roots.Durable(m.Seq, cert.Root(), &e.teff))
}

// jump moves everything up to the checkpoint of m, which is durable and restored.
func (d *deliveries) jump(m transfer.Meta) {
	if d.handed < m.Seq {
		n := 0
		for n < len(d.waiting) && d.waiting[n].Decision.Seq <= m.Seq {
			n++
		}
		d.waiting = d.waiting[n:]
		d.handed, d.last, d.lastSize, d.lastKnown, d.since = m.Seq, m.Seq, m.Bytes, true, 0
	} else {
		d.sized(m.Seq, m.Bytes)
	}
	d.executedTo(m.Seq)
	if d.decided < m.Seq {
		d.decided, d.digest = m.Seq, m.Chain
	}
}

package sim

import (
	"bytes"
	"errors"
	"reflect"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/engine"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/storage"
)

// disk is a replica's disk: storage's crashable memory, synced with latency, one sync at a time
// while the next group gathers. A crash keeps a random part of what was not synced, in order; a
// record that was cut short reads as one that was not written.
type disk struct {
	n       *node
	store   *storage.Memory
	syncing bool
	newer   bool // records wait for a sync that has not begun

	// What is wrong with it.
	slow    int  // how many times slower it is; 0: not
	hung    bool // no sync and no checkpoint ends
	stuck   []func()
	failing bool              // the next sync fails
	full    bool              // every write fails
	tear    *occurrence       // cuts the next checkpoint short; nil: nothing does
	damaged bool              // bits rotted since the last recovery
	before  storage.Recovered // what that recovery would have read without the rot

	// What a restart must find, as the oracle knows it.
	appended          []appended
	stable            smr.SeqNo // certificate written, perhaps not synced
	durableDecided    smr.SeqNo
	durableStable     smr.SeqNo
	durableCheckpoint smr.SeqNo
	durableBefore     smr.SeqNo // the checkpoint before it
	newestSeq         smr.SeqNo
	newestRoot        smr.Digest
	newestSize        uint64
}

// appended says what becomes durable with a token.
type appended struct {
	token   uint64
	decided smr.SeqNo
}

func newDisk(n *node) *disk {
	return &disk{n: n, store: storage.NewMemory(storage.Strict)}
}

// broken reports whether the disk keeps its replica from working.
func (d *disk) broken() bool { return d.hung || d.failing || d.full }

// queueBytes bounds what waits for a hung disk; then the replica stands still, as the real one's
// loop waits for room in the store's queue.
const queueBytes = 256 << 10

// write appends records and sees to it that they are synced.
func (d *disk) write(w engine.Write) {
	if d.full {
		d.fence(storage.ErrDiskFull)
	}
	a := appended{token: w.Token}
	for _, r := range w.Records {
		if r.Kind == protocol.RecordDecision {
			a.decided = max(a.decided, r.Seq)
		}
	}
	d.appended = append(d.appended, a)
	d.store.Append(w.Token, w.Records, w.Bundles)
	d.newer = true
	d.sync()
	if d.hung {
		if _, bytes := d.store.Pending(); bytes > queueBytes {
			d.n.paused = true
		}
	}
}

// fence stops the replica for a failed write: nothing becomes durable any more, and it ends as soon
// as its loop hears of it.
func (d *disk) fence(err error) {
	if d.store.Err() != nil {
		return
	}
	n := d.n
	d.store.Fail(err)
	n.c.trace.note("replica %d: disk: %v", n.id, err)
	n.after(0, func() {
		n.c.trace.event("disk-fence", uint64(n.id))
		n.c.counts.Fenced++
		n.crash()
	})
}

// latency draws how long something with the given mean takes on this disk.
func (d *disk) latency(mean time.Duration) time.Duration {
	return d.n.rng.exponential(mean) * time.Duration(max(1, d.slow))
}

// unlessHung does it now, or once the disk goes on.
func (d *disk) unlessHung(do func()) {
	if d.hung {
		d.stuck = append(d.stuck, do)
		return
	}
	do()
}

// goOn ends a hang: all that was stuck is done, in order.
func (d *disk) goOn() {
	stuck := d.stuck
	d.hung, d.stuck = false, nil
	for _, do := range stuck {
		d.n.after(0, do)
	}
	if _, bytes := d.store.Pending(); d.n.paused && bytes > queueBytes {
		d.n.resume()
	}
}

// sync begins a sync of everything appended so far, unless one is under way.
func (d *disk) sync() {
	if d.syncing || !d.newer {
		return
	}
	d.syncing, d.newer = true, false
	writes, _ := d.store.Pending()
	stable := d.stable
	d.n.after(d.latency(d.n.c.plan.Sync), func() { d.unlessHung(func() { d.synced(writes, stable) }) })
}

func (d *disk) synced(writes int, stable smr.SeqNo) {
	n := d.n
	if d.failing {
		d.fence(errSync)
	}
	if d.store.Err() != nil {
		return // the replica stops
	}
	d.syncing = false
	upto := d.store.Sync(writes)
	if err := d.store.Err(); err != nil {
		n.c.fail("replica %d: disk: %v", n.id, err)
	}
	for len(d.appended) > 0 && d.appended[0].token <= upto {
		d.durableDecided = max(d.durableDecided, d.appended[0].decided)
		d.appended = d.appended[1:]
	}
	d.durableStable = max(d.durableStable, stable)
	n.c.trace.event("sync", uint64(n.id), upto)
	n.input(func(now time.Time) { n.engine.Durable(now, upto, &n.out) })
	d.sync()
}

var errSync = errors.New("fsync: input/output error")

// certified keeps the certificate of a checkpoint.
func (d *disk) certified(c auth.CheckpointCert) {
	d.stable = max(d.stable, c.Seq())
	d.store.SetCheckpointCert(c.Seq(), c.Cert.Bytes())
	d.newer = true
	d.sync()
}

// truncate lets the log at or below upto go.
func (d *disk) truncate(upto smr.SeqNo) {
	d.store.Truncate(upto)
	d.newer = true
	d.sync()
}

// crash loses a random part of what was not synced.
func (d *disk) crash() {
	r, counts := d.n.rng, d.n.c.counts.Faults
	d.store.Crash(func(pending int) int {
		kept := r.IntN(pending + 1)
		switch {
		case kept < pending && r.chance(0.5):
			counts[FaultTornRecord]++
		case kept < pending && kept > 0:
			counts[FaultUnsyncedPart]++
		case kept < pending:
			counts[FaultUnsyncedLost]++
		}
		return kept
	})
	d.syncing, d.newer, d.appended, d.stuck = false, false, nil, nil
	d.failing, d.tear, d.stable = false, nil, 0
}

// recover reads what a restart finds; false if the replica refuses to start on it.
func (d *disk) recover() (engine.Boot, bool) {
	damaged := d.damaged
	d.damaged = false
	rec, err := d.store.Recover()
	switch {
	case err != nil && damaged && errors.Is(err, storage.ErrCorrupt):
		d.n.bad = "damaged log"
		d.n.c.counts.Refused++
		d.n.c.trace.note("replica %d refuses to start: %v", d.n.id, err)
		return engine.Boot{}, false
	case err != nil:
		d.n.c.fail("replica %d: recover: %v", d.n.id, err)
	case damaged && rec.Base.Seq < d.before.Base.Seq:
		// An older checkpoint and the log above it stand in for the damaged one.
		d.durableCheckpoint, d.durableStable = rec.Base.Seq, 0
		d.n.c.counts.FellBack++
	case damaged && !reflect.DeepEqual(rec, d.before):
		d.n.c.fail("replica %d: bit rot was read as data", d.n.id)
	}
	d.before = storage.Recovered{}
	boot := engine.Boot{Recovered: rec.Recovered, Bundles: rec.Bundles, Executed: rec.Base.Seq, Observe: rec.Amnesic}
	d.newestSeq, d.newestRoot, d.newestSize = 0, smr.Digest{}, 0
	if cp := rec.Checkpoint; cp != nil {
		d.newestSeq, d.newestRoot, d.newestSize = cp.Seq, cp.Root, cp.Bytes
		boot.CheckpointSize = d.newestSize
		if rec.Certificate != nil {
			v := d.n.verifier
			cert, err := v.Open(v.Statement(auth.KindRoot, 0, cp.Seq, cp.Root), rec.Certificate)
			if err != nil {
				d.n.c.fail("replica %d: certificate of its checkpoint at %d: %v", d.n.id, cp.Seq, err)
			}
			boot.Checkpoint = auth.CheckpointCert{Cert: cert}
		}
	}
	return boot, true
}

// newest returns root and size of the checkpoint that recover found.
func (d *disk) newest() (smr.Digest, uint64) { return d.newestRoot, d.newestSize }

// restore puts the newest checkpoint into core.
func (d *disk) restore(core *execution.Core) {
	r, err := d.store.LatestCheckpoint()
	if err != nil {
		d.n.c.fail("replica %d: open checkpoint: %v", d.n.id, err)
	}
	if r == nil {
		return
	}
	defer r.Close()
	if err := core.Restore(r.Meta, r); err != nil {
		d.n.c.fail("replica %d: restore checkpoint: %v", d.n.id, err)
	}
}

// checkpoint writes a frozen state; it is durable when checkpoint returns.
func (d *disk) checkpoint(s *execution.Snapshot) execution.Written {
	m := s.Meta()
	to, err := d.store.BeginCheckpoint(m.Seq)
	if err != nil {
		d.n.c.fail("replica %d: checkpoint: %v", d.n.id, err)
	}
	w, err := s.Write(to)
	if err != nil {
		d.n.c.fail("replica %d: write checkpoint: %v", d.n.id, err)
	}
	desc, err := to.Commit(w.Meta)
	if err != nil {
		d.n.c.fail("replica %d: commit checkpoint: %v", d.n.id, err)
	}
	if desc.Root != w.Root {
		d.n.c.fail("replica %d: storage computes root %s of the checkpoint at %d, execution %s", d.n.id, desc.Root, m.Seq, w.Root)
	}
	d.newestSeq, d.newestRoot, d.newestSize = m.Seq, w.Root, w.Meta.Bytes
	d.durableBefore, d.durableCheckpoint = d.durableCheckpoint, max(d.durableCheckpoint, m.Seq)
	return w
}

// read answers a log read.
func (d *disk) read(q engine.LogRead) engine.LogReadResult {
	entries, first, err := d.store.ReadDecisions(q.After, q.Upto, q.MaxBytes)
	if err != nil {
		d.n.c.fail("replica %d: read log above %d: %v", d.n.id, q.After, err)
	}
	r := engine.LogReadResult{ID: q.ID, First: first}
	for _, e := range entries {
		r.Entries = append(r.Entries, transfer.LogEntry{Header: bytes.Clone(e.Header), Bundles: e.Bundles, Proof: e.Proof})
	}
	return r
}

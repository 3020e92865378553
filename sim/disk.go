package sim

import (
	"bytes"
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
// while the next group gathers. A crash keeps a random part of what was not synced, in order.
type disk struct {
	n       *node
	store   *storage.Memory
	syncing bool
	newer   bool // records wait for a sync that has not begun

	// What a restart must find, as the oracle knows it.
	appended          []appended
	durableDecided    smr.SeqNo
	durableCheckpoint smr.SeqNo
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

// write appends records and sees to it that they are synced.
func (d *disk) write(writes []engine.Write) {
	for _, w := range writes {
		a := appended{token: w.Token}
		for _, r := range w.Records {
			if r.Kind == protocol.RecordDecision {
				a.decided = max(a.decided, r.Seq)
			}
		}
		d.appended = append(d.appended, a)
		d.store.Append(w.Token, w.Records, w.Bundles)
		d.newer = true
	}
	d.sync()
}

// sync begins a sync of everything appended so far, unless one is under way.
func (d *disk) sync() {
	if d.syncing || !d.newer {
		return
	}
	d.syncing, d.newer = true, false
	writes, _ := d.store.Pending()
	n := d.n
	n.after(n.rng.exponential(n.c.plan.Sync), func() {
		d.syncing = false
		upto := d.store.Sync(writes)
		if err := d.store.Err(); err != nil {
			n.c.fail("replica %d: disk: %v", n.id, err)
		}
		for len(d.appended) > 0 && d.appended[0].token <= upto {
			d.durableDecided = max(d.durableDecided, d.appended[0].decided)
			d.appended = d.appended[1:]
		}
		n.c.trace.event("sync", uint64(n.id), upto)
		n.input(func(now time.Time) { n.engine.Durable(now, upto, &n.out) })
		d.sync()
	})
}

// certified keeps the certificate of a checkpoint.
func (d *disk) certified(c auth.CheckpointCert) {
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
	r := d.n.rng
	d.store.Crash(func(pending int) int { return r.IntN(pending + 1) })
	d.syncing, d.newer, d.appended = false, false, nil
}

// recover reads what a restart finds.
func (d *disk) recover() engine.Boot {
	rec, err := d.store.Recover()
	if err != nil {
		d.n.c.fail("replica %d: recover: %v", d.n.id, err)
	}
	boot := engine.Boot{Recovered: rec.Recovered, Bundles: rec.Bundles, Executed: rec.Base.Seq, Observe: rec.Amnesic}
	d.newestRoot, d.newestSize = smr.Digest{}, 0
	if cp := rec.Checkpoint; cp != nil {
		d.newestRoot, d.newestSize = cp.Root, uint64(cp.Bytes())
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
	return boot
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
	m, err := execution.DecodeMeta(r.Note)
	if err == nil {
		err = core.Restore(m, r)
	}
	if err != nil {
		d.n.c.fail("replica %d: restore checkpoint: %v", d.n.id, err)
	}
}

// checkpoint writes a frozen state; it is durable when checkpoint returns.
func (d *disk) checkpoint(s *execution.Snapshot) execution.Written {
	m := s.Meta()
	to, err := d.store.BeginCheckpoint(storage.CheckpointMeta{Seq: m.Seq, Epoch: m.Epoch, View: m.View, Time: m.Time, Chain: m.Chain, Membership: m.Membership})
	if err != nil {
		d.n.c.fail("replica %d: checkpoint: %v", d.n.id, err)
	}
	w, err := s.Write(to)
	if err != nil {
		d.n.c.fail("replica %d: write checkpoint: %v", d.n.id, err)
	}
	desc, err := to.Commit(w.Meta.Digest(), w.Meta.Append(nil))
	if err != nil {
		d.n.c.fail("replica %d: commit checkpoint: %v", d.n.id, err)
	}
	if desc.Root != w.Root {
		d.n.c.fail("replica %d: storage computes root %s of the checkpoint at %d, execution %s", d.n.id, desc.Root, m.Seq, w.Root)
	}
	d.durableCheckpoint = max(d.durableCheckpoint, m.Seq)
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

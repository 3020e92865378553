package storage

import (
	"crypto/sha256"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/goleak"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testID = Identity{Cluster: smr.ClusterID{1, 2, 3}, Node: 3}

type fakeSigner struct{}

func (fakeSigner) Public() smr.PublicKey { return smr.PublicKey{7} }
func (fakeSigner) Sign([]byte) []byte    { return make([]byte, auth.SignatureBytes) }

// bundle makes a well-formed bundle whose one op has n bytes.
func bundle(t testing.TB, session, first, n int) *smr.Bundle {
	t.Helper()
	b, err := wire.EncodeBundle(testID.Cluster, fakeSigner{}, smr.Bundle{
		Kind: smr.BundleOps, Client: 1, Session: smr.SessionID(session), First: smr.OpNumber(first), Ops: [][]byte{make([]byte, n)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func digestOf(what string) smr.Digest { return sha256.Sum256([]byte(what)) }

// proposal returns a proposal's record with its bundles, as Append takes them.
func proposal(seq smr.SeqNo, view smr.View, bs ...*smr.Bundle) (protocol.Record, []*smr.Bundle) {
	r := protocol.Record{
		Kind: protocol.RecordProposal, Epoch: 1, View: view, Seq: seq,
		Digest: digestOf(fmt.Sprint(seq, view)), Data: fmt.Appendf(nil, "header %d.%d", seq, view),
	}
	for _, b := range bs {
		r.Refs = append(r.Refs, b.Ref())
	}
	return r, bs
}

func decision(seq smr.SeqNo, view smr.View) protocol.Record {
	return protocol.Record{
		Kind: protocol.RecordDecision, Epoch: 1, View: view, Seq: seq,
		Digest: digestOf(fmt.Sprint(seq, view)), Data: fmt.Appendf(nil, "proof %d", seq),
	}
}

func vote(name uint8, seq smr.SeqNo) protocol.Record {
	return protocol.Record{Kind: protocol.RecordState, Name: name, Epoch: 1, View: 2, Seq: seq, Data: fmt.Appendf(nil, "vote %d", seq)}
}

// appendDecided appends seq as proposed and decided in view 0 under one token.
func appendDecided(t testing.TB, d Disk, token uint64, seq smr.SeqNo) {
	t.Helper()
	r, bs := proposal(seq, 0, bundle(t, 1<<20, int(seq), 40), bundle(t, 2<<20, int(seq), 10))
	d.Append(token, []protocol.Record{r, vote(1, seq), decision(seq, 0)}, [][]*smr.Bundle{bs})
}

// testDisk is a disk with the verbs tests need beside it.
type testDisk struct {
	Disk
	sync    func()      // everything appended is durable after it
	restart func() Disk // clean stop and start; also replaces Disk
	crash   func() Disk // stop without a sync and start
}

func openTest(t testing.TB, fs vfs.FS, opts Options) *Store {
	t.Helper()
	opts.FS = fs
	s, err := Open("data", testID, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func waitDurable(t testing.TB, s *Store, token uint64) {
	t.Helper()
	for s.DurableToken() < token {
		if err := s.Err(); err != nil {
			t.Fatal(err)
		}
		<-s.Durable()
	}
}

func newDisks(t *testing.T, mode Mode) map[string]*testDisk {
	mem := NewMemory(mode)
	out := map[string]*testDisk{"memory": {
		Disk: mem, sync: func() { mem.SyncNow() },
		restart: func() Disk { must(t, mem.Close()); mem.Reopen(); return mem },
		crash:   func() Disk { mem.Crash(nil); return mem },
	}}
	fs := vfs.NewCrashableMem()
	must(t, initDir(fs, "data", testID))
	s := openTest(t, fs, Options{Mode: mode})
	d := &testDisk{Disk: s}
	d.sync = func() {
		s.mu.Lock()
		last := uint64(0)
		for _, j := range s.queue {
			last = max(last, j.token)
		}
		s.mu.Unlock()
		waitDurable(t, s, last)
	}
	d.restart = func() Disk {
		must(t, s.Close())
		s = openTest(t, fs, Options{Mode: mode})
		d.Disk = s
		return s
	}
	d.crash = func() Disk {
		clone := fs.CrashClone(vfs.CrashCloneCfg{})
		_ = s.Close()
		fs = clone
		s = openTest(t, fs, Options{Mode: mode})
		d.Disk = s
		return s
	}
	t.Cleanup(func() { _ = s.Close() })
	out["pebble"] = d
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const partBytes = transfer.StreamPartBytes

// stream cuts n bytes of application state, which differ by seq, into parts.
func stream(seq smr.SeqNo, n int) (transfer.Meta, []transfer.Part, []byte) {
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(i*7 + i>>20 + int(seq))
	}
	m := transfer.Meta{Seq: seq, Chain: digestOf(fmt.Sprint(seq, 0)), Epoch: 1, Time: int64(seq) * 10, Kind: transfer.StateMonolithic, Bytes: uint64(n)}
	var parts []transfer.Part
	for at := 0; at < n; at += transfer.StreamPartBytes {
		b := data[at:min(n, at+transfer.StreamPartBytes)]
		parts = append(parts, transfer.Part{Section: transfer.SectionApplication, ID: smr.PartID(len(parts)), Bytes: uint32(len(b)), Digest: sha256.Sum256(b)})
	}
	m.Parts = uint64(len(parts))
	return m, parts, data
}

// checkpoint writes a checkpoint of n bytes at seq.
func checkpoint(t testing.TB, d Disk, seq smr.SeqNo, n int) *Descriptor {
	t.Helper()
	w, err := d.BeginCheckpoint(seq)
	must(t, err)
	meta, parts, data := stream(seq, n)
	for _, p := range parts {
		must(t, w.Part(p, data[:p.Bytes]))
		data = data[p.Bytes:]
	}
	desc, err := w.Commit(meta)
	must(t, err)
	return desc
}

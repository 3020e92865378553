package storage

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// onDisks runs a claim on both implementations.
func onDisks(t *testing.T, mode Mode, claim func(t *testing.T, d *testDisk)) {
	for name, d := range newDisks(t, mode) {
		t.Run(name, func(t *testing.T) { claim(t, d) })
	}
}

func TestFreshLogSaysSo(t *testing.T) {
	onDisks(t, Strict, func(t *testing.T, d *testDisk) {
		rec, err := d.Recover()
		must(t, err)
		if !rec.Fresh || rec.Amnesic || len(rec.State)+len(rec.Proposals)+len(rec.Decisions) != 0 {
			t.Fatalf("%+v", rec)
		}
		d.Append(1, []protocol.Record{vote(1, 1)}, nil)
		d.sync()
		rec, err = d.restart().Recover()
		must(t, err)
		if rec.Fresh {
			t.Fatal("fresh with a vote in it")
		}
	})
}

func TestDurableRecordsSurviveACrash(t *testing.T) {
	onDisks(t, Strict, func(t *testing.T, d *testDisk) {
		for seq := smr.SeqNo(1); seq <= 20; seq++ {
			appendDecided(t, d, uint64(seq), seq)
		}
		r, bs := proposal(21, 4, bundle(t, 1<<20, 99, 5))
		d.Append(21, []protocol.Record{r}, [][]*smr.Bundle{bs})
		d.sync()
		if s, ok := d.Disk.(*Store); ok {
			waitDurable(t, s, 21)
		}
		rec, err := d.crash().Recover()
		must(t, err)
		if len(rec.Decisions) != 20 || len(rec.Proposals) != 21 || len(rec.Bundles) != 41 || rec.Fresh || rec.Amnesic {
			t.Fatalf("%d decisions, %d proposals, %d bundles", len(rec.Decisions), len(rec.Proposals), len(rec.Bundles))
		}
		if len(rec.State) != 1 || rec.State[0].Seq != 20 || string(rec.State[0].Data) != "vote 20" || rec.State[0].View != 2 {
			t.Fatalf("state %+v", rec.State)
		}
		p := rec.Proposals[20]
		if p.Seq != 21 || p.View != 4 || p.Digest != r.Digest || string(p.Data) != "header 21.4" || len(p.Refs) != 1 || p.Refs[0] != r.Refs[0] {
			t.Fatalf("proposal %+v", p)
		}
		if !bytes.Equal(rec.Bundles[40].Raw, bs[0].Raw) {
			t.Fatal("bundle bytes changed")
		}
	})
}

func TestDroppedProposalIsGone(t *testing.T) {
	onDisks(t, Strict, func(t *testing.T, d *testDisk) {
		r, bs := proposal(1, 0, bundle(t, 1<<20, 1, 5))
		d.Append(1, []protocol.Record{r}, [][]*smr.Bundle{bs})
		r.Kind = protocol.RecordDrop
		d.Append(2, []protocol.Record{r}, nil)
		d.sync()
		rec, err := d.restart().Recover()
		must(t, err)
		if len(rec.Proposals) != 0 {
			t.Fatalf("%+v", rec.Proposals)
		}
	})
}

func TestReadDecisionsIsContiguousAndBounded(t *testing.T) {
	onDisks(t, Strict, func(t *testing.T, d *testDisk) {
		for seq := smr.SeqNo(1); seq <= 10; seq++ {
			appendDecided(t, d, uint64(seq), seq)
		}
		if s, ok := d.Disk.(*Store); ok {
			waitDurable(t, s, 10)
		}
		got, first, err := d.ReadDecisions(3, 7, 1<<20)
		must(t, err)
		if len(got) != 4 || first != 1 || got[0].Seq != 4 || got[3].Seq != 7 {
			t.Fatalf("%d entries, first %d", len(got), first)
		}
		e := got[0]
		if string(e.Header) != "header 4.0" || string(e.Proof) != "proof 4" || len(e.Bundles) != 2 || e.Digest != digestOf("4 0") {
			t.Fatalf("%+v", e)
		}
		one, _, err := d.ReadDecisions(0, 10, 1)
		must(t, err)
		if len(one) != 1 {
			t.Fatalf("%d entries for one byte, want the one that makes progress", len(one))
		}
		none, _, err := d.ReadDecisions(10, 20, 1<<20)
		must(t, err)
		if len(none) != 0 {
			t.Fatalf("%d entries beyond the log", len(none))
		}
	})
}

func TestTruncationNeverPassesTheKeptCheckpoints(t *testing.T) {
	onDisks(t, Strict, func(t *testing.T, d *testDisk) {
		token := uint64(0)
		grow := func(from, to smr.SeqNo) {
			for seq := from; seq <= to; seq++ {
				token++
				appendDecided(t, d, token, seq)
			}
		}
		first := func() smr.SeqNo {
			token++
			d.Append(token, []protocol.Record{vote(2, 0)}, nil)
			if s, ok := d.Disk.(*Store); ok {
				waitDurable(t, s, token)
			}
			d.sync()
			_, first, err := d.ReadDecisions(0, 1, 1)
			must(t, err)
			return first
		}
		grow(1, 30)
		d.Truncate(30)
		if f := first(); f != 1 {
			t.Fatalf("truncated to %d without a checkpoint", f)
		}
		checkpoint(t, d, 10, 100)
		checkpoint(t, d, 20, 100)
		d.Truncate(15)
		if f := first(); f != 11 {
			t.Fatalf("first is %d, want 11: the older kept checkpoint is at 10", f)
		}
		checkpoint(t, d, 30, 100)
		d.Truncate(30)
		if f := first(); f != 21 {
			t.Fatalf("first is %d, want 21", f)
		}
		rec, err := d.restart().Recover()
		must(t, err)
		if rec.Base.Seq != 30 || rec.Base.Digest != digestOf("30 0") || rec.Base.Time != 300 || len(rec.Decisions) != 0 || len(rec.State) != 2 {
			t.Fatalf("base %+v, %d decisions, %d states", rec.Base, len(rec.Decisions), len(rec.State))
		}
	})
}

func TestCheckpointRoundTrip(t *testing.T) {
	onDisks(t, Strict, func(t *testing.T, d *testDisk) {
		for i, n := range []int{0, 1, partBytes - 1, partBytes, partBytes + 1, 3*partBytes + 5} {
			seq := smr.SeqNo(i + 1)
			want := checkpoint(t, d, seq, n)
			cert := fmt.Appendf(nil, "cert %d", seq)
			d.SetCheckpointCert(seq, cert)
			r, err := d.restart().LatestCheckpoint()
			must(t, err)
			if r == nil || r.Seq != seq || r.Root != want.Root || r.Meta != want.Meta || !bytes.Equal(r.Certificate, cert) {
				t.Fatalf("%d bytes: %+v", n, r)
			}
			data, err := io.ReadAll(r)
			must(t, err)
			if len(data) != n || (n > 9 && data[9] != byte(63+int(seq))) {
				t.Fatalf("%d bytes read, want %d", len(data), n)
			}
			if wantParts := (n + partBytes - 1) / partBytes; len(r.Parts) != wantParts {
				t.Fatalf("%d parts, want %d", len(r.Parts), wantParts)
			}
			must(t, r.Close())
		}
	})
}

func TestAbandonedCheckpointLeavesNothing(t *testing.T) {
	onDisks(t, Strict, func(t *testing.T, d *testDisk) {
		w, err := d.BeginCheckpoint(5)
		must(t, err)
		if _, err := d.BeginCheckpoint(6); err == nil {
			t.Fatal("two checkpoints at once")
		}
		must(t, w.Part(transfer.Part{Bytes: 10}, make([]byte, 10)))
		w.Abort()
		w.Abort()
		w, err = d.BeginCheckpoint(7)
		must(t, err)
		must(t, w.Part(transfer.Part{Bytes: 10}, make([]byte, 10)))
		r, err := d.crash().LatestCheckpoint() // in mid-write
		must(t, err)
		if r != nil {
			t.Fatalf("found %d", r.Seq)
		}
		w.Abort()
	})
}

func TestOnlyACleanStopKeepsMemoryOutsideStrict(t *testing.T) {
	onDisks(t, Relaxed, func(t *testing.T, d *testDisk) {
		d.Append(1, []protocol.Record{vote(1, 1)}, nil)
		rec, err := d.restart().Recover()
		must(t, err)
		if rec.Amnesic || len(rec.State) != 1 {
			t.Fatalf("after a clean stop: %+v", rec)
		}
		rec, err = d.crash().Recover()
		must(t, err)
		if !rec.Amnesic {
			t.Fatal("a crash in relaxed mode may have lost votes")
		}
		rec, err = d.restart().Recover()
		must(t, err)
		if !rec.Amnesic {
			t.Fatal("a clean stop later does not bring votes back")
		}
	})
	onDisks(t, MemoryOnly, func(t *testing.T, d *testDisk) {
		rec, err := d.Recover()
		must(t, err)
		if rec.Amnesic {
			t.Fatal("the first run has nothing to forget")
		}
		d.Append(1, []protocol.Record{vote(1, 1)}, nil)
		rec, err = d.restart().Recover()
		must(t, err)
		if !rec.Amnesic || len(rec.State) != 0 {
			t.Fatalf("%+v", rec)
		}
	})
}

package storage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// cut returns the bytes of each part.
func cut(parts []transfer.Part, data []byte) (out [][]byte) {
	for _, p := range parts {
		out = append(out, data[:p.Bytes])
		data = data[p.Bytes:]
	}
	return out
}

func begin(t *testing.T, d Disk, m transfer.Meta, parts []transfer.Part) (Incoming, []transfer.Holding) {
	t.Helper()
	in, err := d.BeginIncoming(m, transfer.Root(m, parts))
	must(t, err)
	held, err := in.Stage(0, parts)
	must(t, err)
	return in, held
}

func TestAReceivedCheckpointIsOneLikeThoseWrittenHere(t *testing.T) {
	onDisks(t, Strict, func(t *testing.T, d *testDisk) {
		checkpoint(t, d, 10, 2*partBytes)
		m, parts, data := stream(20, 3*partBytes+5)
		in, held := begin(t, d, m, parts)
		for i := len(parts) - 1; i >= 0; i-- { // in any order
			if held[i] != transfer.Lacking {
				t.Fatalf("part %d is held", i)
			}
			must(t, in.Put(uint64(i), cut(parts, data)[i]))
		}
		want, err := in.Adopt()
		must(t, err)
		if want.Root != transfer.Root(m, parts) {
			t.Fatal("root")
		}
		r, err := d.crash().LatestCheckpoint()
		must(t, err)
		got, err := io.ReadAll(r)
		must(t, err)
		if r.Meta != m || !bytes.Equal(got, data) {
			t.Fatalf("%+v, %d bytes", r.Meta, len(got))
		}
		must(t, r.Close())
		if r, err := d.OpenCheckpoint(10); err != nil || r == nil {
			t.Fatalf("the one before has gone: %v", err)
		} else {
			must(t, r.Close())
		}
	})
}

func TestAnInterruptedTransferKeepsWhatItHas(t *testing.T) {
	onDisks(t, Strict, func(t *testing.T, d *testDisk) {
		m, parts, data := stream(20, 4*partBytes)
		in, _ := begin(t, d, m, parts)
		must(t, in.Put(1, cut(parts, data)[1]))
		must(t, in.Put(3, cut(parts, data)[3]))
		must(t, in.Close())
		d.restart()
		if r, err := d.LatestCheckpoint(); err != nil || r != nil {
			t.Fatalf("half a checkpoint is one: %v", err)
		}
		in, held := begin(t, d, m, parts)
		if want := []transfer.Holding{transfer.Lacking, transfer.Left, transfer.Lacking, transfer.Left}; !equal(held, want) {
			t.Fatalf("held %v", held)
		}
		if _, err := in.Adopt(); err == nil {
			t.Fatal("adopted with parts lacking")
		}
		for _, i := range []uint64{0, 2} {
			must(t, in.Put(i, cut(parts, data)[i]))
		}
		_, err := in.Adopt()
		must(t, err)
		r, err := d.restart().LatestCheckpoint()
		must(t, err)
		must(t, r.verify())
		must(t, r.Close())
	})
}

func equal(a, b []transfer.Holding) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}

func TestPartsThatAnotherCheckpointHoldsAreNotMoved(t *testing.T) {
	onDisks(t, Strict, func(t *testing.T, d *testDisk) {
		_, parts, data := stream(10, 8*partBytes)
		w, err := d.BeginCheckpoint(10)
		must(t, err)
		for i, p := range parts {
			must(t, w.Part(p, cut(parts, data)[i]))
		}
		m, _, _ := stream(10, 8*partBytes)
		_, err = w.Commit(m)
		must(t, err)
		data[5*partBytes+3] ^= 1
		next := m
		next.Seq = 20
		changed := append([]transfer.Part(nil), parts...)
		changed[5].Digest = sha256.Sum256(cut(parts, data)[5])
		in, held := begin(t, d, next, changed)
		for i, h := range held {
			if (h == transfer.Found) != (i != 5) {
				t.Fatalf("part %d: %v", i, h)
			}
		}
		must(t, in.Put(5, cut(parts, data)[5]))
		_, err = in.Adopt()
		must(t, err)
		r, err := d.LatestCheckpoint()
		must(t, err)
		got, err := io.ReadAll(r)
		must(t, err)
		if !bytes.Equal(got, data) {
			t.Fatal("other bytes")
		}
		must(t, r.Close())
	})
}

func TestACheckpointThatIsOpenStaysReadable(t *testing.T) {
	onDisks(t, Strict, func(t *testing.T, d *testDisk) {
		checkpoint(t, d, 10, 3*partBytes)
		r, err := d.OpenCheckpoint(10)
		must(t, err)
		for seq := smr.SeqNo(20); seq <= 50; seq += 10 {
			checkpoint(t, d, seq, partBytes)
		}
		if gone, err := d.OpenCheckpoint(10); err != nil || gone != nil {
			t.Fatalf("it is still kept: %v", err)
		}
		must(t, r.verify())
		must(t, r.Close())
	})
}

func TestStagedBytesThatRottedAreFetchedAgain(t *testing.T) {
	dir := filledDir(t, 3)
	s, err := Open(dir, testID, Options{})
	must(t, err)
	m, parts, data := stream(20, 3*partBytes)
	in, _ := begin(t, s, m, parts)
	for i, b := range cut(parts, data) {
		must(t, in.Put(uint64(i), b))
	}
	must(t, in.Close())
	must(t, s.Close())
	path := filepath.Join(dir, "checkpoints", incomingName(20, transfer.Root(m, parts)))
	b, err := os.ReadFile(path)
	must(t, err)
	b[partBytes+77] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
	s, err = Open(dir, testID, Options{})
	must(t, err)
	defer s.Close()
	in, held := begin(t, s, m, parts)
	if want := []transfer.Holding{transfer.Left, transfer.Lacking, transfer.Left}; !equal(held, want) {
		t.Fatalf("held %v", held)
	}
	must(t, in.Drop())
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("a dropped transfer leaves its file")
	}
}

func TestReceiverAndServerMoveACheckpointFromDiskToDisk(t *testing.T) {
	onDisks(t, Strict, func(t *testing.T, d *testDisk) {
		from := NewMemory(Strict)
		want := checkpoint(t, from, 20, 3*partBytes+1)
		server, receiver := NewServer(from), NewReceiver(d)
		defer server.Close()
		ask := func(what transfer.What, i uint64) *transfer.StateReply {
			payload, err := server.Answer(transfer.StateRequest{Seq: 20, Root: want.Root, What: what, Index: i})
			must(t, err)
			r, err := transfer.DecodeStateReply(payload)
			must(t, err)
			if r.What != what || r.Wrong {
				t.Fatalf("%+v", r.StateRequest)
			}
			return r
		}
		do := func(op transfer.StateOp) transfer.StateDone {
			done, _ := receiver.Do(op)
			must(t, done.Err)
			return done
		}
		page := ask(transfer.WhatPage, 0)
		do(transfer.StateOp{Kind: transfer.OpBegin, Meta: page.Meta, Root: want.Root})
		for i, h := range do(transfer.StateOp{Kind: transfer.OpStage, Parts: page.Parts}).Held {
			if h == transfer.Lacking {
				do(transfer.StateOp{Kind: transfer.OpPut, Index: uint64(i), Data: ask(transfer.WhatPart, uint64(i)).Data})
			}
		}
		if done := do(transfer.StateOp{Kind: transfer.OpAdopt, Root: want.Root}); done.Meta != want.Meta {
			t.Fatalf("%+v", done.Meta)
		}
		for _, q := range []transfer.StateRequest{{Seq: 20, What: transfer.WhatPart}, {Seq: 19, Root: want.Root, What: transfer.WhatPage}, {Seq: 20, Root: want.Root, What: transfer.WhatPart, Index: 4}} {
			payload, err := server.Answer(q)
			must(t, err)
			if r, err := transfer.DecodeStateReply(payload); err != nil || r.What != transfer.WhatGone {
				t.Fatalf("%+v: %+v %v", q, r, err)
			}
		}
	})
}

// opened counts how often checkpoints are opened.
type opened struct {
	Disk
	n int
}

func (o *opened) OpenCheckpoint(seq smr.SeqNo) (*CheckpointReader, error) {
	o.n++
	return o.Disk.OpenCheckpoint(seq)
}

func TestAskingForRootsThatAreNoneOpensNothing(t *testing.T) {
	m := NewMemory(Strict)
	want := checkpoint(t, m, 20, 2*partBytes)
	d := &opened{Disk: m}
	server := NewServer(d)
	defer server.Close()
	for i := range 100 {
		payload, err := server.Answer(transfer.StateRequest{Seq: 20, Root: smr.Digest{byte(i)}, What: transfer.WhatPart})
		must(t, err)
		if r, err := transfer.DecodeStateReply(payload); err != nil || r.What != transfer.WhatGone {
			t.Fatalf("%+v %v", r, err)
		}
	}
	if d.n > 1 {
		t.Fatalf("opened %d times", d.n)
	}
	payload, err := server.Answer(transfer.StateRequest{Seq: 20, Root: want.Root, What: transfer.WhatPart})
	must(t, err)
	if r, err := transfer.DecodeStateReply(payload); err != nil || r.What != transfer.WhatPart {
		t.Fatalf("%+v %v", r, err)
	}
}

// divided describes divisible state whose parts have the given versions.
func divided(seq smr.SeqNo, versions []int) (transfer.Meta, []transfer.Part, [][]byte) {
	m := transfer.Meta{Seq: seq, Kind: transfer.StateDivisible, Parts: uint64(len(versions))}
	var parts []transfer.Part
	var data [][]byte
	for id, v := range versions {
		b := partContent(id, v)
		parts = append(parts, transfer.Part{Section: transfer.SectionApplication, ID: smr.PartID(id), Bytes: uint32(len(b)), Digest: sha256.Sum256(b)})
		data = append(data, b)
		m.Bytes += uint64(len(b))
	}
	return m, parts, data
}

// One part of a thousand changed: one part moves and one is written. Interrupted transfers go on, also
// when the target changes and a checkpoint is made in between.
func TestPartsOfDivisibleStateAreReceivedOnce(t *testing.T) {
	s, err := Open(filledDir(t, 3), testID, Options{})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	versions := make([]int, 1000)
	m, parts, data := divided(20, versions)
	count := func(held []transfer.Holding) (n [3]int) {
		for _, h := range held {
			n[h]++
		}
		return n
	}
	in, held := begin(t, s, m, parts)
	if n := count(held); n[transfer.Lacking] != 1000 {
		t.Fatalf("%v", n)
	}
	for i := range 400 {
		must(t, in.Put(uint64(i), data[i]))
	}
	must(t, in.Close())
	checkpoint(t, s, 15, 10) // collects what nobody needs
	versions[700] = 1
	m, parts, data = divided(30, versions)
	in, held = begin(t, s, m, parts)
	if n := count(held); n[transfer.Left] != 400 {
		t.Fatalf("%v", n)
	}
	for i := 400; i < 1000; i++ {
		if _, err := in.Adopt(); err == nil {
			t.Fatal("adopted with parts lacking")
		}
		must(t, in.Put(uint64(i), data[i]))
	}
	_, err = in.Adopt()
	must(t, err)
	versions[3] = 1
	m, parts, data = divided(40, versions)
	in, held = begin(t, s, m, parts)
	if n := count(held); n[transfer.Found] != 999 || held[3] != transfer.Lacking {
		t.Fatalf("%v", n)
	}
	must(t, in.Put(3, data[3]))
	d, err := in.Adopt()
	must(t, err)
	r, err := s.LatestCheckpoint()
	must(t, err)
	if r.Root != d.Root || r.Seq != 40 || r.pinned == nil {
		t.Fatalf("%+v", r.Meta)
	}
	must(t, r.verify())
	must(t, r.Close())
}

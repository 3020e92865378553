package storage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// partContent is what part id holds in version v of a state; its length differs by id.
func partContent(id, v int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "part %d.%d|", id, v), 1+id%5)
}

// writeDivided writes the checkpoint at seq whose part i is in version versions[i], and returns how
// many parts had to be given.
func writeDivided(c *checkpointFiles, seq smr.SeqNo, versions []int) (given int, err error) {
	w, err := c.begin(seq, true)
	if err != nil {
		return 0, err
	}
	m := transfer.Meta{Seq: seq, Kind: transfer.StateDivisible, TableParts: 1, Parts: uint64(1 + len(versions))}
	add := func(p transfer.Part, data []byte) {
		p.Bytes, p.Digest = uint32(len(data)), sha256.Sum256(data)
		m.Bytes += uint64(len(data))
		if !w.Keep(p) {
			given++
			_ = w.Part(p, data) // sticks until Commit
		}
	}
	add(transfer.Part{Section: transfer.SectionTable}, []byte("session table"))
	m.Table = m.Bytes
	for i, v := range versions {
		add(transfer.Part{Section: transfer.SectionApplication, ID: smr.PartID(i)}, partContent(i, v))
	}
	_, err = w.Commit(m)
	return given, err
}

func openFiles(t testing.TB, fs vfs.FS, limit int64) *checkpointFiles {
	t.Helper()
	must(t, fs.MkdirAll("ckpt", 0o700))
	must(t, syncDir(fs, "")) // as Open does, with the files beside it
	c, err := openCheckpointFiles(fs, "ckpt")
	must(t, err)
	c.parts.limit = limit
	return c
}

// readDivided reads the newest whole checkpoint out and checks that it is the one of history; 0 for
// none.
func readDivided(t testing.TB, c *checkpointFiles, history [][]int) smr.SeqNo {
	t.Helper()
	r, err := c.latest(func(err error) { t.Log(err) })
	must(t, err)
	if r == nil {
		return 0
	}
	defer func() { must(t, r.Close()) }()
	var got, want []byte
	for i := range r.Parts {
		got, err = r.ReadPart(got, i)
		must(t, err)
	}
	want = append(want, "session table"...)
	for i, v := range history[r.Seq] {
		want = append(want, partContent(i, v)...)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("checkpoint %d holds something else", r.Seq)
	}
	return r.Seq
}

// histories returns versions of n parts at sequence numbers 1 to upto, of which a few change each time.
func histories(n, upto int) [][]int {
	rng := rand.New(rand.NewPCG(1, 2))
	out := [][]int{make([]int, n)}
	for range upto {
		next := append([]int(nil), out[len(out)-1]...)
		for range 1 + n/10 {
			next[rng.IntN(n)]++
		}
		out = append(out, next)
	}
	return out
}

func TestOnlyChangedPartsAreWritten(t *testing.T) {
	c := openFiles(t, vfs.NewMem(), 1<<10)
	versions := make([]int, 1000)
	given, err := writeDivided(c, 1, versions)
	must(t, err)
	if distinct := 1001; given != distinct {
		t.Errorf("%d parts were written first, want %d", given, distinct)
	}
	versions[500]++
	given, err = writeDivided(c, 2, versions)
	must(t, err)
	if given != 1 {
		t.Errorf("%d parts were written for one that changed", given)
	}
	must(t, c.parts.close())
}

// At every write, rename and sync the machine may stop: what is found then is the newest checkpoint
// that was committed, or the one being committed, whole; and the log of parts can go on from there.
func TestACrashAtEveryWriteLeavesAWholeCheckpoint(t *testing.T) {
	for _, survive := range []int{0, 50, 100} {
		mem, rng := vfs.NewCrashableMem(), rand.New(rand.NewPCG(uint64(survive), 7))
		committed := smr.SeqNo(0)
		history := histories(30, 9)
		boundaries := 0
		var check func(fs *vfs.MemFS)
		busy := false
		fs := errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
			if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && !busy {
				busy = true
				boundaries++
				check(mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: survive, RNG: rng}))
				busy = false
			}
			return nil
		}))
		check = func(clone *vfs.MemFS) {
			c := openFiles(t, clone, 200)
			at := readDivided(t, c, history)
			if at != committed && at != committed+1 {
				t.Fatalf("boundary %d: checkpoint %d after %d was committed", boundaries, at, committed)
			}
			_, err := writeDivided(c, at+1, history[at+1])
			must(t, err)
			if got := readDivided(t, c, history); got != at+1 {
				t.Fatalf("boundary %d: checkpoint %d after going on from %d", boundaries, got, at)
			}
			must(t, c.parts.close())
		}
		c := openFiles(t, fs, 200)
		for seq := smr.SeqNo(1); seq < 9; seq++ {
			_, err := writeDivided(c, seq, history[seq])
			must(t, err)
			committed = seq
		}
		if c.parts.moved == 0 || c.parts.removed == 0 {
			t.Error("nothing was collected")
		}
		if boundaries < 100 {
			t.Errorf("%d boundaries", boundaries)
		}
		must(t, c.parts.close())
	}
}

// Whatever is kept, the packs hold little more than the parts that are needed.
func TestPartsThatNobodyNeedsGo(t *testing.T) {
	fs := vfs.NewMem()
	c := openFiles(t, fs, 400)
	history := histories(40, 60)
	for seq := 1; seq <= 60; seq++ {
		_, err := writeDivided(c, smr.SeqNo(seq), history[seq])
		must(t, err)
		need := map[smr.Digest]int64{}
		for _, at := range []int{seq, max(1, seq-1)} {
			for i, v := range history[at] {
				b := partContent(i, v)
				need[sha256.Sum256(b)] = recordHead + int64(len(b))
			}
		}
		needed, have := int64(200), int64(0)
		for _, n := range need {
			needed += n
		}
		for _, p := range c.parts.packs {
			have += p.size
		}
		if have > packWorthwhile*needed+400 {
			t.Fatalf("after checkpoint %d packs hold %d bytes, %d are needed", seq, have, needed)
		}
	}
	must(t, c.parts.close())
}

// A checkpoint that is being read stays readable while newer ones replace it, and what only it needs
// goes when it is closed.
func TestAReaderKeepsItsParts(t *testing.T) {
	c := openFiles(t, vfs.NewMem(), 300)
	history := histories(30, 20)
	_, err := writeDivided(c, 1, history[1])
	must(t, err)
	r, err := c.latest(func(error) {})
	must(t, err)
	for seq := 2; seq <= 20; seq++ {
		_, err := writeDivided(c, smr.SeqNo(seq), history[seq])
		must(t, err)
	}
	for i, v := range history[1] {
		b, err := r.ReadPart(nil, 1+i)
		must(t, err)
		if !bytes.Equal(b, partContent(i, v)) {
			t.Fatalf("part %d is another", i)
		}
	}
	before := len(c.parts.packs)
	must(t, r.Close())
	if after := len(c.parts.packs); after >= before {
		t.Errorf("%d packs before and %d after the reader was closed", before, after)
	}
	must(t, c.parts.close())
}

// A flipped bit anywhere in the packs is never read as state. The checkpoint it belongs to is set
// aside; the next one that has the part writes it again.
func TestRotInAPackIsFoundAndRepairedByTheNextCheckpoint(t *testing.T) {
	history := histories(12, 3)
	for at := 0; ; at += 23 {
		fs := vfs.NewMem()
		c := openFiles(t, fs, 1<<20)
		for seq := smr.SeqNo(1); seq <= 2; seq++ {
			_, err := writeDivided(c, seq, history[seq])
			must(t, err)
		}
		must(t, c.parts.close())
		if !flip(t, fs, "ckpt/parts/"+packName(1), at) {
			break
		}
		c = openFiles(t, fs, 1<<20)
		damaged := 0
		r, err := c.latest(func(err error) {
			damaged++
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("byte %d: %v", at, err)
			}
		})
		must(t, err)
		if r != nil {
			must(t, r.Close())
		}
		_ = readDivided(t, c, history)
		_, err = writeDivided(c, 3, history[3])
		must(t, err)
		if got := readDivided(t, c, history); got != 3 {
			t.Fatalf("byte %d: the next checkpoint reads as %d", at, got)
		}
		must(t, c.parts.close())
		c = openFiles(t, fs, 1<<20)
		if got := readDivided(t, c, history); got != 3 {
			t.Fatalf("byte %d: after a restart the newest checkpoint is %d", at, got)
		}
		must(t, c.parts.close())
	}
}

// A flipped bit anywhere in the newest descriptor is reported and leaves the checkpoint before.
func TestADamagedDescriptorFallsBackToTheCheckpointBefore(t *testing.T) {
	history := histories(12, 2)
	for at := 0; ; at++ {
		fs := vfs.NewMem()
		c := openFiles(t, fs, 1<<20)
		for seq := smr.SeqNo(1); seq <= 2; seq++ {
			_, err := writeDivided(c, seq, history[seq])
			must(t, err)
		}
		must(t, c.parts.close())
		if !flip(t, fs, c.path(2), at) {
			break
		}
		c = openFiles(t, fs, 1<<20)
		var damage error
		r, err := c.latest(func(err error) { damage = err })
		must(t, err)
		if r == nil || r.Seq != 1 || !errors.Is(damage, ErrCorrupt) {
			t.Fatalf("byte %d: %v was found, %v reported", at, r, damage)
		}
		must(t, r.Close())
		if got := readDivided(t, c, history); got != 1 {
			t.Fatalf("byte %d: checkpoint %d", at, got)
		}
		must(t, c.parts.close())
	}
}

// flip flips a bit of the byte at the given offset; false if the file ends before it.
func flip(t testing.TB, fs vfs.FS, path string, at int) bool {
	t.Helper()
	f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	info, err := f.Stat()
	must(t, err)
	if int64(at) >= info.Size() {
		return false
	}
	b := make([]byte, 1)
	_, err = f.ReadAt(b, int64(at))
	must(t, err)
	b[0] ^= 4
	_, err = f.WriteAt(b, int64(at))
	must(t, err)
	return true
}

// A write that fails ends the checkpoint with that error and leaves the earlier one.
func TestAFailedWriteOfAPartLeavesTheEarlierCheckpoint(t *testing.T) {
	var mem *vfs.MemFS
	broken := errors.New("no space")
	countdown := -1
	fs := errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite || countdown < 0 {
			return nil
		}
		if countdown--; countdown < 0 {
			return broken
		}
		return nil
	})
	history := histories(20, 60)
	for fail := 0; ; fail++ {
		mem = vfs.NewMem()
		c := openFiles(t, errorfs.Wrap(mem, fs), 300)
		for seq := smr.SeqNo(1); seq <= 4; seq++ {
			_, err := writeDivided(c, seq, history[seq])
			must(t, err)
		}
		countdown = fail
		_, err := writeDivided(c, 5, history[5])
		done := countdown >= 0
		countdown = -1
		if !done && !errors.Is(err, broken) {
			t.Fatalf("write %d failed, the checkpoint says %v", fail, err)
		}
		_ = c.parts.close()
		again := openFiles(t, mem, 300)
		if got := readDivided(t, again, history); got != 4 && got != 5 {
			t.Fatalf("write %d: found checkpoint %d", fail, got)
		}
		_, err = writeDivided(again, 6, history[6])
		must(t, err)
		must(t, again.parts.close())
		if done {
			return
		}
	}
}

// Whatever bytes a pack holds, opening it does not fail, and what it indexes reads as its digest says
// or as damage.
func FuzzOpenPack(f *testing.F) {
	fs := vfs.NewMem()
	l, err := openPartLog(fs, "p")
	must(f, err)
	for i := range 3 {
		must(f, l.put(sha256.Sum256(partContent(i, i)), partContent(i, i)))
	}
	must(f, l.sync())
	whole, err := readFile(fs, "p/"+packName(1))
	must(f, err)
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Add([]byte(packMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := vfs.NewMem()
		must(t, fs.MkdirAll("p", 0o700))
		file, err := fs.Create("p/"+packName(1), vfs.WriteCategoryUnspecified)
		must(t, err)
		_, err = file.Write(bytes.Clone(b))
		must(t, err)
		must(t, file.Close())
		l, err := openPartLog(fs, "p")
		must(t, err)
		for d, p := range l.index {
			data, err := l.read(nil, d, p)
			if err == nil && sha256.Sum256(data) != d || err != nil && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v: %d bytes, %v", d, len(data), err)
			}
		}
		must(t, l.put(sha256.Sum256([]byte("x")), []byte("x")))
		must(t, l.sync())
		must(t, l.close())
	})
}

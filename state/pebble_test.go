package state

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/atlas-smr/smr"
)

// consistent checks that what a map says of its parts is true, by counting, hashing and comparing
// with a map in memory that has them.
func consistent(t *testing.T, m *Pebble) image {
	t.Helper()
	im := capture(t, m) // compares digests with bytes
	content := map[string]string{}
	must(t, m.Scan("", "", func(k string, v []byte) bool { content[k] = string(v); return true }))
	checkParts(t, &m.parts, im, content)
	if m.Len() != len(content) {
		t.Fatalf("%d keys, says %d", len(content), m.Len())
	}
	return im
}

func TestAMapOnDiskIsWhatItWasAfterReopening(t *testing.T) {
	fs := vfs.NewMem()
	m := openSmall(t, fs)
	fill(t, m, 500)
	must(t, m.SetMeta([]byte("meta")))
	before := capture(t, m)
	must(t, m.Close())
	m = openSmall(t, fs)
	hashed := 0
	f := m.Freeze().(*frozen)
	f.hashed = func(*part, smr.Digest) error { hashed++; return nil }
	if !read(t, f).equal(before) || string(m.Meta()) != "meta" {
		t.Error("another state")
	}
	f.Release()
	if hashed != 0 {
		t.Errorf("%d digests were forgotten", hashed)
	}
	must(t, m.Close())
}

// After a crash at any moment the map is an older state, consistent in itself, and restoring a
// checkpoint gives that checkpoint; from there on it goes the way of a map that never stopped.
func TestACrashLeavesAStateFromWhichEverythingCanBeRestored(t *testing.T) {
	for _, survive := range []int{0, 50, 100} {
		t.Run(fmt.Sprintf("%d percent survive", survive), func(t *testing.T) {
			fs, rng := vfs.NewCrashableMem(), rand.New(rand.NewPCG(uint64(survive), 0))
			m, twin := openSmall(t, fs), newSmall()
			step := func(x Map, i int) {
				k := fmt.Sprintf("key%03d", i*37%300)
				if i%5 == 4 {
					_, err := x.Delete(k)
					must(t, err)
					return
				}
				must(t, x.Set(k, make([]byte, i%120)))
			}
			var checkpoint image
			for i := range 1200 {
				step(m, i)
				if i <= 700 {
					step(twin, i)
				}
				if i%100 == 99 {
					must(t, m.db.Flush())
				}
				if i == 700 {
					checkpoint = capture(t, m)
				}
				if i < 700 || i%50 != 0 {
					continue
				}
				clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: survive, RNG: rng})
				back := openSmall(t, clone)
				consistent(t, back)
				restore(t, back, checkpoint)
				if !consistent(t, back).equal(checkpoint) {
					t.Fatal("another state than the checkpoint")
				}
				other := newSmall()
				restore(t, other, capture(t, twin))
				for j := range 200 {
					step(back, 701+j)
					step(other, 701+j)
				}
				if !capture(t, back).equal(capture(t, other)) {
					t.Fatal("after the restore the map goes another way")
				}
				must(t, back.Close())
			}
			must(t, m.Close())
		})
	}
}

// Wherever a replacement of parts stops, the map says so until it is done again, also after the end
// of the process.
func TestARestoreThatStopsHalfwayIsNoticedAndDoneAgain(t *testing.T) {
	source := newSmall()
	fill(t, source, 80)
	im := capture(t, source)
	for stop := 2; stop <= len(im.infos); stop++ {
		fs := vfs.NewMem()
		m := openSmall(t, fs)
		must(t, m.Set("zzz", []byte("old")))
		w := m.Begin()
		for _, p := range im.infos[:stop] {
			must(t, w.Put(p, im.data[p.ID]))
		}
		if stop < len(im.infos) {
			if err := w.Commit(); !errors.Is(err, ErrPart) {
				t.Fatalf("Commit of %d parts: %v", stop, err)
			}
		} else {
			w.Abort()
		}
		for range 2 {
			if _, _, err := m.Get("zzz"); !errors.Is(err, ErrIncomplete) {
				t.Fatalf("after %d parts: %v", stop, err)
			}
			if _, err := m.Freeze().Parts(); !errors.Is(err, ErrIncomplete) {
				t.Fatalf("after %d parts: %v", stop, err)
			}
			must(t, m.Close())
			m = openSmall(t, fs)
		}
		restore(t, m, im)
		if !consistent(t, m).equal(im) {
			t.Fatal("another state")
		}
		must(t, m.Close())
	}
}

func TestResetGivesANewMap(t *testing.T) {
	disk := openSmall(t, vfs.NewMem())
	for _, m := range []Map{newSmall(), disk} {
		fill(t, m, 100)
		must(t, m.SetMeta([]byte("x")))
		must(t, m.Reset())
		if !capture(t, m).equal(capture(t, newSmall())) || m.Len() != 0 || m.Meta() != nil {
			t.Errorf("%T: something is left", m)
		}
	}
	must(t, disk.Close())
}

// Rot in a file of the map is an error when it is read, never another value.
func TestRotOnDiskIsAnError(t *testing.T) {
	fs := vfs.NewMem()
	m := openSmall(t, fs)
	fill(t, m, 500)
	must(t, m.db.Flush())
	must(t, m.Close())
	files, err := fs.List("state")
	must(t, err)
	rotted := false
	for _, name := range files {
		path := fs.PathJoin("state", name)
		if len(name) < 4 || name[len(name)-4:] != ".sst" {
			continue
		}
		f, err := fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
		must(t, err)
		b := make([]byte, 1)
		_, err = f.ReadAt(b, 3000)
		must(t, err)
		b[0] ^= 1
		_, err = f.WriteAt(b, 3000)
		must(t, err)
		must(t, f.Close())
		rotted = true
	}
	if !rotted {
		t.Fatal("no table was written")
	}
	m, err = OpenPebble("state", PebbleOptions{FS: fs})
	if err != nil {
		return
	}
	err = m.Scan("", "", func(string, []byte) bool { return true })
	if err == nil {
		t.Error("damaged pairs were read without an error")
	}
	_ = m.Close()
}

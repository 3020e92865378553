package state

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/atlas-smr/smr"
)

var smallBounds = bounds{split: 400, joined: 200, small: 60}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func must(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v", err)
	}
}

func newSmall() *Memory {
	m := NewMemory()
	m.parts.bounds = smallBounds
	return m
}

func openSmall(t fataler, fs vfs.FS) *Pebble {
	t.Helper()
	m, err := OpenPebble("state", PebbleOptions{FS: fs, CacheBytes: 1 << 20})
	must(t, err)
	m.parts.bounds = smallBounds
	return m
}

// image is a capture read out: what a checkpoint would hold.
type image struct {
	infos []smr.PartInfo
	data  map[smr.PartID][]byte
}

func read(t fataler, f smr.FrozenParts) image {
	t.Helper()
	im := image{data: map[smr.PartID][]byte{}}
	var err error
	im.infos, err = f.Parts()
	must(t, err)
	for i, p := range im.infos {
		b, err := f.ReadPart(nil, p.ID)
		must(t, err)
		if uint64(len(b)) != p.Bytes || sha256.Sum256(b) != p.Digest || i > 0 && p.ID <= im.infos[i-1].ID || len(b) > smr.MaxPartBytes {
			t.Fatalf("part %d is listed with %d bytes and %v, and has %d", p.ID, p.Bytes, p.Digest, len(b))
		}
		im.data[p.ID] = b
	}
	return im
}

func capture(t fataler, m Map) image {
	t.Helper()
	f := m.Freeze()
	defer f.Release()
	return read(t, f)
}

func (a image) equal(b image) bool { return slices.Equal(a.infos, b.infos) }

// restore brings m to im the way the framework does, and returns how many parts it put.
func restore(t fataler, m Map, im image) int {
	t.Helper()
	w := m.Begin()
	put, err := apply(m, w, im)
	must(t, err)
	must(t, w.Commit())
	return put
}

func apply(m Map, w smr.PartWriter, im image) (put int, err error) {
	have := map[smr.PartID]smr.Digest{}
	f := m.Freeze()
	if infos, err := f.Parts(); err == nil {
		for _, p := range infos {
			have[p.ID] = p.Digest
		}
	}
	f.Release()
	for _, p := range im.infos {
		if d, ok := have[p.ID]; !ok || d != p.Digest {
			put++
			if err := w.Put(p, bytes.Clone(im.data[p.ID])); err != nil {
				return put, err
			}
		}
		delete(have, p.ID)
	}
	for _, id := range slices.Sorted(maps.Keys(have)) {
		if err := w.Delete(id); err != nil {
			return put, err
		}
	}
	return put, nil
}

// checkParts verifies what must hold of a partition.
func checkParts(t fataler, p *partition, im image, content map[string]string) {
	t.Helper()
	low, pairs := "", 0
	p.parts.Ascend("", func(at string, q *part) bool {
		if at != low || q.low != low || q.id >= p.next || q.bytes > p.split && q.pairs > 1 {
			t.Fatalf("part %d [%q, %q) of %d bytes where one must begin at %q", q.id, q.low, q.high, q.bytes, low)
		}
		bytes := 0
		_, err := decodePart(q.id, im.data[q.id], func(k, v []byte) error {
			if want, ok := content[string(k)]; !ok || want != string(v) {
				t.Fatalf("part %d has %q=%q, want %q", q.id, k, v, want)
			}
			bytes += pairSize(string(k), v)
			pairs++
			return nil
		})
		must(t, err)
		if bytes != q.bytes {
			t.Fatalf("part %d counts %d bytes and has %d", q.id, q.bytes, bytes)
		}
		low = q.high
		return true
	})
	if low != "" || pairs != len(content) || len(im.infos) != 1+p.parts.Len() {
		t.Fatalf("the parts end at %q and hold %d of %d pairs", low, pairs, len(content))
	}
}

func partsOf(m Map) *partition {
	if p, ok := m.(*Pebble); ok {
		return &p.parts
	}
	return &m.(*Memory).parts
}

// machine drives two maps, in memory and on disk, and the map they must equal.
type machine struct {
	t       *rapid.T
	maps    []Map
	model   map[string]string
	last    image
	old     []smr.FrozenParts // captures of the maps, with what they must read
	oldRead image
}

func (m *machine) each(do func(Map)) {
	for _, x := range m.maps {
		do(x)
	}
}

func key(t *rapid.T) string { return fmt.Sprintf("k%03d", rapid.IntRange(0, 150).Draw(t, "key")) }

func (m *machine) set(t *rapid.T) {
	k, v := key(t), string(bytes.Repeat([]byte{'v'}, rapid.IntRange(0, 90).Draw(t, "length")))
	m.each(func(x Map) { must(t, x.Set(k, []byte(v))) })
	m.model[k] = v
}

func (m *machine) setLarge(t *rapid.T) {
	k, v := key(t), string(bytes.Repeat([]byte{'V'}, rapid.IntRange(300, 900).Draw(t, "length")))
	m.each(func(x Map) { must(t, x.Set(k, []byte(v))) })
	m.model[k] = v
}

func (m *machine) deleteRun(t *rapid.T) {
	from, n := rapid.IntRange(0, 150).Draw(t, "from"), rapid.IntRange(1, 40).Draw(t, "n")
	for i := range n {
		k := fmt.Sprintf("k%03d", from+i)
		_, want := m.model[k]
		m.each(func(x Map) {
			had, err := x.Delete(k)
			must(t, err)
			if had != want {
				t.Fatalf("Delete(%q) says %v", k, had)
			}
		})
		delete(m.model, k)
	}
}

func (m *machine) setMeta(t *rapid.T) {
	meta := rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "meta")
	m.each(func(x Map) { must(t, x.SetMeta(meta)) })
}

func (m *machine) freeze(t *rapid.T) {
	for _, f := range m.old {
		if got := read(t, f); !got.equal(m.oldRead) {
			t.Fatalf("a capture changed")
		}
		f.Release()
	}
	m.old = nil
	m.each(func(x Map) { m.old = append(m.old, x.Freeze()) })
	m.oldRead = capture(t, m.maps[0])
}

// remember keeps the present state to go back to.
func (m *machine) goBack(t *rapid.T) {
	if m.last.infos == nil || rapid.Bool().Draw(t, "remember") {
		m.last = capture(t, m.maps[0])
		return
	}
	m.each(func(x Map) { restore(t, x, m.last) })
	m.model = map[string]string{}
	must(t, m.maps[0].Scan("", "", func(k string, v []byte) bool { m.model[k] = string(v); return true }))
}

// fresh replaces the map in memory by a new one that is restored from parts.
func (m *machine) fresh(t *rapid.T) {
	x := newSmall()
	restore(t, x, capture(t, m.maps[0]))
	m.maps[0] = x
}

func (m *machine) check(t *rapid.T) {
	want := capture(t, m.maps[0])
	from, to := key(t), key(t)
	for _, x := range m.maps {
		got := capture(t, x)
		if !got.equal(want) {
			t.Fatalf("%T divides differently: %d and %d parts", x, len(got.infos), len(want.infos))
		}
		checkParts(t, partsOf(x), got, m.model)
		if x.Len() != len(m.model) {
			t.Fatalf("%T has %d keys, want %d", x, x.Len(), len(m.model))
		}
		var keys []string
		must(t, x.Scan(from, to, func(k string, _ []byte) bool { keys = append(keys, k); return true }))
		var wantKeys []string
		for _, k := range slices.Sorted(maps.Keys(m.model)) {
			if k >= from && k < to {
				wantKeys = append(wantKeys, k)
			}
		}
		if !slices.Equal(keys, wantKeys) {
			t.Fatalf("%T: scan from %q to %q gives %q, want %q", x, from, to, keys, wantKeys)
		}
		v, ok, err := x.Get(from)
		must(t, err)
		if w, has := m.model[from]; ok != has || string(v) != w {
			t.Fatalf("%T: Get(%q) = %q, %v", x, from, v, ok)
		}
	}
}

// Both maps equal the model and divide alike to the byte, whatever was captured, restored or reopened
// on the way.
func TestMapsEqualAModelAndDivideAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := openSmall(t, vfs.NewMem())
		m := &machine{t: t, maps: []Map{newSmall(), disk}, model: map[string]string{}}
		defer func() {
			for _, f := range m.old {
				f.Release()
			}
			_ = disk.Close()
		}()
		t.Repeat(map[string]func(*rapid.T){
			"": m.check, "set": m.set, "setLarge": m.setLarge, "deleteRun": m.deleteRun, "meta": m.setMeta,
			"freeze": m.freeze, "goBack": m.goBack, "fresh": m.fresh,
		})
	})
}

// fill sets n keys of about a hundred bytes each.
func fill(t fataler, m Map, n int) {
	t.Helper()
	for i := range n {
		must(t, m.Set(fmt.Sprintf("key%06d", i*7919%n), bytes.Repeat([]byte{byte(i)}, 90)))
	}
}

func changed(a, b image) (n int) {
	was := map[smr.PartID]smr.Digest{}
	for _, p := range a.infos {
		was[p.ID] = p.Digest
	}
	for _, p := range b.infos {
		if was[p.ID] != p.Digest {
			n++
		}
	}
	return n
}

func TestAChangeOfOneKeyChangesOnePart(t *testing.T) {
	for _, m := range []Map{newSmall(), openSmall(t, vfs.NewMem())} {
		fill(t, m, 4000)
		before := capture(t, m)
		if len(before.infos) < 1000 {
			t.Fatalf("%d parts, want 1000 at least", len(before.infos))
		}
		must(t, m.Set("key002000", bytes.Repeat([]byte{'x'}, 90)))
		after := capture(t, m)
		if n := changed(before, after); n != 1 {
			t.Errorf("%T: %d parts changed", m, n)
		}
		target := newSmall()
		restore(t, target, before)
		if put := restore(t, target, after); put != 1 {
			t.Errorf("%d parts were put", put)
		}
		if p, ok := m.(*Pebble); ok {
			must(t, p.Close())
		}
	}
}

// Only parts that changed since an earlier capture are encoded and hashed.
func TestDigestsOfUnchangedPartsAreNotComputedAgain(t *testing.T) {
	m := newSmall()
	fill(t, m, 1000)
	_ = capture(t, m)
	must(t, m.Set("key000500", []byte("y")))
	hashed := 0
	f := m.Freeze().(*frozen)
	f.hashed = func(*part, smr.Digest) error { hashed++; return nil }
	_, err := f.Parts()
	must(t, err)
	f.Release()
	if hashed != 1 {
		t.Errorf("%d parts were hashed", hashed)
	}
}

// A capture does the same few things whatever the map holds.
func TestACaptureTakesConstantTime(t *testing.T) {
	count := func(m Map) float64 { return testing.AllocsPerRun(10, func() { m.Freeze().Release() }) }
	small, large := NewMemory(), NewMemory()
	fill(t, small, 10)
	fill(t, large, 100_000)
	if s, l := count(small), count(large); s != l || l > 8 {
		t.Errorf("a capture of 10 keys allocates %v times, of 100,000 keys %v times", s, l)
	}
}

// Parts that do not fit together, or do not decode, are refused, and a map in memory is as before.
func TestPartsThatDoNotFitAreRefused(t *testing.T) {
	source := newSmall()
	fill(t, source, 60)
	im := capture(t, source)
	first := im.infos[1]
	for name, damage := range map[string]func(w smr.PartWriter) error{
		"a part lacking":  func(w smr.PartWriter) error { return w.Delete(first.ID) },
		"unknown part":    func(w smr.PartWriter) error { return w.Delete(999) },
		"no header":       func(w smr.PartWriter) error { return w.Delete(headerPart) },
		"cut short":       func(w smr.PartWriter) error { return w.Put(first, im.data[first.ID][:20]) },
		"a part twice":    func(w smr.PartWriter) error { return w.Put(smr.PartInfo{ID: 7777}, im.data[first.ID]) },
		"another's bytes": func(w smr.PartWriter) error { return w.Put(first, im.data[im.infos[2].ID]) },
		"header cut":      func(w smr.PartWriter) error { return w.Put(im.infos[0], im.data[0][:1]) },
		"ids beyond next": func(w smr.PartWriter) error { return w.Put(im.infos[0], appendHeader(nil, 2, nil)) },
	} {
		m := newSmall()
		must(t, m.Set("a", []byte("b")))
		before := capture(t, m)
		w := m.Begin()
		_, err := apply(m, w, im)
		must(t, err)
		if err = damage(w); err == nil {
			err = w.Commit()
		} else {
			w.Abort()
		}
		if !errors.Is(err, ErrPart) {
			t.Errorf("%s: %v", name, err)
		}
		if after := capture(t, m); !after.equal(before) || m.Len() != 1 {
			t.Errorf("%s: the map changed", name)
		}
	}
}

func TestLimitsAreReportedAndChangeNothing(t *testing.T) {
	disk := openSmall(t, vfs.NewMem())
	for _, m := range []Map{newSmall(), disk} {
		long := string(make([]byte, MaxKeyBytes+1))
		for _, err := range []error{m.Set(long, nil), m.Set("k", make([]byte, MaxValueBytes+1)), m.SetMeta(make([]byte, MaxMetaBytes+1))} {
			if !errors.Is(err, ErrLimit) || m.Len() != 0 {
				t.Errorf("%T: %v, %d keys", m, err, m.Len())
			}
		}
		must(t, m.Set(long[1:], make([]byte, MaxValueBytes)))
		must(t, m.SetMeta(make([]byte, MaxMetaBytes)))
		_ = capture(t, m)
	}
	must(t, disk.Close())
}

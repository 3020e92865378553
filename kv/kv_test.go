package kv

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/state"
)

func exec(s *Store, seq smr.SeqNo, r Request) Reply { return s.Execute(&smr.Context{Seq: seq}, r) }

// image is what a capture holds.
type image struct {
	infos []smr.PartInfo
	data  map[smr.PartID][]byte
	all   []byte // the parts one after the other: a dump
}

func read(t rapid.TB, f smr.FrozenParts) image {
	t.Helper()
	defer f.Release()
	im := image{data: map[smr.PartID][]byte{}}
	var err error
	if im.infos, err = f.Parts(); err != nil {
		t.Fatal(err)
	}
	for _, p := range im.infos {
		at := len(im.all)
		if im.all, err = f.ReadPart(im.all, p.ID); err != nil {
			t.Fatal(err)
		}
		im.data[p.ID] = im.all[at:]
	}
	return im
}

func (im image) equal(other image) bool { return slices.Equal(im.infos, other.infos) }

// restore puts every part.
func restore(t rapid.TB, s *Store, im image) {
	t.Helper()
	w := s.Begin()
	for _, p := range im.infos {
		if err := w.Put(p, im.data[p.ID]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
}

func onDisk(t rapid.TB) (*Store, func()) {
	t.Helper()
	m, err := state.OpenPebble("kv", state.PebbleOptions{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return On(m), func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

func genRequest(t *rapid.T) Request {
	key := rapid.SampledFrom([]string{"", "a", "b", "\x00", "\xff\xff", "key"}).Draw(t, "key")
	val := rapid.SampledFrom([]string{"", "1", "2", "\x00\xff"}).Draw(t, "value")
	switch rapid.IntRange(1, 6).Draw(t, "op") {
	case 1:
		return Get(key)
	case 2:
		return Put(key, val)
	case 3:
		return Delete(key)
	case 4:
		return CAS(key, rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "expect"), val)
	case 5:
		return Create(key, []byte(val))
	}
	return Scan(key, rapid.SampledFrom([]string{"", "b", "z"}).Draw(t, "end"), rapid.IntRange(0, 3).Draw(t, "limit"))
}

// TestStore runs random requests, encoded, against a map; the version of every read covers the
// last change of what it read.
func TestStoreEqualsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s, model := New(), map[string]string{}
		disk, done := onDisk(t)
		defer done()
		changed := map[string]smr.SeqNo{}
		var last smr.SeqNo
		for seq := smr.SeqNo(1); seq < 40; seq++ {
			r := genRequest(t)
			enc, err := RequestCodec{}.Append(nil, r)
			if err != nil {
				t.Fatal(err)
			}
			if r, err = (RequestCodec{}).Decode(enc); err != nil {
				t.Fatal(err)
			}
			old, had := model[r.Key]
			want := Reply{Status: StatusOK}
			write := func() { changed[r.Key], last = seq, seq }
			switch r.Op {
			case OpPut:
				model[r.Key] = string(r.Value)
				write()
			case OpDelete:
				if !had {
					want.Status = StatusNotFound
				} else {
					delete(model, r.Key)
					write()
				}
			case OpCAS:
				if had == r.Absent || had && old != string(r.Expect) {
					want = Reply{Status: StatusMismatch, Found: had}
					if had {
						want.Value, want.Version = []byte(old), changed[r.Key]
					}
				} else {
					model[r.Key] = string(r.Value)
					write()
				}
			case OpGet:
				want = Reply{Status: StatusNotFound}
				if had {
					want = Reply{Status: StatusOK, Found: true, Value: []byte(old), Version: changed[r.Key]}
				}
			case OpScan:
				for _, k := range slices.Sorted(maps.Keys(model)) {
					if k < r.Key || r.End != "" && k >= r.End {
						continue
					}
					if r.Limit > 0 && len(want.Pairs) == int(r.Limit) {
						want.More = true
						break
					}
					want.Pairs = append(want.Pairs, Pair{k, []byte(model[k])})
				}
			}
			got := exec(s, seq, r)
			if other := exec(disk, seq, r); !reflect.DeepEqual(other, got) {
				t.Fatalf("%v %q: %+v in memory, %+v on disk", r.Op, r.Key, got, other)
			}
			enc, _ = ReplyCodec{}.Append(nil, got)
			if got, err = (ReplyCodec{}).Decode(enc); err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("%v %q: %+v, want %+v (%v)", r.Op, r.Key, got, want, err)
			}
			q := smr.NewQueryContext(seq, 1)
			rep := s.Query(q, r)
			switch {
			case r.Writes():
				if rep.Status != StatusInvalid {
					t.Fatal("a write was taken unordered")
				}
			case r.Op == OpGet && (q.Version() < changed[r.Key] || q.Version() > seq):
				t.Fatalf("version %d of a key changed at %d", q.Version(), changed[r.Key])
			case r.Op == OpScan && q.Version() != last:
				t.Fatalf("version %d of a scan, last change %d", q.Version(), last)
			}
		}
		b := read(t, s.Freeze())
		if !read(t, disk.Freeze()).equal(b) {
			t.Fatal("in memory and on disk the state has other parts")
		}
		n := New()
		exec(n, 1, Put("gone", "x"))
		restore(t, n, b)
		if !read(t, n.Freeze()).equal(b) || n.last != s.last {
			t.Fatal("a restored store has other parts")
		}
		dump, err := ReadDump(b.all)
		if err != nil || dump.Len() != len(model) {
			t.Fatalf("a dump has %d pairs of %d: %v", dump.Len(), len(model), err)
		}
		for k, v := range model {
			if rep := dump.Query(smr.NewQueryContext(0, 0), Get(k)); string(rep.Value) != v || rep.Version != changed[k] {
				t.Fatalf("a dump has %q=%q of %d", k, rep.Value, rep.Version)
			}
		}
		if _, err := ReadDump(b.all[:len(b.all)-1]); err == nil {
			t.Fatal("a dump that was cut short was taken")
		}
	})
}

func TestACaptureDoesNotChange(t *testing.T) {
	s := New()
	for i := range 1000 {
		exec(s, 1, Put(fmt.Sprint(i), "old"))
	}
	f := s.Freeze()
	want := read(t, s.Freeze())
	for i := range 1000 {
		exec(s, 2, Put(fmt.Sprint(i), "new"))
		exec(s, 2, Delete(fmt.Sprint(i*2)))
	}
	if got := read(t, f); !got.equal(want) || !bytes.Equal(got.all, want.all) {
		t.Fatal("the capture changed")
	}
}

func TestPagesCoverAScan(t *testing.T) {
	s := New()
	big := strings.Repeat("v", 100<<10)
	for i := range 40 {
		exec(s, 1, Put(fmt.Sprintf("p/%02d", i), big))
	}
	exec(s, 1, Put("q", "not in it"))
	exec(s, 1, Put("p/z", make([]byte, MaxValueBytes)))
	n, pages := 0, 0
	for r := Prefix("p/", 0); ; pages++ {
		rep := exec(s, 2, r)
		enc, err := ReplyCodec{}.Append(nil, rep)
		if err != nil || len(enc) > smr.MaxReplyBytes {
			t.Fatalf("page of %d bytes: %v", len(enc), err)
		}
		n += len(rep.Pairs)
		if !rep.More {
			break
		}
		r = r.Next(rep)
	}
	if n != 41 || pages < 5 {
		t.Errorf("%d pairs in %d pages", n, pages)
	}
}

func TestLimits(t *testing.T) {
	for _, r := range []Request{
		{}, {Op: 9}, Put(make([]byte, MaxKeyBytes+1), "v"), Put("k", make([]byte, MaxValueBytes+1)), {Op: OpScan, Limit: MaxScanPairs + 1},
	} {
		if r.Check() == nil || exec(New(), 1, r).Status != StatusInvalid {
			t.Errorf("%v with key of %d, value of %d passes", r.Op, len(r.Key), len(r.Value))
		}
	}
	r := Put(make([]byte, MaxKeyBytes), make([]byte, MaxValueBytes))
	if enc, err := (RequestCodec{}).Append(nil, r); err != nil || len(enc) > smr.MaxOpBytes || r.Check() != nil {
		t.Errorf("the largest put takes %d bytes: %v", len(enc), err)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	for _, r := range []Request{Get("k"), Put("k", "v"), Delete(""), CAS("k", "e", "v"), Create("k", "v"), Scan("a", "b", 3)} {
		b, _ := RequestCodec{}.Append(nil, r)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := RequestCodec{}.Decode(b)
		if err != nil {
			return
		}
		if enc, err := (RequestCodec{}).Append(nil, r); err != nil || !bytes.Equal(enc, b) {
			t.Fatalf("%x decodes to %+v, which encodes to %x (%v)", b, r, enc, err)
		}
	})
}

func FuzzDecodeReply(f *testing.F) {
	for _, r := range []Reply{{Status: StatusOK}, {Status: StatusOK, Found: true, Value: []byte("v"), Version: 9}, {Status: StatusOK, More: true, Pairs: []Pair{{"k", []byte("v")}}}} {
		b, _ := ReplyCodec{}.Append(nil, r)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ReplyCodec{}.Decode(b)
		if err != nil {
			return
		}
		if enc, err := (ReplyCodec{}).Append(nil, r); err != nil || !bytes.Equal(enc, b) {
			t.Fatalf("%x decodes to %+v, which encodes to %x (%v)", b, r, enc, err)
		}
	})
}

// A dump that is accepted can be read; nothing in one leads to a panic.
func FuzzReadDump(f *testing.F) {
	s := New()
	exec(s, 3, Put("a", "1"))
	exec(s, 4, Put("b", ""))
	f.Add(read(f, s.Freeze()).all)
	f.Add(read(f, New().Freeze()).all)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ReadDump(b)
		if err != nil {
			return
		}
		again, err := ReadDump(read(t, s.Freeze()).all)
		if err != nil || again.Len() != s.Len() || again.last != s.last {
			t.Fatalf("%d pairs become %d: %v", s.Len(), again.Len(), err)
		}
	})
}

// A fault of the disk fences, and a query that meets one is not answered.
func TestAFaultOfTheDiskFences(t *testing.T) {
	m, err := state.OpenPebble("kv", state.PebbleOptions{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	s := On(m)
	w := s.Begin() // begun and not committed: the map is not usable
	if err := w.Put(smr.PartInfo{ID: 1}, []byte{1, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a query was answered")
			}
		}()
		s.Query(smr.NewQueryContext(1, 1), Get("k"))
	}()
	for _, r := range []Request{Get("k"), Put("k", "v"), Delete("k"), Create("k", "v"), Scan("", "", 0)} {
		ctx := &smr.Context{Seq: 2}
		if s.Execute(ctx, r); ctx.Fenced() == nil {
			t.Errorf("%v does not fence", r.Op)
		}
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
}

func ExampleStore() {
	s := New()
	exec(s, 1, Put("city", "Lisbon"))
	fmt.Println(exec(s, 2, CAS("city", "Porto", "Faro")).Status)
	fmt.Printf("%s\n", exec(s, 3, Get("city")).Value)
	// Output:
	// mismatch
	// Lisbon
}

package kv

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/atlas-smr/smr"
)

func exec(s *Store, seq smr.SeqNo, r Request) Reply { return s.Execute(&smr.Context{Seq: seq}, r) }

func snapshot(t rapid.TB, s *Store) []byte {
	var b bytes.Buffer
	f := s.Freeze()
	defer f.Release()
	n, err := f.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("WriteTo: %d of %d, %v", n, b.Len(), err)
	}
	return b.Bytes()
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
		b := snapshot(t, s)
		n := New()
		exec(n, 1, Put("gone", "x"))
		if err := n.Restore(bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(snapshot(t, n), b) {
			t.Fatal("a restored store writes another snapshot")
		}
		if n.Restore(bytes.NewReader(b[:len(b)-1])) == nil || n.Restore(bytes.NewReader(append(b, 0))) == nil {
			t.Fatal("a damaged snapshot was taken")
		}
		if !bytes.Equal(snapshot(t, n), b) {
			t.Fatal("a refused snapshot changed the store")
		}
	})
}

func TestACaptureDoesNotChange(t *testing.T) {
	s := New()
	for i := range 1000 {
		exec(s, 1, Put(fmt.Sprint(i), "old"))
	}
	f := s.Freeze()
	want := snapshot(t, s)
	for i := range 1000 {
		exec(s, 2, Put(fmt.Sprint(i), "new"))
		exec(s, 2, Delete(fmt.Sprint(i*2)))
	}
	var b bytes.Buffer
	if _, err := f.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), want) {
		t.Fatal("the capture changed", err)
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

func FuzzRestore(f *testing.F) {
	s := New()
	exec(s, 3, Put("a", "1"))
	exec(s, 4, Put("b", ""))
	f.Add(snapshot(f, s))
	f.Fuzz(func(t *testing.T, b []byte) { _ = New().Restore(bytes.NewReader(b)) })
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

package kv

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// Pairs behind a right head are restored to a state that is written and restored as the same.
func FuzzRestorePairs(f *testing.F) {
	const head = 8 + 8 + 8*deleteBuckets + 8
	s := New()
	exec(s, 3, Put("a", "1"))
	exec(s, 4, Put("b", ""))
	f.Add(uint8(2), snapshot(f, s)[head:])
	f.Add(uint8(0), []byte{})
	empty := snapshot(f, New())
	f.Fuzz(func(t *testing.T, count uint8, pairs []byte) {
		b := append(bytes.Clone(empty[:head-8]), binary.BigEndian.AppendUint64(nil, uint64(count))...)
		s := New()
		if s.Restore(bytes.NewReader(append(b, pairs...))) != nil {
			if s.Len() != 0 {
				t.Fatal("a refused snapshot changed the store")
			}
			return
		}
		if s.Len() != int(count) {
			t.Fatalf("%d pairs of %d", s.Len(), count)
		}
		out, again := snapshot(t, s), New()
		if err := again.Restore(bytes.NewReader(out)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(snapshot(t, again), out) {
			t.Fatal("restored state is written otherwise")
		}
	})
}

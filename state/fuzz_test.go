package state

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/atlas-smr/smr"
)

// What is accepted as a part is what encoding its pairs gives, to the byte.
func FuzzDecodePart(f *testing.F) {
	m := newSmall()
	for i := range 12 {
		_ = m.Set(string([]byte{'k', byte(i)}), bytes.Repeat([]byte{byte(i)}, i*9))
	}
	fr := m.Freeze()
	infos, err := fr.Parts()
	if err != nil {
		f.Fatal(err)
	}
	for _, p := range infos {
		b, _ := fr.ReadPart(nil, p.ID)
		f.Add(b)
	}
	f.Add([]byte{partVersion, 0, 0, 0})
	f.Add([]byte{partVersion, 1, 'a', 1, 'b', 1, 1, 'a', 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var tree Tree[[]byte]
		p, err := decodePart(3, b, func(k, v []byte) error {
			tree.Set(string(k), bytes.Clone(v))
			return nil
		})
		if err == nil {
			again, err := appendPart(nil, p, (*treeSource)(&tree))
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%x is accepted and encoded as %x (%v)", b, again, err)
			}
		}
		if next, meta, err := decodeHeader(b); err == nil {
			if again := appendHeader(nil, next, meta); !bytes.Equal(again, b) {
				t.Fatalf("header %x is accepted and encoded as %x", b, again)
			}
		}
	})
}

// Hostile parts are refused without a panic, by both kinds of map, and neither loses its wits.
func FuzzRestore(f *testing.F) {
	m := newSmall()
	fill(f, m, 9)
	fr := m.Freeze()
	infos, _ := fr.Parts()
	first, _ := fr.ReadPart(nil, infos[0].ID)
	second, _ := fr.ReadPart(nil, infos[1].ID)
	f.Add(first, second)
	f.Add([]byte{partVersion, 9, 0}, []byte{partVersion, 0, 0, 0})
	f.Fuzz(func(t *testing.T, header, part []byte) {
		m := newSmall()
		w := m.Begin()
		if w.Put(smr.PartInfo{ID: headerPart}, header) != nil || w.Put(smr.PartInfo{ID: firstPart, Digest: sha256.Sum256(part)}, part) != nil || w.Commit() != nil {
			w.Abort()
			if m.Len() != 0 {
				t.Fatal("a refused state is there")
			}
			return
		}
		im := capture(t, m)
		if !bytes.Equal(im.data[headerPart], header) || !bytes.Equal(im.data[firstPart], part) {
			t.Fatal("a restored state is captured differently")
		}
	})
}

package storage

import (
	"bytes"
	"testing"

	"github.com/atlas-smr/smr/protocol/transfer"
)

func FuzzValues(f *testing.F) {
	r, bs := proposal(1, 0, bundle(f, 1<<20, 1, 5))
	d, v := decision(1, 0), vote(1, 1)
	f.Add(appendProposal(nil, &r, bs))
	f.Add(appendDecision(nil, &d))
	f.Add(appendState(nil, &v))
	f.Add(appendDescriptor(nil, &Descriptor{Meta: transfer.Meta{Seq: 1}, Root: transfer.Root(transfer.Meta{Seq: 1}, nil)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := decodeProposal(b); err == nil && len(p.bundles) > len(b) {
			t.Fatal("more bundles than bytes")
		}
		if r, err := decodeDecision(1, b); err == nil && len(r.Data) > len(b) {
			t.Fatal("more data than bytes")
		}
		if r, err := decodeState(1, b); err == nil && len(r.Data) > len(b) {
			t.Fatal("more data than bytes")
		}
		if d, err := decodeDescriptor(b); err == nil {
			if _, err := decodeDescriptor(appendDescriptor(nil, d)); err != nil {
				t.Fatal(err)
			}
		}
		if body, err := open([]byte("k"), b); err == nil {
			if !bytes.Equal(seal([]byte("k"), append(newBody(0), body...)), b) {
				t.Fatal("a value has two encodings")
			}
		}
	})
}

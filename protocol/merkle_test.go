package protocol

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/atlas-smr/smr"
)

// reference is the definition of the tree, written down recursively.
func reference(leaves []smr.Digest) smr.Digest {
	var top func(row []smr.Digest) smr.Digest
	top = func(row []smr.Digest) smr.Digest {
		switch len(row) {
		case 0:
			return smr.Digest{}
		case 1:
			return row[0]
		}
		var up []smr.Digest
		for i := 0; i < len(row); i += 2 {
			if i+1 == len(row) {
				up = append(up, row[i])
				continue
			}
			text := append([]byte("atlas-smr node v1\x00"), row[i][:]...)
			up = append(up, sha256.Sum256(append(text, row[i+1][:]...)))
		}
		return top(up)
	}
	var row []smr.Digest
	for _, l := range leaves {
		row = append(row, sha256.Sum256(append([]byte("atlas-smr leaf v1\x00"), l[:]...)))
	}
	t := top(row)
	text := binary.BigEndian.AppendUint64([]byte("atlas-smr tree v1\x00"), uint64(len(leaves)))
	return sha256.Sum256(append(text, t[:]...))
}

func someLeaves(n int) []smr.Digest {
	out := make([]smr.Digest, n)
	for i := range out {
		out[i] = sha256.Sum256([]byte{byte(i)})
	}
	return out
}

func TestMerkleRootFollowsItsDefinition(t *testing.T) {
	for n := range 40 {
		leaves := someLeaves(n)
		if got, want := MerkleRoot(leaves), reference(leaves); got != want {
			t.Errorf("%d leaves: %v, definition says %v", n, got, want)
		}
		if again := someLeaves(n); n > 0 && leaves[0] != again[0] {
			t.Errorf("%d leaves: the input was changed", n)
		}
	}
}

func TestMerkleRootChangesWithEveryLeafAndCount(t *testing.T) {
	seen := map[smr.Digest]string{}
	add := func(what string, leaves []smr.Digest) {
		r := MerkleRoot(leaves)
		if other, ok := seen[r]; ok {
			t.Errorf("%s and %s have one root", what, other)
		}
		seen[r] = what
	}
	for n := range 20 {
		add("plain", someLeaves(n))
		for i := range n {
			l := someLeaves(n)
			l[i][31] ^= 1
			add("one bit", l)
		}
		if n > 1 {
			l := someLeaves(n)
			l[0], l[n-1] = l[n-1], l[0]
			if n > 2 {
				add("swapped", l)
			}
		}
	}
	// A duplicated odd leaf must not pass for the shorter list.
	l := someLeaves(3)
	add("duplicated tail", append(l, l[2]))
}

func TestMerkleNodeIsNoLeaf(t *testing.T) {
	l := someLeaves(2)
	a := sha256.Sum256(append([]byte(merkleLeaf), l[0][:]...))
	b := sha256.Sum256(append([]byte(merkleLeaf), l[1][:]...))
	inner := sha256.Sum256(append(append([]byte(merkleNode), a[:]...), b[:]...))
	if MerkleRoot([]smr.Digest{inner}) == MerkleRoot(l) {
		t.Fatal("an inner node passes for a leaf")
	}
}

func TestMerklePageImpliesTheRootItBelongsTo(t *testing.T) {
	const level = 2
	for n := 1; n < 40; n++ {
		leaves := someLeaves(n)
		root, tree := MerkleRoot(leaves), NewMerkleTree(leaves, level)
		if tree.Root() != root {
			t.Fatalf("%d leaves: the tree has another root", n)
		}
		for k := 0; k<<level < n; k++ {
			page, path := leaves[k<<level:min(n, (k+1)<<level)], tree.Path(k)
			got, ok := MerklePageRoot(uint64(n), level, uint64(k), page, path)
			if !ok || got != root {
				t.Fatalf("%d leaves, page %d: %v %v", n, k, got, ok)
			}
			for claimed := uint64(0); claimed < 80; claimed++ {
				for at := uint64(0); at < 20; at++ {
					if claimed == uint64(n) && at == uint64(k) {
						continue
					}
					if got, ok := MerklePageRoot(claimed, level, at, page, path); ok && got == root {
						t.Fatalf("%d leaves, page %d passes for page %d of %d", n, k, at, claimed)
					}
				}
			}
			if _, ok := MerklePageRoot(uint64(n), level, uint64(k), page, append(path, smr.Digest{})); ok {
				t.Fatal("a path too long was taken")
			}
		}
	}
	for _, claimed := range []uint64{1e9, 1 << 62, 1<<64 - 1} {
		if _, ok := MerklePageRoot(claimed, level, 1<<60, someLeaves(4), nil); ok {
			t.Fatal("a page of nowhere was taken")
		}
	}
}

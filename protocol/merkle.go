package protocol

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/atlas-smr/smr"
)

// Domains of the hashes in a Merkle tree. A leaf can never be taken for an inner node, nor a tree
// for one of another size.
const (
	merkleLeaf = "atlas-smr leaf v1\x00"
	merkleNode = "atlas-smr node v1\x00"
	merkleTop  = "atlas-smr tree v1\x00"
)

// MerkleRoot returns the root of the binary Merkle tree over leaves, in order.
//
//	leaf  = SHA-256("atlas-smr leaf v1" 0 | leaves[i])
//	node  = SHA-256("atlas-smr node v1" 0 | left | right)   an odd node out moves up as it is
//	root  = SHA-256("atlas-smr tree v1" 0 | number of leaves, 8 bytes big endian | top)
//
// The top of no leaves is the zero digest. Binding the count makes the shape of the tree part of
// the root. leaves is not changed.
func MerkleRoot(leaves []smr.Digest) smr.Digest {
	return merkleSeal(uint64(len(leaves)), merkleTopOf(hashLeaves(leaves)))
}

func hashLeaves(leaves []smr.Digest) []smr.Digest {
	var buf [len(merkleLeaf) + 32]byte
	row := make([]smr.Digest, len(leaves))
	n := copy(buf[:], merkleLeaf)
	for i := range leaves {
		copy(buf[n:], leaves[i][:])
		row[i] = sha256.Sum256(buf[:])
	}
	return row
}

// merkleTopOf returns the top over a row of nodes; it uses row's memory.
func merkleTopOf(row []smr.Digest) smr.Digest {
	for len(row) > 1 {
		row = merkleUp(row)
	}
	if len(row) == 0 {
		return smr.Digest{}
	}
	return row[0]
}

// merkleUp returns the row above, in row's memory.
func merkleUp(row []smr.Digest) []smr.Digest {
	half := row[:0]
	for i := 0; i+1 < len(row); i += 2 {
		half = append(half, merkleJoin(row[i], row[i+1]))
	}
	if len(row)%2 == 1 {
		half = append(half, row[len(row)-1])
	}
	return half
}

func merkleJoin(left, right smr.Digest) smr.Digest {
	var buf [len(merkleNode) + 64]byte
	n := copy(buf[:], merkleNode)
	n += copy(buf[n:], left[:])
	copy(buf[n:], right[:])
	return sha256.Sum256(buf[:])
}

func merkleSeal(leaves uint64, top smr.Digest) smr.Digest {
	var buf [len(merkleTop) + 40]byte
	n := copy(buf[:], merkleTop)
	binary.BigEndian.PutUint64(buf[n:], leaves)
	copy(buf[n+8:], top[:])
	return sha256.Sum256(buf[:])
}

// MerkleTree is the upper part of the tree of [MerkleRoot]: the tops of aligned pages of leaves, so
// that the path of a page costs no hashing of all leaves. It is immutable.
type MerkleTree struct {
	leaves uint64
	level  uint         // a page holds 1<<level leaves
	tops   []smr.Digest // of the pages, in order
}

// NewMerkleTree returns the tree over leaves in pages of 1<<level. leaves is not changed.
func NewMerkleTree(leaves []smr.Digest, level uint) *MerkleTree {
	t := &MerkleTree{leaves: uint64(len(leaves)), level: level}
	for rest := leaves; len(rest) > 0; {
		n := min(len(rest), 1<<level)
		t.tops = append(t.tops, merkleTopOf(hashLeaves(rest[:n])))
		rest = rest[n:]
	}
	return t
}

// Root returns the root over all leaves; it equals MerkleRoot of them.
func (t *MerkleTree) Root() smr.Digest {
	return merkleSeal(t.leaves, merkleTopOf(append([]smr.Digest(nil), t.tops...)))
}

// Path returns the siblings on the way from page k to the root, lowest first.
func (t *MerkleTree) Path(k int) []smr.Digest {
	row := append([]smr.Digest(nil), t.tops...)
	var path []smr.Digest
	for len(row) > 1 {
		if s := k ^ 1; s < len(row) {
			path = append(path, row[s])
		}
		row, k = merkleUp(row), k/2
	}
	return path
}

// MerklePageRoot returns the root that a page of leaves and its path imply: page holds the leaves
// from k<<level on, out of the claimed number of leaves. It reports false if page or path do not
// have the length that this number demands. It hashes no more than it was given.
func MerklePageRoot(leaves uint64, level uint, k uint64, page, path []smr.Digest) (smr.Digest, bool) {
	const most = 1 << 62
	size := uint64(1) << level
	if leaves == 0 || leaves > most || k > most>>level || k<<level >= leaves || uint64(len(page)) != min(size, leaves-k<<level) {
		return smr.Digest{}, false
	}
	top := merkleTopOf(hashLeaves(page))
	for width := (leaves + size - 1) >> level; width > 1; width, k = (width+1)/2, k/2 {
		if k^1 >= width {
			continue // an odd node out moves up
		}
		if len(path) == 0 {
			return smr.Digest{}, false
		}
		if k%2 == 0 {
			top = merkleJoin(top, path[0])
		} else {
			top = merkleJoin(path[0], top)
		}
		path = path[1:]
	}
	return merkleSeal(leaves, top), len(path) == 0
}

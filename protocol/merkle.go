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
	var buf [len(merkleNode) + 64]byte
	row := make([]smr.Digest, len(leaves))
	for i := range leaves {
		n := copy(buf[:], merkleLeaf)
		n += copy(buf[n:], leaves[i][:])
		row[i] = sha256.Sum256(buf[:n])
	}
	for len(row) > 1 {
		half := row[:0]
		for i := 0; i+1 < len(row); i += 2 {
			n := copy(buf[:], merkleNode)
			n += copy(buf[n:], row[i][:])
			n += copy(buf[n:], row[i+1][:])
			half = append(half, sha256.Sum256(buf[:n]))
		}
		if len(row)%2 == 1 {
			half = append(half, row[len(row)-1])
		}
		row = half
	}
	top := smr.Digest{}
	if len(row) == 1 {
		top = row[0]
	}
	n := copy(buf[:], merkleTop)
	binary.BigEndian.PutUint64(buf[n:], uint64(len(leaves)))
	n += 8
	n += copy(buf[n:], top[:])
	return sha256.Sum256(buf[:n])
}

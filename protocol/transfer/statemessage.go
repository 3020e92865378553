package transfer

import (
	"crypto/sha256"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/wire"
)

// What is asked for in state transfer.
type What uint8

// What there is to ask for.
const (
	WhatGone What = 0 // answers only: the checkpoint is not here
	WhatPage What = 1 // a page of the descriptor
	WhatPart What = 2
)

// Pages of a descriptor are aligned runs of leaves of the root.
const (
	pageLevel  = 12
	PageLeaves = 1 << pageLevel // leaves of a page; the first leaf of page 0 is the meta
	maxPages   = (MaxParts + 1 + PageLeaves - 1) / PageLeaves
	maxPath    = 64 // of a tree of any size
)

// StateRequest asks for a page or a part of the checkpoint at Seq with this root.
type StateRequest struct {
	Seq   smr.SeqNo
	Root  smr.Digest
	What  What
	Index uint64 // of the page or part
}

// StateReply answers a StateRequest. What it holds speaks for itself: a page implies its root, a
// part is compared by digest with what a page says of it.
type StateReply struct {
	StateRequest
	Wrong  bool // it is a page that does not imply Root, or cannot be one
	Leaves uint64
	Meta   Meta       // page 0
	Parts  []Part     // of the page
	Data   []byte     // of the part
	Digest smr.Digest // SHA-256 of Data
}

// firstPart returns the index of the first part of page k.
func firstPart(k uint64) uint64 { return max(k*PageLeaves, 1) - 1 }

// EncodeStateRequest returns the payload of q.
func EncodeStateRequest(q StateRequest) []byte {
	return encode(&wirepb.StateRequest{Seq: uint64(q.Seq), Root: q.Root[:], What: uint32(q.What), Index: q.Index})
}

// DecodeStateRequest reads a StateRequest.
func DecodeStateRequest(payload []byte) (StateRequest, error) {
	var p wirepb.StateRequest
	if err := unpack(&p, stateRequestSchema, payload); err != nil {
		return StateRequest{}, fmt.Errorf("%w: state request: %w", ErrMessage, err)
	}
	q, err := stateRequest(p.Seq, p.Root, p.What, p.Index)
	if err == nil && q.What == WhatGone {
		err = fmt.Errorf("%w: state request for nothing", ErrMessage)
	}
	return q, err
}

func stateRequest(seq uint64, root []byte, what uint32, index uint64) (StateRequest, error) {
	q := StateRequest{Seq: smr.SeqNo(seq), What: What(what), Index: index}
	if len(root) != len(q.Root) || what > uint32(WhatPart) || seq == 0 || index >= MaxParts || q.What == WhatPage && index >= maxPages {
		return q, fmt.Errorf("%w: state transfer: %d of seq %d, index %d, root of %d bytes", ErrMessage, what, seq, index, len(root))
	}
	copy(q.Root[:], root)
	return q, nil
}

// EncodeGone returns the payload that says that what q asks for is not here.
func EncodeGone(q StateRequest) []byte {
	return encode(&wirepb.StateReply{Seq: uint64(q.Seq), Root: q.Root[:], Index: q.Index})
}

// EncodePart returns the payload that answers q with a part's bytes.
func EncodePart(q StateRequest, data []byte) []byte {
	return encode(&wirepb.StateReply{Seq: uint64(q.Seq), Root: q.Root[:], What: uint32(WhatPart), Index: q.Index, Data: data})
}

// EncodePage returns the payload that answers q with its page of the checkpoint of m and parts,
// whose tree NewPages made.
func EncodePage(q StateRequest, m Meta, parts []Part, tree *protocol.MerkleTree) []byte {
	p := &wirepb.StateReply{Seq: uint64(q.Seq), Root: q.Root[:], What: uint32(WhatPage), Index: q.Index, Leaves: uint64(len(parts)) + 1}
	if q.Index == 0 {
		p.Meta = m.Append(nil)
	}
	if q.Index*PageLeaves >= p.Leaves {
		return EncodeGone(q)
	}
	for _, part := range parts[firstPart(q.Index):min(uint64(len(parts)), firstPart(q.Index+1))] {
		p.Parts = part.Append(p.Parts)
	}
	for _, d := range tree.Path(int(q.Index)) {
		p.Path = append(p.Path, d[:]...)
	}
	return encode(p)
}

// NewPages returns the tree that EncodePage needs, made once a checkpoint.
func NewPages(m Meta, parts []Part) *protocol.MerkleTree {
	return protocol.NewMerkleTree(Leaves(m, parts), pageLevel)
}

// DecodeStateReply reads an answer and hashes what it holds. A page that does not imply the root it
// names is no error but Wrong, so that its sender is blamed by name. Data aliases payload.
func DecodeStateReply(payload []byte) (*StateReply, error) {
	var p wirepb.StateReply
	if err := unpack(&p, stateReplySchema, payload); err != nil {
		return nil, fmt.Errorf("%w: state reply: %w", ErrMessage, err)
	}
	q, err := stateRequest(p.Seq, p.Root, p.What, p.Index)
	if err != nil {
		return nil, err
	}
	r := &StateReply{StateRequest: q}
	switch q.What {
	case WhatPart:
		if len(p.Data) == 0 || len(p.Data) > MaxPartBytes || len(p.Parts)+len(p.Path)+len(p.Meta) > 0 {
			return nil, fmt.Errorf("%w: part of %d bytes", ErrMessage, len(p.Data))
		}
		r.Data, r.Digest = p.Data, sha256.Sum256(p.Data)
	case WhatPage:
		if len(p.Parts)%PartBytes != 0 || len(p.Parts) > PageLeaves*PartBytes || len(p.Path)%32 != 0 || len(p.Path) > 32*maxPath || len(p.Data) > 0 {
			return nil, fmt.Errorf("%w: page of %d bytes, path of %d", ErrMessage, len(p.Parts), len(p.Path))
		}
		r.Wrong = !r.page(&p)
	}
	return r, nil
}

// page reads a page and reports whether it implies the root.
func (r *StateReply) page(p *wirepb.StateReply) bool {
	r.Leaves = p.Leaves
	leaves := make([]smr.Digest, 0, 1+len(p.Parts)/PartBytes)
	if r.Index == 0 {
		m, err := DecodeMeta(p.Meta)
		if err != nil || m.Seq != r.Seq || m.Parts+1 != p.Leaves {
			return false
		}
		r.Meta = m
		leaves = append(leaves, m.Digest())
	} else if len(p.Meta) > 0 {
		return false
	}
	for b := p.Parts; len(b) > 0; b = b[PartBytes:] {
		part := DecodePart(b)
		r.Parts = append(r.Parts, part)
		leaves = append(leaves, part.Leaf())
	}
	path := make([]smr.Digest, len(p.Path)/32)
	for i := range path {
		copy(path[i][:], p.Path[32*i:])
	}
	root, ok := protocol.MerklePageRoot(p.Leaves, pageLevel, r.Index, leaves, path)
	return ok && root == r.Root
}

// Size is about what keeping r costs, in bytes.
func (r *StateReply) Size() int { return 256 + len(r.Data) + 64*len(r.Parts) }

var (
	stateRequestSchema = wire.Schema{Fields: wire.Fields(1, 2, 3, 4)}
	stateReplySchema   = wire.Schema{Fields: wire.Fields(1, 2, 3, 4, 5, 6, 7, 8, 9)}
)

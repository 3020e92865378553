package adversary

import (
	"crypto/sha256"

	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/wire"
)

// badParts is a source of checkpoints that serves garbage, in one way or in all of them; else it is
// honest. Two of them tell the same lie.
func badParts(s *Strategy) part {
	lies := []func(*wirepb.StateReply) *wirepb.StateReply{
		flipped, shortened, lengthened, swapped, absurd, gone, stalled, fakeState,
	}
	only := s.Rand.IntN(2 * len(lies))
	return part{out: func(f frame, emit send) {
		if f.class != wire.ClassStateTransfer || f.kind != wire.KindAnswer {
			emit(f)
			return
		}
		var p wirepb.StateReply
		if err := p.UnmarshalVT(f.payload); err != nil {
			return
		}
		lie := only
		if lie >= len(lies) {
			lie = s.Rand.IntN(len(lies))
		}
		q := lies[lie](&p)
		if q == nil {
			return
		}
		if b, err := q.MarshalVT(); err == nil {
			for range 1 + s.Rand.IntN(2) { // what nobody asked for, too
				emit(f.with(b))
			}
		}
	}}
}

func flipped(p *wirepb.StateReply) *wirepb.StateReply {
	for _, b := range [][]byte{p.Data, p.Parts, p.Path, p.Meta} {
		if len(b) > 0 {
			b[len(b)/2] ^= 1
			break
		}
	}
	return p
}

func shortened(p *wirepb.StateReply) *wirepb.StateReply {
	if n := len(p.Data); n > 1 {
		p.Data = p.Data[:n-1]
	}
	if n := len(p.Parts); n > 0 {
		p.Parts = p.Parts[:n-transfer.PartBytes]
	}
	return p
}

func lengthened(p *wirepb.StateReply) *wirepb.StateReply {
	if n := len(p.Data); n > 0 && n < transfer.MaxPartBytes {
		p.Data = append(p.Data, 0)
	}
	if n := len(p.Parts); n > 0 && n < transfer.PageLeaves*transfer.PartBytes {
		p.Parts = append(p.Parts, p.Parts[n-transfer.PartBytes:]...)
	}
	return p
}

// swapped answers with one part, or page, in the name of another.
func swapped(p *wirepb.StateReply) *wirepb.StateReply {
	if p.What == uint32(transfer.WhatPage) {
		p.Index ^= 1
	} else {
		p.Index = (p.Index + 1) % 3
	}
	return p
}

// absurd claims a checkpoint of 10^9 parts.
func absurd(p *wirepb.StateReply) *wirepb.StateReply {
	if p.What == uint32(transfer.WhatPage) {
		p.Leaves = 1e9
	}
	return p
}

func gone(p *wirepb.StateReply) *wirepb.StateReply {
	p.What, p.Leaves, p.Meta, p.Parts, p.Path, p.Data = uint32(transfer.WhatGone), 0, nil, nil, nil, nil
	return p
}

// stalled serves the descriptor and the first parts and never the rest.
func stalled(p *wirepb.StateReply) *wirepb.StateReply {
	if p.What == uint32(transfer.WhatPart) && p.Index > 0 {
		return nil
	}
	return p
}

// fakeState is a state that is consistent in itself, and that nobody certified: pages whose parts have
// other digests, and the bytes that have these digests.
func fakeState(p *wirepb.StateReply) *wirepb.StateReply {
	switch transfer.What(p.What) {
	case transfer.WhatPart:
		for i := range p.Data {
			p.Data[i] = byte(p.Index)
		}
	case transfer.WhatPage:
		first := max(p.Index*transfer.PageLeaves, 1) - 1
		for at := 0; at < len(p.Parts); at += transfer.PartBytes {
			part := transfer.DecodePart(p.Parts[at:])
			fake := make([]byte, part.Bytes)
			for i := range fake {
				fake[i] = byte(first)
			}
			first++
			part.Digest = sha256.Sum256(fake)
			copy(p.Parts[at:], part.Append(nil))
		}
	}
	return p
}

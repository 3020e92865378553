package adversary

import (
	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/wire"
)

// voteForAll votes in both phases for whatever anybody proposes or votes for, in any view, whatever
// it promised in its timeouts, and without a lock.
func voteForAll(s *Strategy) part {
	type place struct {
		kind      uint8
		view, seq uint64
		d         smr.Digest
	}
	voted := map[place]bool{}
	vote := func(kind uint8, view, seq uint64, d smr.Digest, emit send) {
		p := place{kind, view, seq, d}
		if voted[p] || len(voted) > 4*maxStories {
			return
		}
		voted[p] = true
		v := &pbftpb.Vote{View: view, Seq: seq, Digest: d[:], Signature: s.statement(phase(kind), view, seq, d)}
		s.toAll(kind, s.message(kind, v), emit)
	}
	return part{in: func(f frame, emit send) []byte {
		switch {
		case f.is(kindProposal):
			if _, p, ok := openProposal(f.payload); ok {
				view, seq, d := lockOf(&pbftpb.Certificate{Core: p.Header})
				vote(kindPrepare, view, seq, d, emit)
				vote(kindCommit, view, seq, d, emit)
			}
		case f.is(kindPrepare, kindCommit):
			var v pbftpb.Vote
			if inner(f.payload, &v) && len(v.Digest) == 32 {
				vote(kindPrepare, v.View, v.Seq, smr.Digest(v.Digest), emit)
				vote(kindCommit, v.View, v.Seq, smr.Digest(v.Digest), emit)
			}
		}
		return f.payload
	}}
}

// replay says old things again: its own from earlier views, and what others signed, relayed; some of
// that in the wrong name.
func replay(s *Strategy) part {
	return part{out: func(f frame, emit send) {
		emit(f)
		if old, ok := s.gang.sent.pick(s.Rand); ok && s.one(4) {
			old.peer, old.after = s.someone(), 0
			emit(old)
		}
		if old, ok := s.gang.got.pick(s.Rand); ok && s.one(4) && old.class == wire.ClassProtocol {
			var m wirepb.ProtocolMessage
			if m.UnmarshalVT(old.payload) != nil {
				return
			}
			r := &wirepb.ForwardedProtocol{Origin: uint32(old.to()), Message: &m}
			if s.one(4) {
				r.Origin = uint32(s.someone().ID)
			}
			if b, err := r.MarshalVT(); err == nil {
				emit(frame{peer: s.someone(), class: wire.ClassForwardedProtocol, kind: wire.KindOnly, payload: b})
			}
			old.peer = s.someone() // and as if it were its own
			emit(old)
		}
	}}
}

// garbage sends bytes that mean nothing, halves of messages, and messages that are too long.
func garbage(s *Strategy) part {
	return part{out: func(f frame, emit send) {
		emit(f)
		if !s.one(3) {
			return
		}
		g := f
		switch s.Rand.IntN(6) {
		case 0:
			g.payload = s.randomBytes(s.Rand.IntN(300))
		case 1:
			g.payload = f.payload[:s.Rand.IntN(len(f.payload)+1)]
		case 2:
			g.payload = flip(f.payload, s.Rand.IntN(len(f.payload)+1))
		case 3: // an unknown field that fills it
			g.payload = append(append([]byte(nil), f.payload...), append([]byte{0xfa, 0x3f, 0x80, 0x08}, make([]byte, 1024)...)...)
		case 4:
			g.class, g.kind = wire.Class(s.Rand.IntN(20)), uint8(s.Rand.IntN(12))
		case 5:
			g.class, g.kind = wire.ClassFetch, wire.KindOnly
			g.payload = make([]byte, g.class.MaxFrameBytes()+1)
		}
		emit(g)
	}}
}

// viewStorm complains about every view and times out of it and of those that follow.
func viewStorm(s *Strategy) part {
	return part{out: func(f frame, emit send) {
		emit(f)
		if f.to() == 0 || !s.one(4) {
			return
		}
		view := uint64(s.view)
		for range 2 {
			c := &pbftpb.Complaint{View: view, Decided: 1<<64 - 1, Signature: s.statement(auth.KindComplaint, view, 1<<64-1, smr.Digest{})}
			emit(frame{peer: f.peer, class: wire.ClassProtocol, kind: kindComplaint, payload: s.message(kindComplaint, c)})
			t := &pbftpb.Timeout{View: view, Signature: s.statement(auth.KindTimeout, view, 0, smr.Digest{})}
			emit(frame{peer: f.peer, class: wire.ClassProtocol, kind: kindTimeout, payload: s.message(kindTimeout, t)})
			view += 1 + uint64(s.Rand.IntN(1<<s.Rand.IntN(20)))
		}
	}}
}

// inflate speaks of views and sequence numbers far ahead, up to where arithmetic overflows.
func inflate(s *Strategy) part {
	far := func(x uint64) uint64 {
		if s.one(2) {
			return x + 1 + uint64(s.Rand.IntN(2_000_000))
		}
		return positions[s.Rand.IntN(len(positions))]
	}
	return part{out: func(f frame, emit send) {
		if f.class == wire.ClassViewTransfer || f.class == wire.ClassLogTransfer || f.class == wire.ClassUnorderedReply {
			emit(f.with(inflated(f, far)))
			return
		}
		emit(f)
		if f.to() == 0 || !s.one(3) {
			return
		}
		view, seq, d := far(uint64(s.view)), far(0), smr.Digest(s.randomBytes(32))
		g := frame{peer: f.peer, class: wire.ClassProtocol}
		switch g.kind = []uint8{kindPrepare, kindCommit, kindComplaint, kindTimeout, kindHeartbeat, kindAsk}[s.Rand.IntN(6)]; g.kind {
		case kindPrepare, kindCommit:
			g.payload = s.message(g.kind, &pbftpb.Vote{View: view, Seq: seq, Digest: d[:], Signature: s.statement(phase(g.kind), view, seq, d)})
		case kindComplaint:
			g.payload = s.message(g.kind, &pbftpb.Complaint{View: view, Decided: seq, Signature: s.statement(auth.KindComplaint, view, seq, smr.Digest{})})
		case kindTimeout:
			g.payload = s.message(g.kind, &pbftpb.Timeout{View: view, Signature: s.statement(auth.KindTimeout, view, 0, smr.Digest{})})
		case kindHeartbeat:
			g.payload = s.message(g.kind, &pbftpb.Heartbeat{View: view})
		case kindAsk:
			g.payload = s.message(g.kind, &pbftpb.Ask{View: view, Seq: seq, Digest: d[:], Above: far(0)})
		}
		emit(g)
		v := &wirepb.RootVote{Seq: seq, Root: d[:], Epoch: uint64(s.Membership.Epoch()), Signature: s.statement(auth.KindRoot, 0, seq, d)}
		if b, err := v.MarshalVT(); err == nil {
			emit(frame{peer: f.peer, class: wire.ClassCheckpoint, kind: wire.KindRootVote, payload: b})
		}
	}}
}

// inflated raises every height that an answer claims.
func inflated(f frame, far func(uint64) uint64) []byte {
	var m interface{ MarshalVT() ([]byte, error) }
	switch {
	case f.class == wire.ClassViewTransfer && f.kind == wire.KindAnswer:
		r := new(wirepb.ViewReply)
		if r.UnmarshalVT(f.payload) != nil {
			return f.payload
		}
		r.View, r.Decided, r.FirstLogged = far(r.View), far(r.Decided), far(r.FirstLogged)
		m = r
	case f.class == wire.ClassLogTransfer && f.kind == wire.KindAnswer:
		r := new(wirepb.LogReply)
		if r.UnmarshalVT(f.payload) != nil {
			return f.payload
		}
		r.FirstLogged, r.Entries, r.Linking = far(r.FirstLogged), nil, nil
		m = r
	case f.class == wire.ClassUnorderedReply:
		r := new(wirepb.UnorderedReply)
		if r.UnmarshalVT(f.payload) != nil {
			return f.payload
		}
		r.Version, r.Executed = far(r.Version), far(r.Executed)
		m = r
	default:
		return f.payload
	}
	b, err := m.MarshalVT()
	if err != nil {
		return f.payload
	}
	return b
}

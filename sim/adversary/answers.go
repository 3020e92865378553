package adversary

import (
	"encoding/binary"
	"slices"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/wire"
)

// wrongRoots signs roots of states that nobody holds: the same for all, or one for each.
func wrongRoots(s *Strategy) part {
	each := s.one(2)
	return part{out: func(f frame, emit send) {
		if f.class != wire.ClassCheckpoint || f.kind != wire.KindRootVote {
			emit(f)
			return
		}
		var v wirepb.RootVote
		if v.UnmarshalVT(f.payload) != nil || len(v.Root) != 32 {
			emit(f)
			return
		}
		at := 0
		if each {
			at = int(f.to())
		}
		v.Root = flip(v.Root, at)
		v.Signature = s.statement(auth.KindRoot, 0, v.Seq, smr.Digest(v.Root))
		if b, err := v.MarshalVT(); err == nil {
			f.payload = b
		}
		emit(f)
	}}
}

// badAnswers answers what it is asked wrongly, too shortly, endlessly, or not.
func badAnswers(s *Strategy) part {
	return part{
		in: func(f frame, emit send) []byte {
			var q wirepb.LogRequest
			if f.class != wire.ClassLogTransfer || f.kind != wire.KindQuery || q.UnmarshalVT(f.payload) != nil {
				return f.payload
			}
			for range 8 { // of nothing, without end
				b, err := (&wirepb.LogReply{Id: q.Id, After: q.After, FirstLogged: uint64(s.Rand.IntN(3))}).MarshalVT()
				if err == nil {
					emit(frame{peer: f.peer, class: f.class, kind: wire.KindAnswer, payload: b})
				}
			}
			return f.payload
		},
		out: func(f frame, emit send) {
			switch {
			case f.class == wire.ClassLogTransfer && f.kind == wire.KindAnswer:
				s.badLog(f, emit)
			case f.class == wire.ClassViewTransfer && f.kind == wire.KindAnswer:
				s.badView(f, emit)
			case f.is(kindAnswer):
				s.badHeaders(f, emit)
			case f.class == wire.ClassForwardedRequests:
				s.badBundles(f, emit)
			default:
				emit(f)
			}
		},
	}
}

func (s *Strategy) badLog(f frame, emit send) {
	var r wirepb.LogReply
	if r.UnmarshalVT(f.payload) != nil {
		return
	}
	n := len(r.Entries)
	switch s.Rand.IntN(8) {
	case 0:
		return
	case 1: // short
		r.Entries = r.Entries[:n/2]
	case 2: // swapped
		slices.Reverse(r.Entries)
	case 3: // extra
		r.Entries = append(r.Entries, r.Entries...)
	case 4:
		r.Proof = flip(r.Proof, s.Rand.IntN(len(r.Proof)+1))
	case 5: // other work under the same header
		if n > 0 {
			r.Entries[n-1].Bundles = nil
			if b, ok := s.gang.bundles.pick(s.Rand); ok {
				r.Entries[n-1].Bundles = [][]byte{b}
			}
		}
	case 6: // of another place
		r.After += uint64(1 + s.Rand.IntN(5))
	case 7:
		if n > 0 {
			r.Entries[0].Header = flip(r.Entries[0].Header, s.Rand.IntN(len(r.Entries[0].Header)))
		}
	}
	if b, err := r.MarshalVT(); err == nil {
		for range 1 + s.Rand.IntN(4) {
			emit(f.with(b))
		}
	}
}

func (s *Strategy) badView(f frame, emit send) {
	var r wirepb.ViewReply
	if r.UnmarshalVT(f.payload) != nil {
		return
	}
	switch s.Rand.IntN(5) {
	case 0:
		return
	case 1:
		r.Lock = nil
	case 2:
		r.Lock = flip(r.Lock, s.Rand.IntN(len(r.Lock)+1))
	case 3:
		r.Evidence = s.randomBytes(100)
	case 4: // the own vote as if it were the asker's
		if v, ok := s.gang.sent.pick(s.Rand); ok {
			r.Evidence = v.payload
		}
	}
	if b, err := r.MarshalVT(); err == nil {
		emit(f.with(b))
	}
}

func (s *Strategy) badHeaders(f frame, emit send) {
	var m wirepb.ProtocolMessage
	var a pbftpb.Answer
	if m.UnmarshalVT(f.payload) != nil || a.UnmarshalVT(m.Payload) != nil {
		return
	}
	switch s.Rand.IntN(5) {
	case 0:
		return
	case 1:
		a.Headers = a.Headers[:len(a.Headers)/2]
	case 2:
		slices.Reverse(a.Headers)
	case 3:
		for i := range a.Headers {
			a.Headers[i] = flip(a.Headers[i], timeAt+7)
		}
	case 4:
		a.Headers = append(a.Headers, a.Headers...)
	}
	if b, ok := encode(&m, &a); ok {
		for range 1 + s.Rand.IntN(4) {
			emit(f.with(b))
		}
	}
}

func (s *Strategy) badBundles(f frame, emit send) {
	var m wirepb.Bundles
	if m.UnmarshalVT(f.payload) != nil || len(m.Bundles) == 0 {
		return
	}
	switch s.Rand.IntN(4) {
	case 0:
		return
	case 1: // with a bad client signature
		b := m.Bundles[0]
		m.Bundles[0] = flip(b, len(b)-1)
	case 2: // others than were asked for
		for i := range m.Bundles {
			if b, ok := s.gang.bundles.pick(s.Rand); ok {
				m.Bundles[i] = b
			}
		}
	case 3:
		m.Bundles = m.Bundles[:len(m.Bundles)/2]
	}
	if b, err := m.MarshalVT(); err == nil {
		emit(f.with(b))
	}
}

// wrongReplies lies to clients: wrong results, equal among accomplices and faster than the true
// ones; answers from an old state; sessions that are said to be evicted; advice without cause.
func wrongReplies(s *Strategy) part {
	return part{
		in: func(f frame, emit send) []byte {
			if _, ok := f.peer.Client(); ok && f.class == wire.ClassOrderedRequest {
				s.replyAtOnce(f, emit)
			}
			return f.payload
		},
		out: func(f frame, emit send) {
			switch f.class {
			case wire.ClassOrderedReply:
				f.payload = s.lieInReply(f.payload)
			case wire.ClassUnorderedReply:
				f.payload = s.staleAnswer(f)
			}
			emit(f)
		},
	}
}

// wrong turns one result into the gang's lie.
func (g *gang) wrong(r *wirepb.OpResult) {
	switch g.lie {
	case 0: // another value
		r.Outcome, r.Data = uint32(smr.OutcomeExecuted), flip(r.Data, len(r.Data)-1)
		if len(r.Data) == 0 {
			r.Data = []byte("wrong")
		}
	case 1:
		r.Outcome, r.Data = uint32(smr.OutcomeNoSession), nil // "evicted"
	case 2:
		r.Outcome, r.Data = uint32(smr.OutcomeNotAdmitted), nil
	case 3:
		r.Outcome, r.Data = uint32(smr.OutcomeReplyGone), nil
	}
	r.Seq = 1 << 40
}

func (s *Strategy) lieInReply(payload []byte) []byte {
	var r wirepb.OrderedReply
	if r.UnmarshalVT(payload) != nil {
		return payload
	}
	for _, x := range r.Sessions {
		for _, op := range x.Results {
			s.gang.wrong(op)
		}
	}
	b, err := r.MarshalVT()
	if err != nil {
		return payload
	}
	return b
}

// replyAtOnce answers a client before anything was ordered, and advises it wrongly.
func (s *Strategy) replyAtOnce(f frame, emit send) {
	bundles, err := wire.DecodeBundles(f.payload)
	if err != nil {
		return
	}
	for _, b := range bundles {
		x := &wirepb.SessionReply{Session: uint64(b.Session), Open: b.Kind == smr.BundleOpen}
		if x.Open {
			x.Results = []*wirepb.OpResult{{Op: b.Nonce, Data: binary.BigEndian.AppendUint64(nil, 77)}}
		}
		for i := range b.Ops {
			x.Results = append(x.Results, &wirepb.OpResult{Op: uint64(b.First) + uint64(i)})
		}
		for _, op := range x.Results {
			s.gang.wrong(op)
		}
		if p, err := (&wirepb.OrderedReply{Sessions: []*wirepb.SessionReply{x}}).MarshalVT(); err == nil {
			emit(frame{peer: f.peer, class: wire.ClassOrderedReply, kind: wire.KindOnly, payload: p})
		}
		a := &wirepb.Advice{Code: uint32(1 + s.Rand.IntN(3)), Session: uint64(b.Session), First: uint64(b.First), Text: "no", RetryAfterMs: 1 << 40}
		if x.Open {
			a.First = b.Nonce
		}
		if p, err := a.MarshalVT(); err == nil {
			emit(frame{peer: f.peer, class: wire.ClassAdvice, kind: wire.KindOnly, payload: p})
		}
	}
}

// staleAnswer answers a question with the first answer that was ever given to it, as if it were new.
func (s *Strategy) staleAnswer(f frame) []byte {
	var r wirepb.UnorderedReply
	client, ok := f.peer.Client()
	if !ok || r.UnmarshalVT(f.payload) != nil {
		return f.payload
	}
	op, ok := s.gang.asked[query{uint64(client), r.Id}]
	if !ok {
		return f.payload
	}
	if old, known := s.gang.answers[op]; known {
		r.Data = old
	} else if len(s.gang.answers) < maxStories {
		s.gang.answers[op] = r.Data
	}
	b, err := r.MarshalVT()
	if err != nil {
		return f.payload
	}
	return b
}

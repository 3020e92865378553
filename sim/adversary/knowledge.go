package adversary

import (
	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/wire"
)

type (
	timeout     = *pbftpb.Timeout
	certificate = *pbftpb.Certificate
)

// received remembers what helps to lie later.
func (g *gang) received(f frame) {
	switch f.class {
	case wire.ClassOrderedRequest, wire.ClassForwardedRequests:
		var m wirepb.Bundles
		if m.UnmarshalVT(f.payload) == nil {
			for _, b := range m.Bundles {
				g.bundles.add(b, maxKept)
			}
		}
	case wire.ClassUnorderedRequest:
		var q wirepb.UnorderedRequest
		if id, ok := f.peer.Client(); ok && q.UnmarshalVT(f.payload) == nil && len(g.asked) < maxStories {
			g.asked[query{uint64(id), q.Id}] = string(q.Op)
		}
	case wire.ClassProtocol, wire.ClassCheckpoint:
		if f.to() != 0 && g.signers[f.to()] == nil {
			g.got.add(f, maxKept)
			g.learn(f.to(), f)
		}
	}
}

// sending remembers what an accomplice's engine says.
func (g *gang) sending(self smr.NodeID, f frame) {
	if f.class != wire.ClassProtocol {
		return
	}
	g.sent.add(f, maxKept)
	g.learn(self, f)
}

// learn takes what one message teaches: cores, certificates, timeouts.
func (g *gang) learn(from smr.NodeID, f frame) {
	if f.class != wire.ClassProtocol {
		return
	}
	switch f.kind {
	case kindProposal:
		if _, p, ok := openProposal(f.payload); ok {
			g.keepCore(p.Header)
			if p.Timeout != nil {
				g.keepLock(p.Timeout.Lock)
			}
		}
	case kindCertificate:
		var c pbftpb.Certificate
		if inner(f.payload, &c) {
			g.keepLock(&c)
		}
	case kindHeartbeat:
		var h pbftpb.Heartbeat
		if inner(f.payload, &h) {
			g.keepLock(h.Newest)
		}
	case kindTimeout:
		t := new(pbftpb.Timeout)
		if !inner(f.payload, t) {
			return
		}
		g.keepLock(t.Lock)
		if g.heard[t.View] == nil {
			if len(g.heard) >= maxHeard {
				return
			}
			g.heard[t.View] = map[smr.NodeID]timeout{}
		}
		g.heard[t.View][from] = t
	}
}

func (g *gang) keepCore(header []byte) {
	if len(g.cores) < maxStories {
		g.cores[digestOf(header)] = append([]byte(nil), header[:coreBytes]...)
	}
}

func (g *gang) keepLock(c certificate) {
	if c == nil || len(c.Core) < coreBytes {
		return
	}
	g.keepCore(c.Core)
	if len(g.locks) < maxKept {
		g.locks = append(g.locks, c)
	} else {
		g.locks[int(c.Core[seqAt+7])%maxKept] = c
	}
}

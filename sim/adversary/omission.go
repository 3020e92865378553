package adversary

import (
	"crypto/sha256"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/wire"
)

// silent says nothing: to anybody, to some, or no proposal.
func silent(s *Strategy) part {
	side := map[smr.NodeID]bool{}
	for _, id := range s.Membership.Voters() {
		side[id] = s.one(2)
	}
	switch s.Rand.IntN(3) {
	case 0:
		return part{out: func(frame, send) {}}
	case 1:
		return part{out: func(f frame, emit send) {
			if side[f.to()] {
				emit(f)
			}
		}}
	}
	return part{out: func(f frame, emit send) {
		if !f.is(kindProposal) {
			emit(f)
		}
	}}
}

// withhold keeps proposals from some replicas, and bundles from all: it neither forwards them nor
// answers fetches, and strips those that travel with its messages.
func withhold(s *Strategy) part {
	bundlesToo, votesToo := s.one(2), s.one(3)
	side := map[smr.NodeID]bool{}
	for _, id := range s.Membership.Voters() {
		side[id] = s.one(2)
	}
	return part{out: func(f frame, emit send) {
		switch {
		case f.class == wire.ClassForwardedRequests, f.is(kindAnswer):
			return
		case f.is(kindProposal):
			if side[f.to()] {
				return
			}
			if bundlesToo {
				f.payload = stripBundles(f.payload)
			}
		case f.is(kindPrepare, kindCommit) && votesToo && side[f.to()]:
			return
		}
		emit(f)
	}}
}

// selective tells each kind of thing to a set of replicas and clients of its own.
func selective(s *Strategy) part {
	type story struct {
		class wire.Class
		kind  uint8
		to    uint64
	}
	told := map[story]bool{}
	return part{out: func(f frame, emit send) {
		k := story{f.class, f.kind, f.peer.ID<<1 | uint64(f.peer.Kind)&1}
		yes, known := told[k]
		if !known {
			yes = !s.one(3)
			told[k] = yes
		}
		if yes {
			emit(f)
		}
	}}
}

// quorumOnly shows its proposals, and what would tell of them, to exactly a quorum, itself counted.
func quorumOnly(s *Strategy) part {
	left := map[smr.NodeID]bool{}
	for i, id := range s.others() {
		left[id] = i+len(s.gang.signers) >= s.Membership.Quorum()
	}
	return part{out: func(f frame, emit send) {
		if left[f.to()] && f.is(kindProposal, kindPrepare, kindCommit, kindCertificate) {
			return
		}
		emit(f)
	}}
}

// censor takes nothing of one client that it could order, and does not answer it.
func censor(s *Strategy) part {
	drop := func(b []byte) bool {
		o, err := wire.DecodeBundle(b)
		return err == nil && uint64(o.Client) == s.gang.victim
	}
	return part{
		in: func(f frame, emit send) []byte {
			if client, ok := f.peer.Client(); ok && uint64(client) == s.gang.victim {
				return nil
			}
			if f.class == wire.ClassForwardedRequests && s.leads() {
				return without(f.payload, drop)
			}
			return f.payload
		},
		out: func(f frame, emit send) {
			if client, ok := f.peer.Client(); ok && uint64(client) == s.gang.victim {
				return
			}
			emit(f)
		},
	}
}

// heartbeatsOnly takes no request from anybody while it leads, so that it idles and says so.
func heartbeatsOnly(s *Strategy) part {
	return part{in: func(f frame, emit send) []byte {
		if s.leads() && (f.class == wire.ClassOrderedRequest || f.class == wire.ClassForwardedRequests) {
			return nil
		}
		return f.payload
	}}
}

// without drops bundles from a payload; nil if none is left.
func without(payload []byte, drop func([]byte) bool) []byte {
	var m wirepb.Bundles
	if m.UnmarshalVT(payload) != nil {
		return payload
	}
	var kept [][]byte
	for _, b := range m.Bundles {
		if !drop(b) {
			kept = append(kept, b)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	m.Bundles = kept
	b, err := m.MarshalVT()
	if err != nil {
		return nil
	}
	return b
}

// slowPrimary lets each proposal go when the timeout since the one before has nearly run out.
func slowPrimary(s *Strategy) part {
	due := map[smr.Digest]time.Time{}
	var last time.Time
	return part{out: func(f frame, emit send) {
		if f.is(kindProposal) {
			d := smr.Digest(sha256.Sum256(f.payload))
			at, known := due[d]
			if !known {
				at = last.Add(s.Timeout * 9 / 10)
				if at.Before(s.now) {
					at = s.now
				}
				last = at
				if len(due) < maxStories {
					due[d] = at
				}
			}
			if at.After(s.now) {
				f.after = at.Sub(s.now)
			}
		}
		emit(f)
	}}
}

// disorder lets later things overtake earlier ones: votes before the proposal, a certificate before
// both, a proposal after its commits.
func disorder(s *Strategy) part {
	return part{out: func(f frame, emit send) {
		if f.is(kindProposal) || s.one(3) {
			f.after += time.Duration(s.Rand.Float64() * float64(s.Timeout) / 3)
		}
		emit(f)
		if s.one(8) {
			f.after += time.Duration(4 * s.Rand.Float64() * float64(s.Timeout))
			emit(f)
		}
	}}
}

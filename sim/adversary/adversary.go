// Package adversary makes Byzantine replicas out of honest ones: a [Strategy] stands between an
// engine and the network and rewrites, adds or drops what leaves. It holds the replica's own key and
// no other, so it can say anything in its own name and nothing in another's.
//
// It speaks protocol/pbft's wire format. It does not import package sim: strategies work on frames
// and can stand before any transport.
package adversary

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/pbftpb"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// Emit sends one frame in the replica's name.
type Emit func(to smr.NodeID, class wire.Class, kind uint8, payload []byte)

// Strategy is the behaviour of one Byzantine replica. It belongs to one goroutine.
type Strategy struct {
	self smr.NodeID
	m    *quorum.Membership
	v    *auth.Verifier
	sign auth.Signer
	rng  *rand.Rand
	act  func(f frame, emit Emit)

	rarely byte                // one proposal in so many is told in two ways
	side   map[smr.NodeID]bool // the replicas that are told the other story
	story  map[smr.Digest]smr.Digest
	cores  map[smr.Digest][]byte
	tries  map[smr.NodeID]int
	heard  map[uint64]map[smr.NodeID]*pbftpb.Timeout // by view
}

// frame is what the honest engine wants to send to one replica.
type frame struct {
	to      smr.NodeID
	class   wire.Class
	kind    uint8
	payload []byte
}

// Behaviours returns the names that New knows.
func Behaviours() []string {
	return []string{"equivocate", "withhold", "two-new-views", "lie", "silent"}
}

// New returns the strategy of a behaviour. rng is the strategy's own.
func New(behaviour string, self smr.NodeID, m *quorum.Membership, v *auth.Verifier, sign auth.Signer, rng *rand.Rand) (*Strategy, error) {
	s := &Strategy{
		self: self, m: m, v: v, sign: sign, rng: rng, rarely: 1,
		side: map[smr.NodeID]bool{}, story: map[smr.Digest]smr.Digest{}, cores: map[smr.Digest][]byte{},
		heard: map[uint64]map[smr.NodeID]*pbftpb.Timeout{}, tries: map[smr.NodeID]int{},
	}
	for _, id := range m.Voters() {
		s.side[id] = rng.IntN(2) == 0
	}
	switch behaviour {
	case "equivocate":
		s.rarely = []byte{1, 4, 16}[rng.IntN(3)]
		s.act = s.equivocate
	case "withhold":
		s.act = s.withholding()
	case "two-new-views":
		s.act = s.twoNewViews
	case "lie":
		for _, id := range m.Voters() {
			s.side[id] = s.side[id] && rng.IntN(2) == 0
		}
		s.act = s.lie
	case "silent":
		s.act = s.silence()
	default:
		return nil, fmt.Errorf("unknown behaviour %q; there are: %s", behaviour, strings.Join(Behaviours(), ", "))
	}
	return s, nil
}

// Incoming remembers the timeouts that others sent.
func (s *Strategy) Incoming(from smr.NodeID, class wire.Class, kind uint8, payload []byte) {
	if class == wire.ClassProtocol && kind == kindTimeout {
		s.hear(from, payload)
	}
}

// Outgoing decides what leaves instead of one frame of the honest engine.
func (s *Strategy) Outgoing(_ time.Time, to smr.NodeID, class wire.Class, kind uint8, payload []byte, emit func(to smr.NodeID, class wire.Class, kind uint8, payload []byte)) {
	s.act(frame{to, class, kind, payload}, emit)
}

func (f frame) pass(emit Emit) { emit(f.to, f.class, f.kind, f.payload) }

// silence says nothing: to anybody, to some, or no proposal.
func (s *Strategy) silence() func(frame, Emit) {
	switch s.rng.IntN(3) {
	case 0:
		return func(frame, Emit) {}
	case 1:
		return func(f frame, emit Emit) {
			if s.side[f.to] {
				f.pass(emit)
			}
		}
	}
	return func(f frame, emit Emit) {
		if f.class != wire.ClassProtocol || f.kind != kindProposal {
			f.pass(emit)
		}
	}
}

// withholding keeps proposals from some replicas, and bundles from all: it neither forwards them
// nor answers fetches, and strips those that travel with its messages.
func (s *Strategy) withholding() func(frame, Emit) {
	bundlesToo := s.rng.IntN(2) == 0
	votesToo := s.rng.IntN(3) == 0
	return func(f frame, emit Emit) {
		switch {
		case f.class == wire.ClassForwardedRequests:
			return
		case f.class == wire.ClassProtocol && f.kind == kindProposal:
			if s.side[f.to] {
				return
			}
			if bundlesToo {
				f.payload = stripBundles(f.payload)
			}
		case f.class == wire.ClassProtocol && (f.kind == kindPrepare || f.kind == kindCommit) && votesToo && s.side[f.to]:
			return
		case f.class == wire.ClassProtocol && f.kind == kindAnswer:
			return
		}
		f.pass(emit)
	}
}

// equivocate tells one side another story from the first proposal on: a chain of its own, voted for
// in full.
func (s *Strategy) equivocate(f frame, emit Emit) {
	if f.class != wire.ClassProtocol || !s.side[f.to] {
		f.pass(emit)
		return
	}
	switch f.kind {
	case kindProposal:
		if other, ok := s.otherProposal(f.payload, s.rng.IntN(16) == 0); ok {
			emit(f.to, f.class, f.kind, other)
			return
		}
	case kindPrepare, kindCommit:
		if other, ok := s.otherVote(f.payload, f.kind); ok {
			emit(f.to, f.class, f.kind, other)
			if f.kind == kindPrepare { // a commit without a lock
				if c, ok := s.otherVote(f.payload, kindCommit); ok {
					emit(f.to, f.class, kindCommit, c)
				}
			}
			if s.rng.IntN(2) == 0 {
				return
			}
		}
	}
	f.pass(emit)
}

// lie votes towards one side only, so that locks differ; carries no lock in its timeouts; and opens
// the views that it leads on the lowest lock that some quorum of timeouts allows.
func (s *Strategy) lie(f frame, emit Emit) {
	if f.class == wire.ClassProtocol {
		switch f.kind {
		case kindTimeout:
			if other, ok := s.otherTimeout(f.payload); ok {
				f.payload = other
			}
			s.hear(s.self, f.payload)
		case kindProposal:
			if !opensView(f.payload) {
				break
			}
			if s.tries[f.to]++; s.tries[f.to]%3 == 1 {
				return // until more timeouts have come in: there is a second sending
			}
			if other, ok := s.lowestOpening(f.payload); ok {
				emit(f.to, f.class, f.kind, other)
				return
			}
		case kindPrepare, kindCommit:
			if !s.side[f.to] {
				return
			}
		case kindCertificate:
			return
		case kindTimeoutCertificate:
			if s.rng.IntN(2) == 0 {
				return
			}
		}
	}
	f.pass(emit)
}

// twoNewViews opens each view that it leads in two ways: as it should, and with another first
// proposal on the same certificate, on another quorum of timeouts with a lower lock, or on a parent
// that no certificate allows.
func (s *Strategy) twoNewViews(f frame, emit Emit) {
	if f.class == wire.ClassProtocol && f.kind == kindTimeout {
		s.hear(s.self, f.payload)
	}
	if f.class != wire.ClassProtocol || !s.side[f.to] {
		f.pass(emit)
		return
	}
	switch f.kind {
	case kindProposal:
		if !opensView(f.payload) {
			break
		}
		if other, ok := s.lowestOpening(f.payload); ok && s.rng.IntN(2) == 0 {
			emit(f.to, f.class, f.kind, other)
			return
		}
		if other, ok := s.otherProposal(f.payload, s.rng.IntN(3) == 0); ok {
			emit(f.to, f.class, f.kind, other)
			if s.rng.IntN(2) == 0 {
				return
			}
		}
	case kindPrepare, kindCommit:
		if other, ok := s.otherVote(f.payload, f.kind); ok {
			emit(f.to, f.class, f.kind, other)
		}
	}
	f.pass(emit)
}

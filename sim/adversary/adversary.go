// Package adversary makes Byzantine replicas out of honest ones: a [Strategy] stands between an
// engine and the network and rewrites, adds, delays or drops what leaves, and what arrives. It holds
// its own replica's key and those of its accomplices, and no other, so it can say anything in their
// names and nothing in another's.
//
// It speaks protocol/pbft's wire format. It does not import package sim: strategies work on frames
// and can stand before any transport.
package adversary

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// Emit sends one frame in the replica's name, after a while. It must not call back into a strategy.
type Emit = func(after time.Duration, to auth.Identity, class wire.Class, kind uint8, payload []byte)

// Config is what a Byzantine replica knows: its own key, public facts, the timeout of a first view,
// and a random source of its own.
type Config struct {
	Self       smr.NodeID
	Membership *quorum.Membership
	Verifier   *auth.Verifier
	Signer     auth.Signer
	Rand       *rand.Rand
	Timeout    time.Duration
}

// Strategy is what one Byzantine replica does to its frames. Accomplices share what they know, so a
// lock guards every call.
type Strategy struct {
	Config
	gang   *gang
	always []part // what it does at all times
	often  []part // a mix draws from these
	active []part // in effect now
	until  time.Time
	now    time.Time
	view   smr.View // the highest it was seen to act in
	tries  map[smr.NodeID]int
}

// part is one behaviour of one replica. A nil function lets everything pass.
type part struct {
	// out takes a frame of the honest engine and sends something else, or nothing.
	out func(f frame, emit send)
	// in takes a frame for the honest engine and returns what reaches it instead, nil for nothing.
	// What it sends leaves as it is.
	in func(f frame, emit send) []byte
}

// frame is one frame and its other end.
type frame struct {
	peer    auth.Identity
	class   wire.Class
	kind    uint8
	payload []byte
	after   time.Duration
}

type send func(frame)

// to returns the replica at the other end, 0 for a client.
func (f frame) to() smr.NodeID {
	if id, ok := f.peer.Node(); ok {
		return id
	}
	return 0
}

// is reports whether f is an ordering's message of one of the kinds.
func (f frame) is(kinds ...uint8) bool {
	if f.class != wire.ClassProtocol {
		return false
	}
	for _, k := range kinds {
		if f.kind == k {
			return true
		}
	}
	return false
}

func (f frame) with(payload []byte) frame {
	f.payload = payload
	return f
}

// behaviours maps names to what makes them.
var behaviours = []struct {
	name string
	make func(*Strategy) part
}{
	{"equivocate", equivocate}, {"withhold", withhold}, {"two-new-views", twoNewViews}, {"lie", lie}, {"silent", silent},
	{"selective", selective}, {"quorum-only", quorumOnly}, {"vote-for-all", voteForAll}, {"forge", forge}, {"replay", replay},
	{"garbage", garbage}, {"wrong-roots", wrongRoots}, {"bad-answers", badAnswers}, {"slow-primary", slowPrimary}, {"censor", censor},
	{"duplicates", duplicates}, {"empty-batches", emptyBatches}, {"heartbeats-only", heartbeatsOnly}, {"bad-proposals", badProposals},
	{"view-storm", viewStorm}, {"disorder", disorder}, {"inflate", inflate}, {"wrong-replies", wrongReplies},
	{"bad-parts", badParts},
}

// mix is the behaviour that is several of the others at once, and others after a while.
const mix = "mix"

// Behaviours returns the names that New knows. Several can be joined by "+" to act at once.
func Behaviours() []string {
	names := make([]string, 0, len(behaviours)+1)
	for _, b := range behaviours {
		names = append(names, b.name)
	}
	return append(names, mix)
}

// New returns the strategies of accomplices with one behaviour, in the order of members.
func New(behaviour string, members ...Config) ([]*Strategy, error) {
	g := newGang(members)
	all := make([]*Strategy, len(members))
	for i, c := range members {
		s := &Strategy{Config: c, gang: g, tries: map[smr.NodeID]int{}}
		for _, name := range strings.Split(behaviour, "+") {
			if err := s.add(name); err != nil {
				return nil, err
			}
		}
		s.active = s.always
		all[i] = s
	}
	return all, nil
}

func (s *Strategy) add(name string) error {
	found := false
	for _, b := range behaviours {
		switch name {
		case b.name:
			s.always = append(s.always, b.make(s))
			found = true
		case mix:
			s.often = append(s.often, b.make(s))
			found = true
		}
	}
	if !found {
		return fmt.Errorf("unknown behaviour %q; there are: %s", name, strings.Join(Behaviours(), ", "))
	}
	return nil
}

// Incoming takes what the replica receives and returns what its honest engine gets instead; nil for
// nothing. payload must not change afterwards.
func (s *Strategy) Incoming(now time.Time, from auth.Identity, class wire.Class, kind uint8, payload []byte, emit Emit) []byte {
	s.gang.mu.Lock()
	defer s.gang.mu.Unlock()
	s.begin(now)
	f := frame{peer: from, class: class, kind: kind, payload: payload}
	s.gang.received(f)
	for _, p := range s.active {
		if p.in == nil {
			continue
		}
		if f.payload = p.in(f, s.sender(emit)); f.payload == nil {
			return nil
		}
	}
	return f.payload
}

// Outgoing decides what leaves instead of one frame of the honest engine. payload must not change
// afterwards.
func (s *Strategy) Outgoing(now time.Time, to auth.Identity, class wire.Class, kind uint8, payload []byte, emit Emit) {
	s.gang.mu.Lock()
	defer s.gang.mu.Unlock()
	s.begin(now)
	f := frame{peer: to, class: class, kind: kind, payload: payload}
	s.gang.sending(s.Self, f)
	if f.is(kindProposal, kindPrepare, kindTimeout) {
		s.view = max(s.view, viewOf(f))
	}
	s.through(s.active, f, s.sender(emit))
}

func (s *Strategy) sender(emit Emit) send {
	return func(f frame) { emit(f.after, f.peer, f.class, f.kind, f.payload) }
}

// through passes a frame through the behaviours in turn: each takes what the one before sends.
func (s *Strategy) through(parts []part, f frame, emit send) {
	if len(parts) == 0 {
		emit(f)
		return
	}
	if parts[0].out == nil {
		s.through(parts[1:], f, emit)
		return
	}
	parts[0].out(f, func(g frame) { s.through(parts[1:], g, emit) })
}

// begin notes the time, and changes the mix when it is due.
func (s *Strategy) begin(now time.Time) {
	s.now = now
	if len(s.often) == 0 || now.Before(s.until) {
		return
	}
	s.until = now.Add(time.Duration((1 + 4*s.Rand.Float64()) * float64(s.Timeout)))
	s.active = append([]part(nil), s.always...)
	for range 1 + s.Rand.IntN(3) {
		s.active = append(s.active, s.often[s.Rand.IntN(len(s.often))])
	}
}

// leads reports whether the replica leads the newest view that it acted in.
func (s *Strategy) leads() bool { return s.Membership.Primary(s.view) == s.Self }

// one reports true one time in n.
func (s *Strategy) one(n int) bool { return s.Rand.IntN(n) == 0 }

// others returns the replicas that are no accomplices.
func (s *Strategy) others() []smr.NodeID {
	var ids []smr.NodeID
	for _, id := range s.Membership.Voters() {
		if s.gang.signers[id] == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// someone picks a replica that is no accomplice.
func (s *Strategy) someone() auth.Identity {
	ids := s.others()
	return auth.NodeIdentity(ids[s.Rand.IntN(len(ids))])
}

// toAll sends an ordering's message to every replica but the own and the accomplices.
func (s *Strategy) toAll(kind uint8, payload []byte, emit send) {
	for _, id := range s.others() {
		emit(frame{peer: auth.NodeIdentity(id), class: wire.ClassProtocol, kind: kind, payload: payload})
	}
}

// gang is what accomplices share.
type gang struct {
	mu      sync.Mutex
	signers map[smr.NodeID]auth.Signer // of accomplices
	way     map[smr.NodeID]int         // which story each replica is told; 0 is the honest one
	stories map[tale]smr.Digest
	cores   map[smr.Digest][]byte
	heard   map[uint64]map[smr.NodeID]timeout // by view
	locks   []certificate                     // genuine certificates
	bundles ring[[]byte]
	sent    ring[frame] // own frames
	got     ring[frame] // of others
	victim  uint64      // the client that is censored
	lie     int         // which lie clients are told
	answers map[string][]byte
	asked   map[query]string
}

// query names a question of a client.
type query struct{ client, id uint64 }

// ring keeps the newest of what it was given.
type ring[T any] struct {
	items []T
	next  int
}

func (r *ring[T]) add(x T, most int) {
	if len(r.items) < most {
		r.items = append(r.items, x)
		return
	}
	r.items[r.next%most] = x
	r.next++
}

// pick draws one; ok is false if there is none.
func (r *ring[T]) pick(rng *rand.Rand) (x T, ok bool) {
	if len(r.items) == 0 {
		return x, false
	}
	return r.items[rng.IntN(len(r.items))], true
}

// Bounds of what a gang remembers.
const (
	maxStories = 4096
	maxHeard   = 64
	maxKept    = 256
)

func newGang(members []Config) *gang {
	g := &gang{
		signers: map[smr.NodeID]auth.Signer{}, way: map[smr.NodeID]int{}, stories: map[tale]smr.Digest{}, cores: map[smr.Digest][]byte{},
		heard: map[uint64]map[smr.NodeID]timeout{}, answers: map[string][]byte{}, asked: map[query]string{},
	}
	for _, c := range members {
		g.signers[c.Self] = c.Signer
	}
	if len(members) == 0 {
		return g
	}
	r := members[0].Rand
	ways := 2 + r.IntN(2) // stories, the honest one counted
	for _, id := range members[0].Membership.Voters() {
		if g.signers[id] == nil {
			g.way[id] = r.IntN(ways)
		}
	}
	g.victim, g.lie = 1+uint64(r.IntN(4)), r.IntN(4)
	return g
}

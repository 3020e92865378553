package engine

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
)

// entry is a bundle in the store and all that is known of it.
type entry struct {
	b       *smr.Bundle
	arrival uint64 // order of arrival among pooled bundles; 0 = never pooled
	since   time.Time
	// holds counts the live proposals that name it.
	holds    int
	proposed bool // given to the ordering, not decided and not released since
	pooled   bool // it arrived from clients or forwarders and waits to be decided
	decided  bool
	written  bool       // in the log with an accepted proposal: its bytes are promised to others
	slot     slotKey    // reserved slot it occupies; zero for none
	loose    int        // shares of loose bundles it is in
	from     smr.NodeID // who sent it first as a loose one
	// forwarded is when it was sent to all replicas because it was late; zero = not.
	forwarded time.Time
	mark      uint64 // newest arrival when it was first forwarded
	overtaken int    // bytes that arrived later and were decided since forwarded

	prev, next *entry // pool list in arrival order; nil outside it
}

// inFlight reports whether a live proposal names the bundle.
func (e *entry) inFlight() bool { return e.proposed || e.holds > 0 }

// slotKey names the slot that a primary keeps for a client's bundles relayed by one replica,
// outside the client's bound.
type slotKey struct {
	client    smr.ClientID
	forwarder smr.NodeID
}

// opKey names where an op belongs: a session, or the opens of a client.
type opKey struct {
	client  smr.ClientID
	session smr.SessionID
}

func keyOf(b *smr.Bundle) opKey { return opKey{b.Client, b.Session} }

// store holds every bundle the engine knows: the pool (waiting, in arrival order), those held by
// live proposals, decided ones retained to serve fetches, and loose ones that came with peers'
// messages.
type store struct {
	lim      Limits
	all      map[smr.BundleID]*entry
	head     entry // sentinel of the pool list
	arrivals uint64
	pooled   int
	bytes    int
	free     int // pooled and not in flight
	freeSize int
	clients  map[smr.ClientID]*clientShare
	slots    map[slotKey]*entry
	sessions map[opKey][]*entry // pooled
	retained fifo               // decided
	loose    []looseShare
	stopped  []smr.BundleID // left the pool without a decision; the engine reports them
	promised fifo           // written with a proposal that was passed over: a later view may return to it
	recent   recentIDs
}

type clientShare struct {
	bundles, bytes int
	lacked         int // bundles of this client still to travel inside proposals
}

func newStore(lim Limits, peers []smr.NodeID) *store {
	s := &store{
		lim: lim, all: map[smr.BundleID]*entry{}, clients: map[smr.ClientID]*clientShare{},
		slots: map[slotKey]*entry{}, sessions: map[opKey][]*entry{},
	}
	s.head.prev, s.head.next = &s.head, &s.head
	s.loose = make([]looseShare, 1, 1+len(peers))
	for _, id := range peers {
		s.loose = append(s.loose, looseShare{peer: id})
	}
	s.recent.limit = lim.RecentIDs
	return s
}

// get returns the bundle if its bytes are here.
func (s *store) get(id smr.BundleID) (*entry, bool) {
	e, ok := s.all[id]
	return e, ok
}

// length returns the encoded length of a bundle that is here, else zero.
func (s *store) length(id smr.BundleID) int {
	if e, ok := s.all[id]; ok {
		return len(e.b.Raw)
	}
	return 0
}

// dropDuplicate is why a bundle is not pooled that waits already or was decided.
const dropDuplicate = "bundle-duplicate"

// admit pools a verified bundle that request workers accepted. It returns the reason it was
// dropped, or "".
func (s *store) admit(now time.Time, b *smr.Bundle, from auth.Identity) string {
	e, known := s.all[b.ID]
	if known && (e.pooled || e.decided) || !known && s.recent.has(b.ID) {
		return dropDuplicate
	}
	slot, why := s.room(b, from)
	if why != "" {
		return why
	}
	if !known {
		e = &entry{b: b}
		s.all[b.ID] = e
	} else {
		s.tighten(e)
		s.promised.remove(e)
	}
	s.arrivals++
	e.arrival, e.since, e.pooled, e.slot = s.arrivals, now, true, slot
	last := s.head.prev
	e.prev, e.next = last, &s.head
	last.next, s.head.prev = e, e
	s.pooled++
	s.bytes += len(b.Raw)
	if slot != (slotKey{}) {
		s.slots[slot] = e
	} else {
		c := s.share(b.Client)
		c.bundles++
		c.bytes += len(b.Raw)
	}
	k := keyOf(b)
	s.sessions[k] = append(s.sessions[k], e)
	s.account(e, +1)
	return ""
}

// room decides whether b fits: within the bounds, or in the slot of (client, forwarder), where the
// lowest op stays.
func (s *store) room(b *smr.Bundle, from auth.Identity) (slotKey, string) {
	why := ""
	c := s.clients[b.Client]
	switch {
	case s.pooled >= s.lim.PoolBundles || s.bytes+len(b.Raw) > s.lim.PoolBytes:
		why = "pool-full"
	case c != nil && (c.bundles >= s.lim.ClientBundles || c.bytes+len(b.Raw) > s.lim.ClientBytes):
		why = "client-full"
	default:
		return slotKey{}, ""
	}
	node, relayed := from.Node()
	if !relayed || len(s.slots) >= s.lim.PoolBundles {
		return slotKey{}, why
	}
	k := slotKey{b.Client, node}
	if old := s.slots[k]; old != nil {
		if old.inFlight() || old.b.First <= b.First {
			return slotKey{}, why
		}
		s.stop(old)
	}
	return k, ""
}

func (s *store) share(id smr.ClientID) *clientShare {
	c := s.clients[id]
	if c == nil {
		c = &clientShare{}
		s.clients[id] = c
	}
	return c
}

// account adds (+1) or removes (-1) a pooled bundle that is not in flight from the free counts.
func (s *store) account(e *entry, sign int) {
	if e.pooled && !e.inFlight() {
		s.free += sign
		s.freeSize += sign * len(e.b.Raw)
	}
}

// unpool takes e out of the pool.
func (s *store) unpool(e *entry) {
	if !e.pooled {
		return
	}
	s.account(e, -1)
	e.pooled = false
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
	s.pooled--
	s.bytes -= len(e.b.Raw)
	if e.slot != (slotKey{}) {
		delete(s.slots, e.slot)
		e.slot = slotKey{}
	} else if c := s.clients[e.b.Client]; c != nil {
		c.bundles--
		c.bytes -= len(e.b.Raw)
		if c.bundles == 0 && c.lacked == 0 {
			delete(s.clients, e.b.Client)
		}
	}
	k := keyOf(e.b)
	list := s.sessions[k]
	for i, x := range list {
		if x == e {
			list = append(list[:i], list[i+1:]...)
			break
		}
	}
	if len(list) == 0 {
		delete(s.sessions, k)
	} else {
		s.sessions[k] = list
	}
}

// stop gives up a pooled bundle without a decision.
func (s *store) stop(e *entry) {
	s.unpool(e)
	s.forget(e)
	s.stopped = append(s.stopped, e.b.ID)
}

// forgetPooled gives up all that waits and is not in flight: a checkpoint was taken over, and which of
// it was decided below is not known here. Clients send again what was not.
func (s *store) forgetPooled() {
	for x := s.head.next; x != &s.head; {
		next := x.next
		if !x.inFlight() {
			s.stop(x)
		}
		x = next
	}
}

// forget drops e's bytes unless something still needs them.
func (s *store) forget(e *entry) {
	switch {
	case e.pooled || e.inFlight() || e.decided:
	case e.written:
		s.promise(e)
	default:
		s.tighten(e)
		delete(s.all, e.b.ID)
	}
}

// put keeps a bundle that something is about to need: the caller says what.
func (s *store) put(b *smr.Bundle) *entry {
	e, ok := s.all[b.ID]
	if !ok {
		e = &entry{b: b}
		s.all[b.ID] = e
	}
	return e
}

func (s *store) hold(e *entry) {
	s.account(e, -1)
	e.holds++
	s.tighten(e)
	s.promised.remove(e)
	s.retained.remove(e)
}

func (s *store) propose(e *entry) {
	s.account(e, -1)
	e.proposed = true
}

// release ends one hold and reports whether the bundle is proposable again.
func (s *store) release(e *entry) bool {
	was := e.inFlight()
	if e.holds > 0 {
		e.holds--
	}
	if e.holds > 0 {
		return false
	}
	e.proposed = false
	switch {
	case e.decided:
		s.retain(e)
	case e.pooled:
		if was {
			s.account(e, +1)
		}
		return was
	case was && e.written:
		s.promise(e)
	case was:
		s.loosen(e, e.from)
	}
	return false
}

// promise keeps a bundle that this replica prepared once, until it is decided or room runs out.
func (s *store) promise(e *entry) {
	s.promised.push(e)
	for s.promised.bytes > s.lim.PoolBytes {
		if old := s.promised.pop(); !old.inFlight() && !old.pooled && !old.decided {
			delete(s.all, old.b.ID)
		}
	}
}

// decide says that e was decided: it leaves the pool and is retained to serve fetches. held says
// that the decision ends the hold of the proposal it is about; where it does not, the ordering
// releases it.
func (s *store) decide(e *entry, held bool) {
	s.unpool(e)
	if held && e.holds > 0 {
		e.holds--
	}
	e.decided, e.proposed = true, false
	s.tighten(e)
	s.promised.remove(e)
	s.recent.add(e.b.ID)
	if e.holds == 0 {
		s.retain(e)
	}
}

func (s *store) retain(e *entry) {
	s.retained.remove(e)
	s.retained.push(e)
	for s.retained.bytes > s.lim.RetainBytes || s.retained.count > s.lim.RetainBundles {
		if old := s.retained.pop(); old.holds == 0 {
			delete(s.all, old.b.ID)
		}
	}
}

// covered returns the other pooled bundles whose ops the decided bundle b carries too.
func (s *store) covered(b *smr.Bundle) []*entry {
	var out []*entry
	for _, e := range s.sessions[keyOf(b)] {
		o := e.b
		same := b.Kind == smr.BundleOpen && o.Nonce <= b.Nonce
		same = same || b.Kind == smr.BundleOps && o.First >= b.First && int(o.First-b.First)+len(o.Ops) <= len(b.Ops)
		if o.Kind == b.Kind && same && e.b.ID != b.ID && !e.inFlight() {
			out = append(out, e)
		}
	}
	return out
}

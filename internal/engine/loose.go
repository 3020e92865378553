package engine

import "github.com/atlas-smr/smr"

// looseShare holds the loose bundles that one peer sent. A bundle that several peers sent is in the
// share of each, so that none can evict what another sent.
type looseShare struct {
	peer smr.NodeID // 0 holds what came from no peer
	fifo
}

// bring keeps a verified bundle that came with a peer's message or as the answer to a fetch, and
// reports whether it is new. from is the peer.
func (s *store) bring(b *smr.Bundle, from smr.NodeID) bool {
	e, known := s.all[b.ID]
	if !known {
		e = s.put(b)
		e.from = from
	} else if e.loose == 0 {
		return false // kept for a better reason
	}
	s.loosen(e, from)
	return !known
}

// loosen puts e into the share of a peer. A full share loses what the peer sent first, never e.
func (s *store) loosen(e *entry, from smr.NodeID) {
	share := &s.loose[0]
	for i := range s.loose {
		if s.loose[i].peer == from {
			share = &s.loose[i]
		}
	}
	if share.in[e] {
		return
	}
	share.push(e)
	e.loose++
	for share.bytes > s.looseBytes() && share.count > 1 {
		old := share.pop()
		if old.loose--; old.loose == 0 && !old.inFlight() && !old.pooled && !old.decided {
			delete(s.all, old.b.ID)
		}
	}
}

// looseBytes bounds a share: what travels inside one proposal fits.
func (s *store) looseBytes() int { return max(s.lim.LooseBytes/len(s.loose), s.lim.InlineBytes) }

func (s *store) looseTotal() (n int) {
	for i := range s.loose {
		n += s.loose[i].bytes
	}
	return n
}

// tighten takes e out of every share: it is kept for a better reason, or not at all.
func (s *store) tighten(e *entry) {
	if e.loose == 0 {
		return
	}
	for i := range s.loose {
		s.loose[i].remove(e)
	}
	e.loose = 0
}

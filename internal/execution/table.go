package execution

import (
	"github.com/atlas-smr/smr"
)

// client is an admitted client key and what the table keeps about it.
type client struct {
	id       smr.ClientID
	key      smr.PublicKey
	nonce    uint64        // of its last successful open; 0 for none
	last     smr.SessionID // the session that open made
	sessions []smr.SessionID
}

// table is the session table: replicated state, inside every checkpoint.
type table struct {
	limits   Limits
	gen      uint64 // snapshots taken; sessions of an older generation are shared with one
	tick     uint64 // counts uses of sessions
	clients  map[smr.ClientID]*client
	sessions map[smr.SessionID]*session
}

func newTable(limits Limits, clients []Client) *table {
	t := &table{limits: limits, clients: make(map[smr.ClientID]*client), sessions: make(map[smr.SessionID]*session)}
	for _, c := range clients {
		t.clients[c.ID] = &client{id: c.ID, key: c.Key}
	}
	return t
}

// use returns the session for a change by an op of its client, as its most recently used.
func (t *table) use(s *session) *session {
	if s.gen != t.gen {
		s = s.clone(t.gen)
		t.sessions[s.id] = s
	}
	t.tick++
	s.used = t.tick
	return s
}

// open opens a session for c under the id it would get, or finds the one an equal nonce opened. The
// session evicted to make room is returned with it.
func (t *table) open(c *client, nonce uint64, id smr.SessionID) (s *session, evicted *session, o smr.Outcome) {
	switch {
	case nonce < c.nonce:
		return nil, nil, smr.OutcomeStaleNonce
	case nonce == c.nonce:
		if s := t.sessions[c.last]; s != nil {
			return t.use(s), nil, smr.OutcomeExecuted
		}
		return nil, nil, smr.OutcomeNoSession
	}
	if len(c.sessions) >= t.limits.SessionsPerClient || len(t.sessions) >= t.limits.Sessions {
		if len(c.sessions) == 0 {
			return nil, nil, smr.OutcomeTableFull
		}
		evicted = t.evict(c)
	}
	t.tick++
	s = &session{id: id, client: c.id, used: t.tick, gen: t.gen}
	s.low = 1
	t.sessions[id] = s
	c.sessions = append(c.sessions, id)
	c.nonce, c.last = nonce, id
	return s, evicted, smr.OutcomeExecuted
}

// evict removes c's least recently used session. c has one.
func (t *table) evict(c *client) *session {
	at := 0
	for i, id := range c.sessions {
		if t.sessions[id].used < t.sessions[c.sessions[at]].used {
			at = i
		}
	}
	s := t.sessions[c.sessions[at]]
	delete(t.sessions, s.id)
	last := len(c.sessions) - 1
	c.sessions[at] = c.sessions[last]
	c.sessions = c.sessions[:last]
	return s
}

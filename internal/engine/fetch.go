package engine

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/wire"
)

// want is a bundle that a live proposal names and this replica lacks.
type want struct {
	id    smr.BundleID
	holds int
	peers []smr.NodeID // who should have it, best first
	due   time.Time
	tries int
	gone  bool
}

// ask is a proposal that the ordering lacks.
type ask struct {
	key   smr.Digest
	msg   protocol.Message
	peers []smr.NodeID
	due   time.Time
	tries int
	gone  bool
}

// asksLimit bounds the proposals asked for at once.
const asksLimit = 1024

// fetcher remembers what is lacking and when to ask whom for it. Order of arrival rules.
type fetcher struct {
	wants map[smr.BundleID]*want
	list  []*want
	asks  map[smr.Digest]*ask
	queue []*ask
	dirty bool // the timer may be due earlier than it is set for
}

func (f *fetcher) init() {
	f.wants, f.asks = map[smr.BundleID]*want{}, map[smr.Digest]*ask{}
}

// hold notes that a live proposal lacks a bundle.
func (f *fetcher) hold(due time.Time, id smr.BundleID, limit int) bool {
	w := f.wants[id]
	if w == nil {
		if len(f.wants) >= limit {
			return false
		}
		w = &want{id: id, due: due}
		f.wants[id] = w
		f.list = append(f.list, w)
		f.dirty = true
	}
	w.holds++
	return true
}

// arrived ends the want for a bundle and returns how many live proposals name it.
func (f *fetcher) arrived(id smr.BundleID) int {
	w := f.wants[id]
	if w == nil {
		return 0
	}
	w.gone = true
	delete(f.wants, id)
	return w.holds
}

// release ends one hold of a lacking bundle and reports whether it was lacking.
func (f *fetcher) release(id smr.BundleID) bool {
	w := f.wants[id]
	if w == nil {
		return false
	}
	if w.holds--; w.holds <= 0 {
		w.gone = true
		delete(f.wants, id)
	}
	return true
}

func (f *fetcher) found(key smr.Digest) {
	if a := f.asks[key]; a != nil {
		a.gone = true
		delete(f.asks, key)
	}
}

// next returns when the earliest question is due, and drops what is settled.
func (f *fetcher) next() (time.Time, bool) {
	var at time.Time
	found := false
	look := func(due time.Time) {
		if !found || due.Before(at) {
			at, found = due, true
		}
	}
	kept := f.list[:0]
	for _, w := range f.list {
		if !w.gone {
			kept = append(kept, w)
			look(w.due)
		}
	}
	clear(f.list[len(kept):])
	f.list = kept
	asks := f.queue[:0]
	for _, a := range f.queue {
		if !a.gone {
			asks = append(asks, a)
			look(a.due)
		}
	}
	clear(f.queue[len(asks):])
	f.queue = asks
	return at, found
}

// need takes what the ordering lacks. It is asked for after a grace time unless it comes by itself.
func (e *Engine) need(now time.Time, n protocol.Need, out *Output) {
	f := &e.fetch
	if n.Ask == nil {
		for _, id := range n.Bundles {
			if w := f.wants[id]; w != nil && len(n.Peers) > 0 {
				w.peers = n.Peers
			}
		}
		return
	}
	if a := f.asks[n.Key]; a != nil {
		a.msg, a.peers = n.Ask, n.Peers
		return
	}
	if len(f.asks) >= asksLimit {
		e.drop(out, 0, "asks-full")
		return
	}
	a := &ask{key: n.Key, msg: n.Ask, peers: n.Peers, due: now.Add(e.cfg.GraceTime)}
	f.asks[n.Key] = a
	f.queue = append(f.queue, a)
	f.dirty = true
}

// fetchArm keeps the fetch timer at the earliest question.
func (e *Engine) fetchArm(now time.Time, out *Output) {
	e.fetch.dirty = false
	if len(e.fetch.list) == 0 && len(e.fetch.queue) == 0 {
		e.stopTimer(ownerFetch, 0, out)
		return
	}
	at, found := e.fetch.next()
	if !found {
		e.stopTimer(ownerFetch, 0, out)
		return
	}
	if due, armed := e.due[timerID(ownerFetch, 0)]; !armed || !due.Equal(at) {
		e.setTimer(now, ownerFetch, 0, max(at.Sub(now), 0), out)
	}
}

// pick returns whom to ask on the tries-th attempt: preferred peers first, then everyone in turn.
func (e *Engine) pick(preferred []smr.NodeID, tries int) smr.NodeID {
	if tries < len(preferred) && preferred[tries] != e.self {
		return preferred[tries]
	}
	if len(e.voters) == 0 {
		return 0
	}
	return e.voters[(tries+int(e.self))%len(e.voters)]
}

// fetchDue asks for everything that is due, one message to each peer.
func (e *Engine) fetchDue(now time.Time, out *Output) {
	byPeer := make(map[smr.NodeID][]smr.BundleID, len(e.voters))
	e.fetch.dirty = true
	for _, w := range e.fetch.list {
		if w.gone || w.due.After(now) {
			continue
		}
		preferred := w.peers
		if len(preferred) == 0 {
			preferred = []smr.NodeID{e.ord.Status().Primary}
		}
		peer := e.pick(preferred, w.tries)
		w.tries++
		w.due = now.Add(e.cfg.RetryTime)
		if len(byPeer[peer]) < MaxFetchIDs {
			byPeer[peer] = append(byPeer[peer], w.id)
		}
	}
	for _, peer := range e.members {
		if ids := byPeer[peer]; len(ids) > 0 {
			out.Send = append(out.Send, Frame{To: []smr.NodeID{peer}, Class: wire.ClassFetch, Kind: wire.KindOnly, Payload: encodeFetch(ids)})
		}
	}
	for _, a := range e.fetch.queue {
		if a.gone || a.due.After(now) {
			continue
		}
		peer := e.pick(a.peers, a.tries)
		a.tries++
		a.due = now.Add(e.cfg.RetryTime)
		if peer != 0 {
			e.send(protocol.Outbound{To: peer, Msg: a.msg}, out)
		}
	}
}

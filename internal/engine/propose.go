package engine

import (
	"time"

	"github.com/atlas-smr/smr"
)

// propose gives the ordering a batch if it wants one and it is time, and reports whether it did.
//
// It is time at once when nothing is in flight. With batches in flight it is once the newest of them
// is prepared, or what waits is worth a batch by itself: a batch costs about the same whatever its
// size, so what arrives meanwhile gathers.
func (e *Engine) propose(now time.Time) bool {
	if !e.enabled || e.store.free == 0 || e.failed != nil || e.ord.Want() <= 0 {
		return false
	}
	if e.deliver.ahead(e.cfg.Limits) || e.log.Active() {
		return false
	}
	st := e.ord.Status()
	if st.InFlight > 0 && st.Prepared < st.Tip && e.store.freeSize < e.cfg.Limits.EagerBytes {
		return false
	}
	b := e.batch(now)
	if len(b.Refs) == 0 {
		return false
	}
	e.ord.Propose(now, b, &e.eff)
	return true
}

// batch takes bundles in arrival order, within the bounds.
func (e *Engine) batch(now time.Time) smr.Batch {
	lim := e.cfg.Limits
	b := smr.Batch{Time: now.UnixNano()}
	bytes, inline := 0, 0
	for x := e.store.head.next; x != &e.store.head && len(b.Refs) < lim.BatchBundles; x = x.next {
		if x.inFlight() {
			continue
		}
		n := len(x.b.Raw)
		if bytes+n > lim.BatchBytes && bytes > 0 {
			break
		}
		bytes += n
		b.Refs = append(b.Refs, x.b.Ref())
		e.store.propose(x)
		if c := e.store.clients[x.b.Client]; c != nil && c.lacked > 0 && inline+n <= lim.InlineBytes {
			c.lacked--
			inline += n
			b.Inline = append(b.Inline, x.b.ID)
		}
	}
	return b
}

// inlineAfterFetch is how many further bundles of a client travel inside proposals after a peer had
// to fetch one.
const inlineAfterFetch = 32

// lacked notes that a peer lacked a bundle of this client.
func (e *Engine) lacked(client smr.ClientID) {
	if c := e.store.clients[client]; c != nil {
		c.lacked = inlineAfterFetch
	} else if len(e.store.clients) < e.cfg.Limits.PoolBundles {
		e.store.share(client).lacked = inlineAfterFetch
	}
}

package requests

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/wire"
)

// verify is a signature worker: it takes whatever waits, of all senders, as one batch.
func (p *Pool) verify() {
	var batch []entry
	var bundles []*smr.Bundle
	for {
		batch = p.take(batch[:0])
		if len(batch) == 0 {
			select {
			case <-p.wake:
				continue
			case <-p.ctx.Done():
				return
			}
		}
		bundles = bundles[:0]
		for _, e := range batch {
			bundles = append(bundles, e.b)
		}
		valid := wire.VerifyBundles(p.cfg.Scheme, p.cfg.Cluster, bundles)
		p.dispatch(batch, valid)
		clear(batch)
		clear(bundles)
	}
}

// take moves up to BatchBundles waiting entries to dst. If more wait, another worker is woken.
func (p *Pool) take(dst []entry) []entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(len(p.waiting), p.cfg.BatchBundles)
	for _, e := range p.waiting[:n] {
		p.bytes -= len(e.b.Raw)
		if p.sources[e.from] -= len(e.b.Raw); p.sources[e.from] == 0 {
			delete(p.sources, e.from)
		}
	}
	dst = append(dst, p.waiting[:n]...)
	rest := copy(p.waiting, p.waiting[n:])
	clear(p.waiting[rest:])
	p.waiting = p.waiting[:rest]
	if rest > 0 {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	return dst
}

// dispatch hands valid bundles to their partitions.
func (p *Pool) dispatch(batch []entry, valid []bool) {
	shares := make([][]entry, len(p.parts))
	for i, e := range batch {
		if valid != nil && !valid[i] {
			p.badSignature.Add(1)
			continue
		}
		k := partitionOf(e.b, len(p.parts))
		shares[k] = append(shares[k], e)
	}
	for k, share := range shares {
		if len(share) == 0 {
			continue
		}
		select {
		case p.parts[k].in <- share:
		case <-p.ctx.Done():
			return
		}
	}
}

// partitionOf spreads sessions over n partitions; the opens of a client all go to one.
func partitionOf(b *smr.Bundle, n int) int {
	h := uint64(b.Client)*0x9e3779b97f4a7c15 ^ uint64(b.Session)
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	h ^= h >> 32
	return int(h % uint64(n))
}

// work is a partition's worker, the only one to touch its core.
func (p *Pool) work(q *partition) {
	for {
		select {
		case share := <-q.in:
			p.settle(q)
			p.offer(q, share)
		case <-q.wake:
			p.settle(q)
		case <-p.ctx.Done():
			return
		}
	}
}

// settle works off notices.
func (p *Pool) settle(q *partition) {
	q.mu.Lock()
	notices, again := q.notices, q.again
	q.notices, q.again = nil, nil
	q.mu.Unlock()
	for _, n := range notices {
		if n.released {
			q.core.Released(n.ids)
		} else {
			q.core.Decided(n.ids)
		}
	}
	for _, b := range again {
		switch v := q.core.Reorder(time.Now(), b); v.Kind {
		case Accept:
			p.accept([]*smr.Bundle{b}, auth.ClientIdentity(b.Client))
		case Busy:
			p.busy.Add(1)
			p.advise(b, wire.AdviceBusy, v.Text)
		}
	}
}

// offer decides about verified bundles and passes the accepted ones on, grouped by sender.
func (p *Pool) offer(q *partition, share []entry) {
	now := time.Now()
	for len(share) > 0 {
		from := share[0].from
		n := 1
		for n < len(share) && share[n].from == from {
			n++
		}
		q.accepted = q.accepted[:0]
		for _, e := range share[:n] {
			if p.decide(q, now, e) {
				q.accepted = append(q.accepted, e.b)
			}
		}
		if len(q.accepted) > 0 {
			p.accept(append([]*smr.Bundle(nil), q.accepted...), from)
		}
		share = share[n:]
	}
	clear(q.accepted)
}

func (p *Pool) accept(bundles []*smr.Bundle, from auth.Identity) {
	p.accepted.Add(uint64(len(bundles)))
	p.cfg.Accepted(bundles, from)
}

// decide reports whether e goes to the engine. What came from a replica does: it may be part of a
// live proposal, and the engine bounds what each replica may bring.
func (p *Pool) decide(q *partition, now time.Time, e entry) bool {
	if _, ok := e.from.Client(); !ok {
		return true
	}
	switch v := q.core.Offer(now, e.b); v.Kind {
	case Accept:
		return true
	case Duplicate:
		p.duplicates.Add(1)
	case Executed:
		p.executed.Add(1)
		if !p.cfg.Resend(e.b, p.order) {
			p.advise(e.b, wire.AdviceBusy, "too many requests wait for execution at this replica")
		}
	case Busy:
		p.busy.Add(1)
		p.advise(e.b, wire.AdviceBusy, v.Text)
	case Rejected:
		p.rejected.Add(1)
		p.advise(e.b, wire.AdviceRejected, v.Text)
	case NoKey:
		p.noKey.Add(1)
		p.advise(e.b, wire.AdviceNoKey, "the key that signed is not admitted")
	}
	return false
}

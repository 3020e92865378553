package check

import (
	"github.com/atlas-smr/smr"
)

// inputs appends everything that may happen to x where the others did what e says.
func (w *world) inputs(x *local, e *env, dst []input) []input {
	if w.byz > 0 {
		dst = w.offers(x, e, dst)
	} else {
		dst = w.proposed(x, e, dst)
	}
	for b := range w.each(e.prepared) {
		y := &w.blocks[b]
		if y.view < x.view || y.view == x.view && y.seq <= x.done {
			continue
		}
		if y.view == x.view {
			dst = append(dst, in(inPrepares, b))
		}
		dst = append(dst, in(inPrepareCert, b))
	}
	for b := range w.each(e.committed) {
		y := &w.blocks[b]
		if y.view <= x.view && y.seq <= x.done {
			continue
		}
		if y.view == x.view {
			dst = append(dst, in(inCommits, b))
		}
		dst = append(dst, in(inCommitCert, b))
	}
	for v := x.view; int(v) < w.o.Views-1; v++ {
		for l := range w.each(w.locks(v, x, e)) {
			dst = append(dst, in(inOpening, uint8(v), l))
		}
	}
	if int(x.view) < w.o.Views-1 {
		dst = w.timeoutSets(x, e, dst)
		if x.facts.timeouts[x.view] == 0 {
			dst = append(dst, in(inComplaints, uint8(x.view)))
		}
	}
	if x.want > 0 && int(x.tip) < w.o.Seqs {
		dst = append(dst, in(inPropose))
	}
	if d := x.disk; d != nil {
		if len(d.loose)+len(d.gated) > 0 {
			dst = append(dst, in(inSync))
		}
		if d.crashes < w.duties[x.duty].crashes {
			for k := range len(d.loose) + 1 {
				dst = append(dst, in(inCrash, uint8(k)))
			}
		}
	}
	return dst
}

// proposed appends the proposals of correct primaries.
func (w *world) proposed(x *local, e *env, dst []input) []input {
	for b := range w.each(e.seen &^ x.facts.proposed) {
		switch y := &w.blocks[b]; {
		case w.opens(b) && (y.view == x.view || y.view == x.view+1):
			dst = append(dst, in(inProposal, b, y.parent))
		case y.view == x.view && y.seq == x.tip+1:
			dst = append(dst, in(inProposal, b))
		}
	}
	return dst
}

// offers appends every proposal of the Byzantine primary that the codec lets through: children of
// what correct replicas accepted, and first proposals on any timeout certificate and any parent.
func (w *world) offers(x *local, e *env, dst []input) []input {
	add := func(view smr.View, parent, lock uint8) {
		if int(w.blocks[parent].seq) >= w.o.Seqs {
			return
		}
		for variant := range uint8(w.o.Variants) {
			o := w.offer(place{view, parent, variant, lock})
			if o.legal {
				dst = append(dst, in(inProposal, o.block, lock))
			}
			if !o.legal || e.seen&(1<<o.block) == 0 {
				return // b comes after a
			}
		}
	}
	for p := range w.each(e.seen) {
		if y := &w.blocks[p]; y.view == x.view && y.seq == x.tip {
			add(x.view, p, 0)
		}
	}
	if x.view == 0 && x.tip == 0 {
		add(0, 0, 0)
	}
	for v := max(x.view, 1); v <= x.view+1 && int(v) < w.o.Views; v++ {
		for l := range w.each(w.locks(v-1, x, e)) {
			for p := range w.each(e.prepared | 1) {
				if p == 0 || w.blocks[p].view < v {
					add(v, p, l)
				}
			}
		}
	}
	return dst
}

// offer passes a Byzantine proposal through the codec, once.
func (w *world) offer(p place) offer {
	o, ok := w.made[p]
	if !ok {
		raw := w.header(p.view, p.parent, p.variant)
		first := p.parent == 0 || w.blocks[p.parent].view != p.view
		if o.legal = w.proposal(raw, p.view, w.blocks[p.parent].seq+1, first, p.lock) != nil; o.legal {
			o.block = w.register(raw, p.parent, p.variant)
		}
		w.made[p] = o
	}
	return o
}

// byzantineLocks returns the locks that the Byzantine replica can show in a timeout of view v.
func (w *world) byzantineLocks(v smr.View, e *env) uint64 {
	set := uint64(1)
	for b := range w.each(e.prepared) {
		if w.blocks[b].view <= v {
			set |= 1 << b
		}
	}
	return set
}

// locks returns the locks with which view v+1 can be opened for x: every claim that the codec
// accepts about some quorum of the timeouts that exist.
func (w *world) locks(v smr.View, x *local, e *env) uint64 {
	mine := x.facts.timeouts[v]
	if w.byz > 0 && w.shares >= 2 && mine == 0 && e.timeouts[v][1] == 0 {
		return 0
	}
	all := make([]uint8, 0, 4)
	for _, t := range append(e.timeouts[v][:], mine) {
		if t != 0 {
			all = append(all, t-1)
		}
	}
	need := w.shares - w.byz
	if len(all) < need {
		return 0
	}
	free, out := uint64(1), uint64(0)
	if w.byz > 0 {
		free = w.byzantineLocks(v, e)
	}
	for pick := range subsets(all, need) {
		claims := free
		for _, l := range pick {
			claims |= 1 << l
		}
		for claim := range w.each(claims) {
			if out&(1<<claim) != 0 {
				continue
			}
			for b := range w.each(free) {
				locks := pick
				if w.byz > 0 {
					locks = append(pick[:len(pick):len(pick)], b)
				}
				if w.accepts(v, claim, locks) {
					out |= 1 << claim
					break
				}
			}
		}
	}
	return out
}

// accepts asks the codec, once, whether it takes claim as the highest of locks.
func (w *world) accepts(v smr.View, claim uint8, locks []uint8) bool {
	key := [6]uint8{uint8(v), claim, 255, 255, 255, 255}
	copy(key[2:], locks)
	ok, known := w.tcs[key]
	if !known {
		ok = w.decode(w.m.Voter(0).ID, kindTimeoutCertificate, w.timeouts(v, claim, locks...)) != nil
		w.tcs[key] = ok
	}
	return ok
}

// subsets yields the k-element subsets of xs.
func subsets(xs []uint8, k int) func(yield func([]uint8) bool) {
	return func(yield func([]uint8) bool) {
		for mask := range 1 << len(xs) {
			var pick []uint8
			for i, x := range xs {
				if mask&(1<<i) != 0 {
					pick = append(pick, x)
				}
			}
			if len(pick) == k && !yield(pick) {
				return
			}
		}
	}
}

// timeoutSets appends the sets of others' timeouts of the view of x that may open the next view or
// make it join: two of them, or three.
func (w *world) timeoutSets(x *local, e *env, dst []input) []input {
	v := x.view
	ts := e.timeouts[v]
	add := func(a, b, c uint8) {
		if a != 0 && b != 0 {
			dst = append(dst, in(inTimeouts, uint8(v), a, b, c))
		}
	}
	add(ts[0], ts[1], 0)
	if w.byz == 0 {
		add(ts[0], ts[2], 0)
		add(ts[1], ts[2], 0)
		add(ts[0], ts[1], ts[2])
		return dst
	}
	for l := range w.each(w.byzantineLocks(v, e)) {
		add(l+1, ts[0], 0)
		add(l+1, ts[1], 0)
		if ts[1] != 0 {
			add(l+1, ts[0], ts[1])
		}
	}
	return dst
}

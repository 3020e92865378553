package check

import (
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// input is something that may happen to a replica: a kind and up to four small numbers.
type input uint32

// The kinds of input, and what their numbers are.
const (
	inProposal    uint8 = iota // block, lock it starts from
	inPrepares                 // block: a quorum's prepares, one by one, each twice
	inCommits                  // block: a quorum's commits
	inPrepareCert              // block: the certificate as a message
	inCommitCert               // block
	inOpening                  // view, lock: the timeout certificate as a message
	inTimeouts                 // view, then 1 + lock of each timeout, 0 for none: one by one
	inComplaints               // view: f+1 replicas complain
	inPropose                  // the primary is given a batch
	inSync                     // the disk is done
	inCrash                    // how many unsynced records survive
)

func in(kind uint8, n ...uint8) input {
	x := input(kind) << 28
	for i, k := range n {
		x |= input(k) << (7 * (3 - i))
	}
	return x
}

func (i input) kind() uint8     { return uint8(i >> 28) }
func (i input) n(k int) uint8   { return uint8(i>>(7*(3-k))) & 0x7f }
func (i input) view() smr.View  { return smr.View(i.n(0)) }
func (i input) shares() []uint8 { return []uint8{i.n(1), i.n(2), i.n(3)} }

// apply queues the input.
func (i input) apply(l *life) {
	w, id := l.w, l.w.duties[l.x.duty].id
	switch i.kind() {
	case inProposal:
		b := &w.blocks[i.n(0)]
		l.receive(w.m.Primary(b.view), w.proposal(b.raw, b.view, b.seq, w.opens(i.n(0)), i.n(1)))
	case inPrepares, inCommits:
		kind := kindPrepare
		if i.kind() == inCommits {
			kind = kindCommit
		}
		for k := range w.m.N() - 1 {
			for range 2 {
				l.receive(w.other(id, k), w.vote(w.other(id, k), kind, i.n(0)))
			}
		}
	case inPrepareCert, inCommitCert:
		l.receive(w.other(id, 0), w.decode(w.other(id, 0), kindCertificate, w.certificate(i.kind() == inCommitCert, i.n(0))))
	case inOpening:
		l.receive(w.other(id, 0), w.decode(w.other(id, 0), kindTimeoutCertificate, w.opening(i.view(), i.n(1))))
	case inTimeouts:
		for k, s := range i.shares() {
			if s > 0 {
				l.receive(w.other(id, k), w.timeout(w.other(id, k), i.view(), s-1))
			}
		}
	case inComplaints:
		l.input(func(out *protocol.Effects) { l.x.m.Suspect(w.now, nil, out) })
		l.receive(w.other(id, 0), w.complaint(w.other(id, 0), i.view()))
	case inPropose:
		l.input(func(out *protocol.Effects) {
			if l.x.m.Want() > 0 {
				l.x.m.Propose(w.now, smr.Batch{Refs: []smr.BundleRef{{ID: bundle(l.lives()), Bytes: bundleBytes}}, Time: w.now.UnixNano()}, out)
			}
		})
	case inSync:
		l.sync()
	case inCrash:
		l.crash(int(i.n(0)))
	}
}

// lives counts a replica's restarts: after each something else waits to be proposed.
func (l *life) lives() uint8 {
	if l.x.disk == nil {
		return 0
	}
	return uint8(l.x.disk.crashes)
}

// describe renders an input for a trace.
func (w *world) describe(i input) string {
	switch i.kind() {
	case inProposal:
		if w.opens(i.n(0)) && w.blocks[i.n(0)].view > 0 {
			return fmt.Sprintf("proposal %s, opening with lock %s", w.call(i.n(0)), w.call(i.n(1)))
		}
		return "proposal " + w.call(i.n(0))
	case inPrepares:
		return "prepares of a quorum for " + w.call(i.n(0))
	case inCommits:
		return "commits of a quorum for " + w.call(i.n(0))
	case inPrepareCert:
		return "prepare certificate of " + w.call(i.n(0))
	case inCommitCert:
		return "commit certificate of " + w.call(i.n(0))
	case inOpening:
		return fmt.Sprintf("timeout certificate of view %d with lock %s", i.view(), w.call(i.n(1)))
	case inTimeouts:
		s := fmt.Sprintf("timeouts of view %d with locks", i.view())
		for _, x := range i.shares() {
			if x > 0 {
				s += " " + w.call(x-1)
			}
		}
		return s
	case inComplaints:
		return fmt.Sprintf("complaints about view %d", i.view())
	case inPropose:
		return "a batch to propose"
	case inSync:
		return "its disk is synced"
	}
	return fmt.Sprintf("crashes, keeps %d unsynced records, starts again", i.n(0))
}

// call renders a block: view.seq and variants down its line.
func (w *world) call(b uint8) string {
	if b == 0 {
		return "start"
	}
	x := w.blocks[b]
	s := fmt.Sprintf("%d.%d%c", x.view, x.seq, 'a'+rune(x.variant))
	if x.parent != 0 {
		s += "<" + w.call(x.parent)
	}
	return s
}

// opens reports whether b is the first of its view.
func (w *world) opens(b uint8) bool {
	p := w.blocks[b].parent
	return p == 0 || w.blocks[p].view != w.blocks[b].view
}

// other returns the k-th voter that is not id.
func (w *world) other(id smr.NodeID, k int) smr.NodeID {
	for i := range w.m.N() {
		if o := w.m.Voter(i).ID; o != id {
			if k == 0 {
				return o
			}
			k--
		}
	}
	return 0
}

package pbft

import (
	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
)

// traitor makes a replica Byzantine: it shows different proposals to different replicas, votes for
// everything it sees, votes after its timeouts, and hides its lock.
type traitor struct {
	equivocate bool
	withhold   bool // as primary, shows proposals to some only
	lie        bool // timeouts without the lock
	loose      bool // votes for everything
	twins      map[smr.SeqNo]*Header
	view       smr.View
	start      *TimeoutCertificate // what the first twin of the view carries
	voted      map[smr.Digest]bool
	timeouts   map[smr.View][]*Timeout // seen, by voter
}

// intercept replaces what a Byzantine replica would send; it reports whether it did.
func (t *traitor) intercept(c *cluster, x *node, o protocol.Outbound) bool {
	switch m := o.Msg.(type) {
	case *Proposal:
		if t.equivocate {
			return t.fork(c, x, m)
		}
		if t.withhold {
			for _, y := range c.nodes {
				if y != x && c.rng.IntN(3) > 0 {
					c.transmit(x, y, m)
				}
			}
			return true
		}
	case *Timeout:
		if t.lie && m.Lock != nil {
			v := c.sign(x.id, auth.KindTimeout, m.view(), 0, smr.Digest{})
			for _, y := range c.nodes {
				if y != x {
					c.transmit(x, y, &Timeout{Vote: v})
				}
			}
			return true
		}
	}
	return false
}

// fork shows one proposal to some replicas and a twin of it to the others.
func (t *traitor) fork(c *cluster, x *node, m *Proposal) bool {
	h := m.Header
	if t.twins == nil || t.view != h.View {
		t.twins, t.view, t.start = map[smr.SeqNo]*Header{}, h.View, nil
	}
	twin := t.twins[h.Seq]
	if twin == nil {
		alt := Header{Epoch: h.Epoch, View: h.View, Seq: h.Seq, Parent: h.Parent, Time: h.Time + 1}
		if p := t.twins[h.Seq-1]; p != nil {
			alt.Seq, alt.Parent, alt.Time = p.Seq+1, p.Digest, max(alt.Time, p.Time)
		} else if m.Timeout != nil {
			if t.start = t.otherStart(c, x, m.Timeout); t.start.lock != nil {
				alt.Seq, alt.Parent, alt.Time = t.start.lock.Core.Seq+1, t.start.lock.Core.Digest, max(alt.Time, t.start.lock.Core.Time)
			} else {
				alt.Seq, alt.Parent = 1, smr.Digest{}
			}
		}
		if c.rng.IntN(2) == 0 {
			alt.Refs = h.Refs
		}
		twin = newHeader(c.m, alt)
		t.twins[h.Seq] = twin
	}
	second := &Proposal{Header: twin, HandOver: m.HandOver}
	if m.Timeout != nil {
		second.Timeout = t.start
	}
	second.Signature = c.sign(x.id, auth.KindProposal, twin.View, twin.Seq, twin.Digest).Signature()
	for _, y := range c.nodes {
		switch {
		case y == x:
		case c.rng.IntN(8) == 0:
			c.transmit(x, y, m)
			c.transmit(x, y, second)
		case uint64(y.id)%2 == uint64(x.life)%2:
			c.transmit(x, y, m)
		default:
			c.transmit(x, y, second)
		}
	}
	t.support(c, x, h)
	t.support(c, x, twin)
	return true
}

// otherStart makes a second, valid timeout certificate for the view, with a lower lock if it can: it
// leaves out the voter that names the highest and lies about the own.
func (t *traitor) otherStart(c *cluster, x *node, tc *TimeoutCertificate) *TimeoutCertificate {
	ts := append([]*Timeout(nil), t.timeouts[tc.view]...)
	if len(ts) == 0 {
		return tc
	}
	own, _ := c.m.Index(x.id)
	ts[own] = &Timeout{Vote: c.sign(x.id, auth.KindTimeout, tc.view, 0, smr.Digest{})}
	high := -1
	for i, s := range ts {
		if s != nil && s.Lock != nil && (high < 0 || nameLock(ts[high].Lock).below(nameLock(s.Lock))) {
			high = i
		}
	}
	if high >= 0 {
		ts[high] = nil
	}
	other, err := newTimeoutCertificate(auth.NewVerifier(c.m, c.scheme), tc.view, ts)
	if err != nil {
		return tc
	}
	c.twoStarts++
	return other
}

// observe lets a Byzantine replica vote for whatever it sees.
func (t *traitor) observe(c *cluster, x *node, m protocol.Message) {
	if m, ok := m.(*Timeout); ok {
		if t.timeouts == nil {
			t.timeouts = map[smr.View][]*Timeout{}
		}
		if t.timeouts[m.view()] == nil {
			t.timeouts[m.view()] = make([]*Timeout, c.m.N())
		}
		i, _ := c.m.Index(m.Vote.Signer())
		t.timeouts[m.view()][i] = m
	}
	if !t.loose {
		return
	}
	switch m := m.(type) {
	case *Proposal:
		t.support(c, x, m.Header)
	case *Vote:
		if c.rng.IntN(2) == 0 {
			t.vote(c, x, m.view(), m.seq(), m.digest())
		}
	}
}

func (t *traitor) support(c *cluster, x *node, h *Header) { t.vote(c, x, h.View, h.Seq, h.Digest) }

func (t *traitor) vote(c *cluster, x *node, view smr.View, seq smr.SeqNo, d smr.Digest) {
	if t.voted == nil {
		t.voted = map[smr.Digest]bool{}
	}
	if t.voted[d] {
		return
	}
	t.voted[d] = true
	for _, kind := range []auth.Kind{auth.KindPrepare, auth.KindCommit} {
		v := &Vote{Vote: c.sign(x.id, kind, view, seq, d)}
		for _, y := range c.nodes {
			if y != x && c.rng.IntN(4) > 0 {
				c.transmit(x, y, v)
			}
		}
	}
}

func (c *cluster) sign(id smr.NodeID, kind auth.Kind, view smr.View, seq smr.SeqNo, d smr.Digest) *auth.Vote {
	v := auth.NewVerifier(c.m, c.scheme)
	vote, err := v.Sign(id, c.scheme.Signer(uint64(id)), v.Statement(kind, view, seq, d))
	if err != nil {
		c.tb.Fatal(err)
	}
	return vote
}

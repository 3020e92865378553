package pbft

import (
	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// maxEarlyBytes bounds what is kept of one peer's messages of later views. When it is full the
// message is dropped; its sender sends it again.
const maxEarlyBytes = 1 << 20

// earlyBuffer keeps a peer's messages of later views in order of arrival.
type earlyBuffer struct {
	bytes int
	msgs  []earlyMessage
}

type earlyMessage struct {
	view smr.View
	msg  protocol.Message
}

// keepEarly keeps a vote or a proposal of a later view.
func (r *Replica) keepEarly(i int, m interface {
	protocol.Message
	view() smr.View
}) {
	b := &r.early[i]
	if b.bytes+m.Size() > maxEarlyBytes {
		r.drop(r.m.Voter(i).ID, "early-full")
		return
	}
	b.bytes += m.Size()
	b.msgs = append(b.msgs, earlyMessage{m.view(), m})
	r.askView(i)
}

// askView asks a peer that is in a later view for what opened it.
func (r *Replica) askView(i int) {
	p := &r.peers[i]
	if i == r.index || !p.asked.IsZero() && r.now.Sub(p.asked) < r.p.Resend {
		return
	}
	p.asked = r.now
	r.send(r.m.Voter(i).ID, &Ask{View: r.view})
}

// replayEarly handles the kept messages of the view just entered and drops older ones.
func (r *Replica) replayEarly() {
	for r.replay {
		r.replay = false
		for i := range r.early {
			kept := r.early[i].msgs
			r.early[i] = earlyBuffer{}
			for _, e := range kept {
				switch m := e.msg.(type) {
				case *Proposal:
					if e.view >= r.view {
						r.onProposal(i, r.m.Voter(i).ID, m)
					}
				case *Vote:
					if e.view >= r.view {
						r.onVote(i, r.m.Voter(i).ID, m)
					}
				}
			}
		}
	}
}

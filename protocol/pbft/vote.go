package pbft

import (
	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/protocol"
)

// slot gathers the votes of this view for one sequence number.
type slot struct {
	prepares, commits   []*auth.Vote // by voter, the first of each
	prepared, committed *auth.Certificate
	voted               bool // own commit was cast
}

func (r *Replica) slot(seq smr.SeqNo) *slot {
	s := r.slots[seq]
	if s == nil {
		s = &slot{prepares: make([]*auth.Vote, r.n), commits: make([]*auth.Vote, r.n)}
		r.slots[seq] = s
	}
	return s
}

// onVote counts a prepare or a commit.
func (r *Replica) onVote(i int, from smr.NodeID, v *Vote) {
	r.saw(i, v.Vote.Statement(), v.Vote.Signature())
	if from == r.p.Self && v.Kind() == kindPrepare && v.view() == r.view {
		r.opened = true // what was written before the own vote is durable
	}
	switch {
	case v.view() < r.view:
		r.answerOld(i, from)
		return
	case v.view() > r.view:
		r.keepEarly(i, v)
		return
	case v.seq() <= r.decided.seq:
		if v.Again {
			r.answerDecided(i, from)
		}
		return
	case v.seq() > r.windowEnd():
		r.drop(from, "beyond-window")
		return
	}
	s := r.slot(v.seq())
	votes, done := s.prepares, s.prepared != nil
	if v.Kind() == kindCommit {
		votes, done = s.commits, s.committed != nil
	}
	if done {
		return
	}
	if old := votes[i]; old != nil {
		if old.Statement() != v.Vote.Statement() {
			r.note(protocol.EventEvidence, from, v.view(), v.seq(), "two votes for one sequence number")
		}
		return
	}
	votes[i] = v.Vote
	r.count(votes, v)
}

// count makes a certificate once a quorum states the same as v.
func (r *Replica) count(votes []*auth.Vote, v *Vote) {
	same := make([]*auth.Vote, 0, r.n)
	for _, x := range votes {
		if x != nil && x.Statement().Digest == v.digest() {
			same = append(same, x)
		}
	}
	if len(same) < r.m.Quorum() {
		return
	}
	cert, err := r.v.Certify(same)
	invariant.Check(err == nil, "a quorum of equal votes: %v", err)
	r.certified(cert)
}

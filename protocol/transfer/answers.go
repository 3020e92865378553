package transfer

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/quorum"
)

// Answers is "k equal answers from distinct senders, with retry": it remembers whom to ask, what
// each answered last, and when to ask again. A peer that answers again replaces what it said.
type Answers[V comparable] struct {
	tally *quorum.Tally[V]
	peers []smr.NodeID // ascending; self excluded
	need  int
	retry time.Duration
	due   time.Time
}

// NewAnswers returns an empty collection over the voters of m except self. need is k; retry is the
// time between two askings.
func NewAnswers[V comparable](m *quorum.Membership, self smr.NodeID, need int, retry time.Duration) *Answers[V] {
	a := &Answers[V]{tally: quorum.NewTally[V](m), need: need, retry: retry}
	for _, id := range m.Voters() {
		if id != self {
			a.peers = append(a.peers, id)
		}
	}
	return a
}

// State records an answer and returns whether need distinct voters now agree on it. A stranger's
// answer counts nothing.
func (a *Answers[V]) State(from smr.NodeID, v V) bool { return a.tally.State(from, v) >= a.need }

// Agreed reports whether need distinct voters state v.
func (a *Answers[V]) Agreed(v V) bool { return a.tally.Count(v) >= a.need }

// Answered returns how many distinct voters stated anything.
func (a *Answers[V]) Answered() int { return a.tally.Voters() }

// Stated returns what a voter stated last.
func (a *Answers[V]) Stated(from smr.NodeID) (V, bool) { return a.tally.Stated(from) }

// Silent returns the peers that have stated nothing, in ascending order.
func (a *Answers[V]) Silent() []smr.NodeID {
	var ids []smr.NodeID
	for _, id := range a.peers {
		if _, ok := a.tally.Stated(id); !ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// Peers returns everyone who may be asked. Do not change it.
func (a *Answers[V]) Peers() []smr.NodeID { return a.peers }

// Ask returns whom to ask now: all who are silent, or everyone when again is set; none before the
// retry time has passed since the last asking.
func (a *Answers[V]) Ask(now time.Time, again bool) []smr.NodeID {
	if now.Before(a.due) {
		return nil
	}
	a.due = now.Add(a.retry)
	if again {
		return a.peers
	}
	return a.Silent()
}

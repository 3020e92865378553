package quorum

import (
	"math/bits"

	"github.com/atlas-smr/smr"
)

// Set is a set of voters of one membership, by index. The zero value is empty.
type Set struct{ words []uint64 }

// Add adds the voter at index i and reports whether it was absent.
func (s *Set) Add(i int) bool {
	w := i / 64
	for len(s.words) <= w {
		s.words = append(s.words, 0)
	}
	bit := uint64(1) << (i % 64)
	if s.words[w]&bit != 0 {
		return false
	}
	s.words[w] |= bit
	return true
}

// Has reports whether the voter at index i is in the set.
func (s *Set) Has(i int) bool {
	w := i / 64
	return w < len(s.words) && s.words[w]&(1<<(i%64)) != 0
}

// Len returns the number of voters in the set.
func (s *Set) Len() int {
	n := 0
	for _, w := range s.words {
		n += bits.OnesCount64(w)
	}
	return n
}

// Tally counts, for each voter, the newest value it stated: "k equal answers from distinct
// senders". The zero value is not usable; see NewTally. A voter that states again replaces what it
// said.
type Tally[V comparable] struct {
	m      *Membership
	stated map[smr.NodeID]V
	count  map[V]int
}

// NewTally returns an empty tally over the voters of m.
func NewTally[V comparable](m *Membership) *Tally[V] {
	return &Tally[V]{m: m, stated: map[smr.NodeID]V{}, count: map[V]int{}}
}

// State records that from states v and returns how many distinct voters now state v. A statement
// by a non-voter counts nothing and returns 0.
func (t *Tally[V]) State(from smr.NodeID, v V) int {
	if _, ok := t.m.Index(from); !ok {
		return 0
	}
	if old, ok := t.stated[from]; ok {
		if t.count[old]--; t.count[old] == 0 {
			delete(t.count, old)
		}
	}
	t.stated[from] = v
	t.count[v]++
	return t.count[v]
}

// Count returns how many distinct voters state v.
func (t *Tally[V]) Count(v V) int { return t.count[v] }

// Voters returns how many distinct voters stated anything.
func (t *Tally[V]) Voters() int { return len(t.stated) }

// Stated returns what a voter stated last.
func (t *Tally[V]) Stated(from smr.NodeID) (V, bool) {
	v, ok := t.stated[from]
	return v, ok
}

// Highest returns the k-th highest of the stated values under less (1 is the highest), and whether
// that many voters stated any. With k = f+1 a correct voter stated that or more.
func Highest[V comparable](t *Tally[V], k int, less func(a, b V) bool) (V, bool) {
	var vals []V
	for _, id := range t.m.Voters() {
		if v, ok := t.stated[id]; ok {
			vals = append(vals, v)
		}
	}
	var zero V
	if k < 1 || len(vals) < k {
		return zero, false
	}
	for i := 1; i < len(vals); i++ {
		for j := i; j > 0 && less(vals[j-1], vals[j]); j-- {
			vals[j-1], vals[j] = vals[j], vals[j-1]
		}
	}
	return vals[k-1], true
}

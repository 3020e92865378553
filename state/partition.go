package state

import (
	"sync/atomic"

	"github.com/atlas-smr/smr"
)

// bounds say how parts grow and shrink, in bytes of encoded pairs. A part beyond split is split; it
// is joined with a neighbour when one of the two falls below small and both together fit joined. The
// gaps between the three keep a part at a bound from splitting and joining again and again. All
// replicas have the same bounds.
type bounds struct{ split, joined, small int }

var defaultBounds = bounds{split: 256 << 10, joined: 128 << 10, small: 32 << 10}

// part is one part: the pairs with low <= key < high. It is shared with captures and may be changed
// only in the generation it was made in.
type part struct {
	gen       uint64
	id        smr.PartID
	low, high string // an empty high is no bound; only the first part has an empty low
	pairs     int
	bytes     int  // of the encoded pairs
	sum       *sum // the digest of this version, once somebody computed it
}

// sum is a digest that is computed at most once in effect: a capture that computes it leaves it for
// the live part, as long as that does not change. Safe for concurrent use.
type sum struct{ p atomic.Pointer[smr.Digest] }

func (s *sum) get() (d smr.Digest, ok bool) {
	if p := s.p.Load(); p != nil {
		return *p, true
	}
	return d, false
}

func (s *sum) set(d smr.Digest) { s.p.Store(&d) }

func known(d smr.Digest) *sum {
	s := new(sum)
	s.set(d)
	return s
}

// covers reports whether key lies in p's range.
func (p *part) covers(key string) bool { return p.low <= key && (p.high == "" || key < p.high) }

// size is the length of the part's encoding.
func (p *part) size() int { return rangeHeaderSize(p.low, p.high, p.pairs) + p.bytes }

// source is where the pairs of a partition are.
type source interface {
	// scan calls fn for the pairs with from <= key, and key < to unless to is empty, in order, until
	// fn returns false. value is valid during the call only.
	scan(from, to string, fn func(key string, value []byte) bool) error
}

// partition divides all keys among parts. Where the bounds lie follows from the order in which pairs
// were set and deleted, which is the same on every replica, and never from when captures were taken.
// The bounds are part of the parts' encodings, so a restored partition goes on like the original.
type partition struct {
	bounds
	gen   uint64 // captures taken; parts of an older generation are shared with one
	next  smr.PartID
	parts Tree[*part] // by low
	hot   *part       // where the last change was; nil for unknown
	// touched is told of every part that is made, changed for the first time in its generation, or
	// given other bounds; dropped of every one that is joined into another. Nil: nobody cares.
	touched func(*part)
	dropped func(*part)
}

// firstPart is the id of the part that covers everything in a new partition; headerPart is the id of
// the header.
const (
	headerPart smr.PartID = 0
	firstPart  smr.PartID = 1
)

// reset makes t that of an empty map.
func (t *partition) reset() {
	t.gen++
	t.next, t.hot, t.parts = firstPart+1, nil, Tree[*part]{}
	t.parts.Set("", &part{gen: t.gen, id: firstPart, sum: new(sum)})
}

// capture returns the parts as of now; those that change from now on are copied first.
func (t *partition) capture() *Tree[*part] {
	t.gen++
	return t.parts.Clone()
}

func (t *partition) locate(key string) *part {
	if t.hot != nil && t.hot.covers(key) {
		return t.hot
	}
	_, p, _ := t.parts.Floor(key)
	t.hot = p
	return p
}

// own returns p, or a copy of it that may be changed.
func (t *partition) own(p *part) *part {
	if p.gen == t.gen {
		return p
	}
	c := *p
	c.gen, c.sum = t.gen, new(sum)
	t.parts.Set(c.low, &c)
	if t.hot == p {
		t.hot = &c
	}
	t.touch(&c)
	return &c
}

func (t *partition) touch(p *part) {
	if t.touched != nil {
		t.touched(p)
	}
}

// announce prepares for a change of key: its part is the caller's own after it.
func (t *partition) announce(key string) *part { return t.own(t.locate(key)) }

// change takes note of a change of key, which is in src already and in p: so many pairs and encoded
// bytes more.
func (t *partition) change(src source, p *part, pairs, bytes int) error {
	p.pairs += pairs
	p.bytes += bytes
	if p.bytes > t.split && p.pairs > 1 {
		return t.divide(src, p)
	}
	if bytes < 0 && p.bytes <= t.joined {
		t.join(p)
	}
	return nil
}

// divide cuts p, which is owned, until no part of it is too large or it has one pair only.
func (t *partition) divide(src source, p *part) error {
	for p.bytes > t.split && p.pairs > 1 {
		at, pairs, bytes, err := middle(src, p)
		if err != nil {
			return err
		}
		q := &part{gen: t.gen, id: t.next, low: at, high: p.high, pairs: p.pairs - pairs, bytes: p.bytes - bytes, sum: new(sum)}
		t.next++
		p.high, p.pairs, p.bytes = at, pairs, bytes
		t.parts.Set(at, q)
		t.touch(p)
		t.touch(q)
		if err := t.divide(src, q); err != nil {
			return err
		}
	}
	return nil
}

// middle returns the first key at which the lower part of p has half of its bytes, at the latest its
// last one, and the pairs and bytes below it. p has two pairs at least.
func middle(src source, p *part) (at string, pairs, bytes int, err error) {
	err = src.scan(p.low, p.high, func(key string, value []byte) bool {
		if pairs == p.pairs-1 || pairs > 0 && bytes >= p.bytes/2 {
			at = key
			return false
		}
		pairs++
		bytes += pairSize(key, value)
		return true
	})
	return at, pairs, bytes, err
}

// join joins p, which shrank, with its neighbours where that is due.
func (t *partition) join(p *part) {
	if p.high != "" {
		if q, _ := t.parts.Get(p.high); t.joinable(p, q) {
			p = t.unite(p, q)
		}
	}
	if _, q, ok := t.parts.Below(p.low); ok && t.joinable(p, q) {
		t.unite(q, p)
	}
}

func (t *partition) joinable(p, q *part) bool {
	return min(p.bytes, q.bytes) < t.small && p.bytes+q.bytes <= t.joined
}

// unite makes q, the upper neighbour of p, part of p.
func (t *partition) unite(p, q *part) *part {
	p = t.own(p)
	p.high = q.high
	p.pairs += q.pairs
	p.bytes += q.bytes
	t.parts.Delete(q.low)
	t.hot = p
	t.touch(p)
	if t.dropped != nil {
		t.dropped(q)
	}
	return p
}

package sim

import (
	"math"
	"math/rand/v2"
	"time"
)

// start is the virtual time at which every run begins.
var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// event is something that happens at a virtual time.
type event struct {
	at time.Duration // since start
	n  uint64        // tie-break: order of scheduling
	do func()
}

func (e *event) before(o *event) bool { return e.at < o.at || e.at == o.at && e.n < o.n }

// clock is virtual time: a heap of events. The zero value is at time zero with nothing to do.
type clock struct {
	now   time.Duration
	count uint64 // events scheduled so far
	ran   uint64 // events run so far
	heap  []event
}

// after schedules do at d from now; a negative d counts as zero.
func (c *clock) after(d time.Duration, do func()) {
	c.count++
	c.heap = append(c.heap, event{at: c.now + max(d, 0), n: c.count, do: do})
	h := c.heap
	for i := len(h) - 1; i > 0; {
		p := (i - 1) / 2
		if !h[i].before(&h[p]) {
			break
		}
		h[i], h[p] = h[p], h[i]
		i = p
	}
}

// step runs the next event, advancing time to it; it reports false if there is none at or before
// limit.
func (c *clock) step(limit time.Duration) bool {
	h := c.heap
	if len(h) == 0 || h[0].at > limit {
		return false
	}
	e := h[0]
	last := len(h) - 1
	h[0], h[last] = h[last], event{}
	h = h[:last]
	for i := 0; ; {
		k := 2*i + 1
		if k >= last {
			break
		}
		if k+1 < last && h[k+1].before(&h[k]) {
			k++
		}
		if !h[k].before(&h[i]) {
			break
		}
		h[i], h[k] = h[k], h[i]
		i = k
	}
	c.heap = h
	c.now = e.at
	c.ran++
	e.do()
	return true
}

// random draws one thing's share of what a run leaves to chance.
type random struct{ *rand.Rand }

// The streams of a seed. Each thing that draws has its own, so that a change in what one draws
// shifts nothing in what the others do.
const (
	streamPlan uint64 = iota + 1
	streamNetwork
	streamReplica // of each
	streamClient  // of each
	streamAdversary
	streamTwins
	streamCore
	streamFault     // of the fault's own seed
	streamBadClient // of each
)

// stream returns the random source of one thing.
func stream(seed, kind, id uint64) random {
	return random{rand.New(rand.NewPCG(seed, kind<<56^id<<40^0x5bd1e995_9e37))}
}

// chance reports true with probability p.
func (r random) chance(p float64) bool { return p > 0 && r.Float64() < p }

// between draws a duration uniformly from [lo, hi].
func (r random) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(r.Int64N(int64(hi-lo)+1))
}

// exponential draws a duration with the given mean, at most ten times it.
func (r random) exponential(mean time.Duration) time.Duration {
	return time.Duration(math.Min(r.ExpFloat64(), 10) * float64(mean))
}

// pick draws one of the values.
func pick[T any](r random, values ...T) T { return values[r.IntN(len(values))] }

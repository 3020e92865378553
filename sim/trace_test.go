package sim

import (
	"slices"
	"testing"
	"time"
)

func TestEventsRunInOrderOfTimeThenOfScheduling(t *testing.T) {
	var c clock
	var got []int
	r := stream(1, streamPlan, 0)
	type want struct {
		at time.Duration
		n  int
	}
	var all []want
	for i := range 500 {
		d := time.Duration(r.IntN(20))
		all = append(all, want{d, i})
		c.after(d, func() { got = append(got, i) })
	}
	slices.SortStableFunc(all, func(a, b want) int { return int(a.at - b.at) })
	for c.step(time.Hour) {
	}
	for i := range all {
		if got[i] != all[i].n {
			t.Fatalf("event %d ran %d-th, want %d", got[i], i, all[i].n)
		}
	}
	c.after(time.Second, func() { t.Error("ran beyond the limit") })
	if c.step(c.now + time.Millisecond) {
		t.Error("stepped beyond the limit")
	}
}

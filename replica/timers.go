package replica

import (
	"container/heap"
	"time"

	"github.com/atlas-smr/smr/internal/engine"
)

// timers holds the engine's timers of one loop. It belongs to the loop goroutine. Setting an id
// again replaces it; entries that were replaced or stopped stay in the heap until they surface.
type timers struct {
	due   dueHeap
	live  map[engine.TimerID]uint64 // the generation that counts
	count uint64
}

type due struct {
	at  time.Time
	id  engine.TimerID
	gen uint64
}

func newTimers() *timers { return &timers{live: map[engine.TimerID]uint64{}} }

func (t *timers) set(now time.Time, id engine.TimerID, after time.Duration) {
	t.count++
	t.live[id] = t.count
	heap.Push(&t.due, due{now.Add(after), id, t.count})
}

func (t *timers) stop(id engine.TimerID) { delete(t.live, id) }

// next returns when the earliest live timer is due.
func (t *timers) next() (time.Time, bool) {
	for len(t.due) > 0 {
		if d := t.due[0]; t.live[d.id] == d.gen {
			return d.at, true
		}
		heap.Pop(&t.due)
	}
	return time.Time{}, false
}

// pop removes and returns a timer due at now.
func (t *timers) pop(now time.Time) (engine.TimerID, bool) {
	at, ok := t.next()
	if !ok || at.After(now) {
		return 0, false
	}
	d := heap.Pop(&t.due).(due)
	delete(t.live, d.id)
	return d.id, true
}

type dueHeap []due

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(due)) }
func (h *dueHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}

package engine

import "github.com/atlas-smr/smr"

// fifo is a first-in-first-out set of entries, bounded by its user; removed ones are skipped.
type fifo struct {
	queue []*entry
	in    map[*entry]bool
	bytes int
	count int
}

func (f *fifo) push(e *entry) {
	if f.in == nil {
		f.in = map[*entry]bool{}
	}
	if live, queued := f.in[e]; live {
		return
	} else if !queued {
		f.queue = append(f.queue, e)
	}
	f.in[e] = true
	f.bytes += len(e.b.Raw)
	f.count++
}

func (f *fifo) remove(e *entry) {
	if f.in[e] {
		f.in[e] = false
		f.bytes -= len(e.b.Raw)
		f.count--
		f.shrink()
	}
}

// shrink drops removed entries once they are most of the queue.
func (f *fifo) shrink() {
	if len(f.queue) < 64 || len(f.queue) < 2*f.count {
		return
	}
	kept := f.queue[:0]
	for _, e := range f.queue {
		if f.in[e] {
			kept = append(kept, e)
		} else {
			delete(f.in, e)
		}
	}
	clear(f.queue[len(kept):])
	f.queue = kept
}

// pop removes the oldest; it must not be empty.
func (f *fifo) pop() *entry {
	for {
		e := f.queue[0]
		f.queue[0] = nil
		f.queue = f.queue[1:]
		live := f.in[e]
		delete(f.in, e)
		if live {
			f.bytes -= len(e.b.Raw)
			f.count--
			return e
		}
	}
}

// recentIDs remembers the newest limit ids.
type recentIDs struct {
	limit int
	ring  []smr.BundleID
	next  int
	set   map[smr.BundleID]bool
}

func (r *recentIDs) has(id smr.BundleID) bool { return r.set[id] }

func (r *recentIDs) add(id smr.BundleID) {
	if r.set[id] {
		return
	}
	if r.set == nil {
		r.set = map[smr.BundleID]bool{}
	}
	if len(r.ring) < r.limit {
		r.ring = append(r.ring, id)
	} else {
		delete(r.set, r.ring[r.next])
		r.ring[r.next] = id
		r.next = (r.next + 1) % r.limit
	}
	r.set[id] = true
}

package network

import (
	"sync"

	"github.com/atlas-smr/smr/wire"
)

// keptBufferBytes is the largest buffer a queue keeps for reuse when idle.
const keptBufferBytes = 1 << 20

// queue gathers encoded frames for one connection's writer. Frames are appended to one buffer and
// taken as a whole, so a flush carries whatever queued while the last one was written and a frame
// costs no allocation.
type queue struct {
	limit int
	wake  chan struct{} // holds a token while there may be frames to take

	mu      sync.Mutex // guards what follows
	open    bool
	pending []byte
	frames  int    // pending, without pings
	writing int    // bytes taken and not yet given back
	spare   []byte // the other buffer, while it is not being written
}

func newQueue(limit int) *queue {
	return &queue{limit: limit, wake: make(chan struct{}, 1), open: true}
}

// push appends a frame; the reason is why not, if not ok.
func (q *queue) push(class wire.Class, kind uint8, payload []byte) (Reason, bool) {
	q.mu.Lock()
	if !q.open {
		q.mu.Unlock()
		return SendUnreachable, false
	}
	if len(q.pending)+q.writing+wire.FrameHeaderBytes+len(payload) > q.limit {
		q.mu.Unlock()
		return SendQueueFull, false
	}
	first := len(q.pending) == 0
	q.pending = wire.AppendFrame(q.pending, class, kind, payload)
	if class != wire.ClassPing {
		q.frames++
	}
	q.mu.Unlock()
	if first {
		q.signal()
	}
	return 0, true
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take returns all pending frames and their number. The buffer goes back with done.
func (q *queue) take() ([]byte, int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	buf, n := q.pending, q.frames
	q.pending, q.spare, q.frames, q.writing = q.spare[:0], nil, 0, len(buf)
	return buf, n
}

// done gives a taken buffer back.
func (q *queue) done(buf []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writing = 0
	if cap(buf) <= keptBufferBytes {
		q.spare = buf[:0]
	}
}

// setOpen says whether frames are taken; closing drops what is pending and returns its number.
func (q *queue) setOpen(open bool) (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.open = open; !open {
		dropped = q.frames
		q.pending, q.frames = nil, 0
	}
	return dropped
}

func (q *queue) bytes() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.pending) + q.writing
}

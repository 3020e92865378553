package client

import (
	"errors"
	"fmt"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/wire"
)

// Bounds of one replica's share of the inbox.
const (
	maxInboxFrames = 1024
	maxInboxBytes  = 16 << 20
)

// inbox is what waits for a Conn's goroutine.
type inbox struct {
	tasks   []task
	frames  []frame
	counts  []int // frames of each voter
	bytes   []int
	bad     []error // what a voter's frames turned out to be; returned with its next
	dropped uint64
	shut    bool
}

type frame struct {
	from    smr.NodeID
	class   wire.Class
	kind    uint8
	payload []byte
}

type taskKind uint8

const (
	taskSubmit taskKind = iota
	taskQuery
	taskCancel
	taskRetry
	taskUp
)

type task struct {
	kind    taskKind
	replica smr.NodeID // taskUp
	call    *Pending
	level   Level
	cause   error
	answer  chan bool // taskCancel: whether the call was withdrawn
}

func (b *inbox) init(n int) {
	b.counts, b.bytes, b.bad = make([]int, n), make([]int, n), make([]error, n)
}

func (b *inbox) frame(voter int, f frame) error {
	err := b.bad[voter]
	b.bad[voter] = nil
	if b.shut || b.counts[voter] >= maxInboxFrames || b.bytes[voter]+len(f.payload) > maxInboxBytes {
		b.dropped++
		return err
	}
	b.counts[voter]++
	b.bytes[voter] += len(f.payload)
	b.frames = append(b.frames, f)
	return err
}

// loop is the state of a Conn's goroutine.
type loop struct {
	conn   *Conn
	core   *Core
	out    Output
	tasks  []task
	frames []frame
	fatal  error // the session file cannot be written: nothing more is sent
}

// turn works off all that waits and returns when the next timer is due.
func (l *loop) turn(now time.Time) time.Time {
	c := l.conn
	c.mu.Lock()
	l.tasks, c.inbox.tasks = c.inbox.tasks, l.tasks[:0]
	l.frames, c.inbox.frames = c.inbox.frames, l.frames[:0]
	clear(c.inbox.counts)
	clear(c.inbox.bytes)
	c.mu.Unlock()

	for i := range l.frames {
		f := &l.frames[i]
		if err := l.core.Receive(now, f.from, f.class, f.kind, f.payload, &l.out); err != nil {
			l.blame(f.from, fmt.Errorf("%s of node %d: %w", f.class, f.from, err))
		}
	}
	for i := range l.tasks {
		l.task(now, &l.tasks[i])
	}
	clear(l.frames)
	clear(l.tasks)
	l.core.Expire(now, &l.out)
	l.core.Flush(now, &l.out)
	l.apply()

	status := l.core.Status()
	c.mu.Lock()
	c.status = status
	c.mu.Unlock()
	return l.core.Next()
}

func (l *loop) blame(from smr.NodeID, err error) {
	c := l.conn
	if i, ok := c.cfg.Membership.Index(from); ok {
		c.mu.Lock()
		c.inbox.bad[i] = err
		c.mu.Unlock()
	}
}

func (l *loop) task(now time.Time, t *task) {
	var err error
	switch t.kind {
	case taskSubmit:
		err = l.core.Submit(t.call.core, t.call.op)
	case taskQuery:
		err = l.core.Query(now, t.call.core, t.call.op, t.level, &l.out)
	case taskCancel:
		t.answer <- l.core.Cancel(t.call.core, t.cause, &l.out)
	case taskUp:
		l.core.Connected(t.replica, &l.out)
	case taskRetry:
		l.core.Retry(now, t.call.core, &l.out)
	}
	if err != nil {
		t.call.end(Completion{Call: t.call.core, Err: err})
	}
}

// apply does what the Core said: store, send, end.
func (l *loop) apply() {
	c := l.conn
	if l.out.Save != nil && c.file != nil && l.fatal == nil {
		if err := c.file.store(l.out.Save); err != nil {
			l.fail(err)
			c.log.Error("session file cannot be written: nothing more is sent", "file", c.cfg.SessionFile, "error", err)
		}
	}
	if l.fatal == nil {
		for i := range l.out.Send {
			f := &l.out.Send[i]
			c.transport.Send(f.To, f.Class, f.Kind, f.Payload)
		}
	}
	for i := range l.out.Done {
		l.out.Done[i].Call.Tag.(*Pending).end(l.out.Done[i])
	}
	l.out.Reset()
}

// fail ends every call: what cannot be remembered must not be sent.
func (l *loop) fail(err error) {
	l.fatal = err
	l.core.Stop(fmt.Errorf("session file: %w", err), &l.out)
}

// finish ends all calls and stores the last state.
func (l *loop) finish() {
	c := l.conn
	c.mu.Lock()
	c.inbox.shut = true
	tasks := c.inbox.tasks
	c.inbox.tasks, c.inbox.frames = nil, nil
	c.mu.Unlock()
	now := time.Now()
	for i := range tasks {
		l.task(now, &tasks[i])
	}
	last := l.core.State()
	l.out.Send, l.out.Save = nil, nil
	l.core.Stop(ErrClosed, &l.out)
	l.apply()
	if c.file != nil {
		if l.fatal == nil {
			l.fatal = c.file.store(&last)
		}
		c.closing = errors.Join(l.fatal, c.file.close())
	}
}

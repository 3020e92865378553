package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/internal/history"
	"github.com/atlas-smr/smr/kv"
)

// The demo's load, beside the rows of the data set: every sharedEvery-th op is one on a few keys that
// all clients share, so that the history has something to say about order.
const (
	sharedKeys  = 24
	sharedEvery = 16
	// clientWindow is how many calls of one client are under way at once.
	clientWindow = 64
)

// load is the demo's clients at work.
type load struct {
	clients []*kvClient
	rows    []row
	rate    int // calls a second of all clients together; 0: as fast as they are answered
	history *history.History

	// underWay is held once by every call and as a whole by whoever wants none to be under way.
	underWay *semaphore.Weighted

	requests, acknowledged, rowsDone atomic.Int64

	mu      sync.Mutex
	lastAck time.Duration // guarded by mu
	gap     time.Duration // guarded by mu: longest time without an acknowledgement
	gapOnce time.Duration // guarded by mu: the same since the last takeGap
	failed  error         // guarded by mu: first call that got no result
}

// newLoad returns the load of importing rows through clients.
func newLoad(clients []*kvClient, rows []row, rate int) *load {
	return &load{
		clients: clients, rows: rows, rate: rate, history: history.New(),
		underWay: semaphore.NewWeighted(int64(len(clients) * clientWindow)),
	}
}

// pause waits until no call is under way and keeps new ones from starting until resume.
func (l *load) pause(ctx context.Context) error {
	return l.underWay.Acquire(ctx, int64(len(l.clients)*clientWindow))
}

// resume ends a pause; the time it took is nobody's wait for an answer.
func (l *load) resume() {
	l.mu.Lock()
	l.lastAck = l.history.Now()
	l.mu.Unlock()
	l.underWay.Release(int64(len(l.clients) * clientWindow))
}

// ordered returns how many ordered ops the clients have made, queries that turned to one included.
// It is exact while no call is under way.
func (l *load) ordered() (n uint64) {
	for _, c := range l.clients {
		n += c.Status().Ops
	}
	return n
}

// run imports all rows and returns once every call has ended.
func (l *load) run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	l.mu.Lock()
	l.lastAck = l.history.Now()
	l.mu.Unlock()
	var wg sync.WaitGroup
	var next atomic.Int64
	for i, c := range l.clients {
		wg.Go(func() {
			if err := l.work(ctx, i, c, &next); err != nil {
				l.mu.Lock()
				if l.failed == nil {
					l.failed = err
				}
				l.mu.Unlock()
				stop(err)
			}
		})
	}
	wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// work is one client: it takes the next row until none is left, with about
// clientWindow calls under way.
func (l *load) work(ctx context.Context, id int, c *kvClient, next *atomic.Int64) error {
	rng := rand.New(rand.NewPCG(1, uint64(id)))
	errs := make(chan error, 1)
	var wg sync.WaitGroup
	pace := newPacer(l.rate, len(l.clients))
	for n := 1; ; n++ {
		req, isRow := l.sharedOp(rng, id, n), false
		if n%sharedEvery != 0 {
			i := int(next.Add(1)) - 1
			if i >= len(l.rows) {
				break
			}
			req, isRow = kv.Put(l.rows[i].key, l.rows[i].value), true
		}
		if err := pace.wait(ctx); err != nil {
			wg.Wait()
			return context.Cause(ctx)
		}
		select {
		case err := <-errs:
			wg.Wait()
			return err
		default:
		}
		if err := l.underWay.Acquire(ctx, 1); err != nil {
			wg.Wait()
			return context.Cause(ctx)
		}
		wg.Go(func() {
			defer l.underWay.Release(1)
			if err := l.call(ctx, id, c, req, isRow); err != nil {
				select {
				case errs <- err:
				default:
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// sharedOp draws an op on a shared key. Values are unique, so that a read tells which write it saw.
func (l *load) sharedOp(rng *rand.Rand, id, n int) kv.Request {
	key := fmt.Sprintf("shared/%02d", rng.IntN(sharedKeys))
	value := fmt.Sprintf("client %d op %d", id, n)
	switch rng.IntN(8) {
	case 0:
		return kv.Put(key, value)
	case 1:
		return kv.Delete(key)
	case 2:
		return kv.Create(key, value)
	case 3:
		return kv.CAS(key, fmt.Sprintf("client %d op %d", rng.IntN(len(l.clients)), n-sharedEvery), value)
	}
	return kv.Get(key)
}

// call makes one call and records it. Reads go unordered. A call whose outcome is unknown is waited
// for under its own number for as long as ctx lasts; one that was not executed has no effect and is
// not recorded.
func (l *load) call(ctx context.Context, id int, c *kvClient, req kv.Request, isRow bool) error {
	for {
		l.requests.Add(1)
		e := history.Event{Client: id, Req: req, Call: l.history.Now()}
		var err error
		if req.Op == kv.OpGet {
			e.Rep, err = c.Query(ctx, req)
		} else {
			e.Rep, e.Seq, err = c.Submit(req).Result(ctx)
		}
		for errors.Is(err, client.ErrUnknown) && ctx.Err() == nil {
			var outcome *client.OutcomeError
			if errors.As(err, &outcome) {
				return fmt.Errorf("%s %q: %w", req.Op, req.Key, err)
			}
			if perr := pause(ctx); perr != nil {
				break
			}
			e.Rep, err = c.Retry(ctx, err)
		}
		switch {
		case err == nil:
			e.Ret = l.history.Now()
			l.history.Add(e)
			l.acked(e.Ret, isRow)
			return nil
		case ctx.Err() != nil || !errors.Is(err, client.ErrNotExecuted):
			return fmt.Errorf("%s %q: %w", req.Op, req.Key, err)
		}
		if err := pause(ctx); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(50 * time.Millisecond):
		return nil
	}
}

// acked counts an answer and measures how long none had come.
func (l *load) acked(at time.Duration, isRow bool) {
	l.acknowledged.Add(1)
	if isRow {
		l.rowsDone.Add(1)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := at - l.lastAck; d > 0 {
		l.gap, l.gapOnce, l.lastAck = max(l.gap, d), max(l.gapOnce, d), at
	}
}

// takeGap returns the longest time without an answer since it was last called.
func (l *load) takeGap() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := max(l.gapOnce, l.history.Now()-l.lastAck)
	l.gapOnce = 0
	return d
}

// maxGap returns the longest time without an answer.
func (l *load) maxGap() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.gap
}

// pacer spreads calls evenly. Time lost is not made up for.
type pacer struct {
	every time.Duration
	at    time.Time
}

func newPacer(rate, clients int) *pacer {
	p := &pacer{at: time.Now()}
	if rate > 0 {
		p.every = time.Second * time.Duration(clients) / time.Duration(rate)
	}
	return p
}

func (p *pacer) wait(ctx context.Context) error {
	if p.every == 0 {
		return ctx.Err()
	}
	now := time.Now()
	if p.at = p.at.Add(p.every); p.at.Before(now.Add(-50 * time.Millisecond)) {
		p.at = now
	}
	if d := p.at.Sub(now); d > time.Millisecond {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	return ctx.Err()
}

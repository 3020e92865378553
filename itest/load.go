package itest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/internal/history"
	"github.com/atlas-smr/smr/kv"
)

const (
	// callersPerClient is how many calls of one client are under way at once.
	callersPerClient = 3
	// sharedKeys are written and read by all clients; a new set every sharedFor, so that the history
	// of each key stays short enough to check.
	sharedKeys = 6
	sharedFor  = 4 * time.Second
	// giveUpEvery is how many calls of a caller pass between two that are given up soon: their outcome
	// stays unknown, if they end that way.
	giveUpEvery = 150
	// bigBytes is the value of a put that is to fill a disk.
	bigBytes = 128 << 10
)

// isOnce reports whether a key is one that a single put writes.
func isOnce(key string) bool { return strings.HasPrefix(key, "once/") }

// Load is clients at work, recording what they see.
type Load struct {
	History *history.History
	clients []*client.Client[kv.Request, kv.Reply]
	every   time.Duration // between two calls of one caller
	big     atomic.Bool   // callers put large values

	Acked, Open atomic.Int64

	stop chan struct{}
	work sync.WaitGroup

	mu     sync.Mutex
	seen   map[string][]byte // guarded by mu: what a shared key was last read to hold
	failed error             // guarded by mu: first call that ended in a way it must not
	lastBy []time.Duration   // guarded by mu: when each client's last call was answered
}

// StartLoad connects clients 1 to n and lets them make about rate calls a second together.
func StartLoad(ctx context.Context, c *Cluster, n, rate int, seed uint64) (*Load, error) {
	l := &Load{
		History: history.New(), every: time.Second * time.Duration(n*callersPerClient) / time.Duration(rate),
		stop: make(chan struct{}), seen: map[string][]byte{}, lastBy: make([]time.Duration, n),
	}
	for j := range n {
		k, err := c.Connect(ctx, j+1)
		if err != nil {
			l.closeClients()
			return nil, err
		}
		l.clients = append(l.clients, k)
	}
	for j := range l.clients {
		for w := range callersPerClient {
			id := j*callersPerClient + w
			l.work.Go(func() { l.caller(ctx, j, id, rand.New(rand.NewPCG(seed, uint64(id)))) })
		}
	}
	return l, nil
}

// Big says whether callers put large values.
func (l *Load) Big(on bool) { l.big.Store(on) }

// caller makes calls until it is told to stop.
func (l *Load) caller(ctx context.Context, j, id int, rng *rand.Rand) {
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for n := 1; ; n++ {
		select {
		case <-l.stop:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		req, ordered := l.draw(rng, id, n)
		limit := time.Duration(0)
		if n%giveUpEvery == 0 {
			limit = time.Duration(1+rng.IntN(50)) * time.Millisecond
		}
		if err := l.call(ctx, j, id, req, ordered, limit); err != nil {
			l.mu.Lock()
			if l.failed == nil {
				l.failed = fmt.Errorf("client %d: %s %q: %w", j+1, req.Op, req.Key, err)
			}
			l.mu.Unlock()
			return
		}
	}
}

// draw chooses a call. Values are unique, so that a read tells which write it saw.
func (l *Load) draw(rng *rand.Rand, id, n int) (req kv.Request, ordered bool) {
	value := fmt.Sprintf("caller %d op %d", id, n)
	if l.big.Load() && rng.IntN(3) == 0 {
		return kv.Put(fmt.Sprintf("big/%d", id), append([]byte(value), bytes.Repeat([]byte{'.'}, bigBytes)...)), true
	}
	key := fmt.Sprintf("shared/%d/%d", l.History.Now()/sharedFor, rng.IntN(sharedKeys))
	switch rng.IntN(10) {
	case 0, 1, 2:
		return kv.Put(fmt.Sprintf("once/%d/%d", id, n), value), true
	case 3:
		return kv.Put(key, value), true
	case 4:
		return kv.Create(key, value), true
	case 5:
		return kv.Delete(key), true
	case 6:
		l.mu.Lock()
		expect := l.seen[key]
		l.mu.Unlock()
		if expect == nil {
			return kv.Create(key, value), true
		}
		return kv.CAS(key, expect, value), true
	case 7:
		return kv.Get(key), true
	}
	return kv.Get(key), false
}

// call makes one call and records it. Without a limit it waits, under the same op number, for as long
// as it takes; what ends with its limit is recorded as open if it may have had an effect.
func (l *Load) call(ctx context.Context, j, id int, req kv.Request, ordered bool, limit time.Duration) error {
	within := ctx
	if limit > 0 {
		var cancel context.CancelFunc
		within, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	e := history.Event{Client: id, Req: req, Call: l.History.Now()}
	var err error
	if ordered {
		e.Rep, e.Seq, err = l.clients[j].Submit(req).Result(within)
	} else {
		e.Rep, err = l.clients[j].Query(within, req)
	}
	e.Ret = l.History.Now()
	switch {
	case err == nil:
		l.answered(j, e)
	case within.Err() == nil:
		return err // nothing but the end of its time may end a call
	case errors.Is(err, client.ErrUnknown):
		e.Open = true
		l.Open.Add(1)
		l.History.Add(e)
	case !errors.Is(err, client.ErrNotExecuted):
		return err
	}
	return nil
}

func (l *Load) answered(j int, e history.Event) {
	l.Acked.Add(1)
	l.History.Add(e)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastBy[j] = e.Ret
	if e.Rep.Found && !isOnce(e.Req.Key) {
		l.seen[e.Req.Key] = e.Rep.Value
	}
}

// Failed returns the first call that ended in a way it must not.
func (l *Load) Failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed
}

// AwaitProgress waits until every client has an answer to a call that was answered after now.
func (l *Load) AwaitProgress(ctx context.Context) error {
	now := l.History.Now()
	for {
		behind := 0
		l.mu.Lock()
		err := l.failed
		for j, at := range l.lastBy {
			if at <= now {
				behind = j + 1
			}
		}
		l.mu.Unlock()
		if err != nil || behind == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("client %d gets no answer: %w", behind, context.Cause(ctx))
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// AwaitAcked waits until n more calls are answered.
func (l *Load) AwaitAcked(ctx context.Context, n int64) error {
	want := l.Acked.Load() + n
	for l.Acked.Load() < want {
		if err := l.Failed(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d calls were answered: %w", n-want+l.Acked.Load(), n, context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// Finish lets no new call begin, waits for those under way and closes the clients.
func (l *Load) Finish(ctx context.Context) error {
	close(l.stop)
	done := make(chan struct{})
	go func() {
		l.work.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		l.closeClients() // ends the calls
		<-done
		return fmt.Errorf("calls are still open: %w", context.Cause(ctx))
	}
	l.closeClients()
	return l.Failed()
}

func (l *Load) closeClients() {
	for _, c := range l.clients {
		_ = c.Close()
	}
}

package requests

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/wire"
)

// PoolConfig says what a Pool works with. Callbacks run on the pool's workers, several at once.
type PoolConfig struct {
	Cluster  smr.ClusterID
	Scheme   auth.Scheme
	Sessions Sessions
	Validate func(op []byte) error // may be nil
	Limits   Limits                // zero: DefaultLimits

	// Accepted takes bundles for the engine, of one sender. It may block: the pool then fills and
	// refuses, which is how overload is shed at the edge.
	Accepted func(bundles []*smr.Bundle, from auth.Identity)
	// Resend asks the executor to answer a bundle from its cached replies; if it cannot, the bundle
	// goes to Accepted through missed. False: too much waits there.
	Resend func(b *smr.Bundle, missed func(*smr.Bundle)) bool
	// Advise sends advice to a client. It must not block.
	Advise func(client smr.ClientID, a *wirepb.Advice)

	Verifiers  int // signature workers; 0: one for every two processors
	Partitions int // partition workers; 0: as many
	// WaitingBytes bounds what waits for signature checks, and SourceBytes that of one sender.
	WaitingBytes int
	SourceBytes  int
	// BatchBundles bounds one signature batch.
	BatchBundles int
}

func (c *PoolConfig) setDefaults() {
	if c.Limits == (Limits{}) {
		c.Limits = DefaultLimits()
	}
	if c.Verifiers == 0 {
		c.Verifiers = max(1, runtime.GOMAXPROCS(0)/2)
	}
	if c.Partitions == 0 {
		c.Partitions = c.Verifiers
	}
	if c.WaitingBytes == 0 {
		c.WaitingBytes = 128 << 20
	}
	if c.SourceBytes == 0 {
		c.SourceBytes = 24 << 20
	}
	if c.BatchBundles == 0 {
		c.BatchBundles = 256
	}
}

// Stats counts what a pool saw.
type Stats struct {
	Offered, Accepted, Duplicates, Executed, Busy, Rejected, NoKey, BadSignature uint64
	WaitingBytes                                                                 int
}

// Pool is the way of bundles from the network to the engine. Safe for concurrent use.
type Pool struct {
	cfg    PoolConfig
	parts  []*partition
	cancel context.CancelFunc
	ctx    context.Context
	wg     sync.WaitGroup
	wake   chan struct{} // capacity 1: something waits for a signature check

	mu      sync.Mutex // guards what follows
	waiting []entry
	bytes   int
	sources map[auth.Identity]int // bytes of each sender that wait

	offered, accepted, duplicates, executed, busy, rejected, noKey, badSignature atomic.Uint64
}

// entry is a bundle and who sent it.
type entry struct {
	b    *smr.Bundle
	from auth.Identity
}

// partition is one worker's Core and its inbox.
type partition struct {
	core *Core
	in   chan []entry // verified; a verifier that finds it full waits

	mu       sync.Mutex // guards notices and again
	notices  []notice
	again    []*smr.Bundle // consumed, replies gone; of clients; at most maxAgain
	wake     chan struct{} // capacity 1
	accepted []*smr.Bundle
}

type notice struct {
	ids      []smr.BundleID
	released bool
}

// NewPool starts a pool.
func NewPool(cfg PoolConfig) *Pool {
	cfg.setDefaults()
	p := &Pool{cfg: cfg, wake: make(chan struct{}, 1), sources: make(map[auth.Identity]int)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	ledger := NewLedger()
	for range cfg.Partitions {
		q := &partition{core: NewCore(cfg.Limits, cfg.Sessions, ledger, cfg.Validate), in: make(chan []entry, 4), wake: make(chan struct{}, 1)}
		p.parts = append(p.parts, q)
		p.wg.Go(func() { p.work(q) })
	}
	for range cfg.Verifiers {
		p.wg.Go(p.verify)
	}
	return p
}

// Close stops the workers and waits for them. What waited is dropped: clients send it again.
func (p *Pool) Close() {
	p.cancel()
	p.wg.Wait()
}

// Stats returns the counts.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	bytes := p.bytes
	p.mu.Unlock()
	return Stats{
		Offered: p.offered.Load(), Accepted: p.accepted.Load(), Duplicates: p.duplicates.Load(), Executed: p.executed.Load(),
		Busy: p.busy.Load(), Rejected: p.rejected.Load(), NoKey: p.noKey.Load(), BadSignature: p.badSignature.Load(), WaitingBytes: bytes,
	}
}

// Submit takes the payload of an ordered-request frame of a client or a forwarded-requests frame
// of a replica. It never blocks and keeps payload. An error is misbehaviour of the sender.
func (p *Pool) Submit(from auth.Identity, payload []byte) error {
	bundles, err := wire.DecodeBundles(payload)
	if err != nil {
		return err
	}
	client, isClient := from.Client()
	for _, b := range bundles {
		if isClient && b.Client != client {
			return fmt.Errorf("%w: bundle of client %d on the connection of %v", wire.ErrBundle, b.Client, from)
		}
	}
	p.offered.Add(uint64(len(bundles)))
	for _, b := range bundles {
		if isClient && !p.cfg.Sessions.Admitted(b.Client, b.Key) {
			p.noKey.Add(1)
			p.advise(b, wire.AdviceNoKey, "the key that signed is not admitted")
			continue
		}
		if limit := p.enqueue(entry{b, from}); limit != "" && isClient {
			p.busy.Add(1)
			p.advise(b, wire.AdviceBusy, limit)
		}
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

func (p *Pool) enqueue(e entry) string {
	n := len(e.b.Raw)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bytes+n > p.cfg.WaitingBytes {
		return fmt.Sprintf("%d bytes wait for signature checks at this replica", p.bytes)
	}
	if p.sources[e.from]+n > p.cfg.SourceBytes {
		return fmt.Sprintf("%d bytes of this sender wait for signature checks", p.sources[e.from])
	}
	p.waiting = append(p.waiting, e)
	p.bytes += n
	p.sources[e.from] += n
	return ""
}

// Decided says that these bundles were decided.
func (p *Pool) Decided(ids []smr.BundleID) { p.notify(notice{ids: ids}) }

// Stopped says that the engine gave these bundles up.
func (p *Pool) Stopped(ids []smr.BundleID) { p.notify(notice{ids: ids}) }

// Released says that these bundles are proposable again.
func (p *Pool) Released(ids []smr.BundleID) { p.notify(notice{ids: ids, released: true}) }

// maxAgain bounds the bundles of a partition that wait to be ordered again; what comes beyond is
// dropped and the client asks once more.
const maxAgain = 1024

// order takes a bundle that must be ordered again for its outcome. It never blocks.
func (p *Pool) order(b *smr.Bundle) {
	q := p.parts[partitionOf(b, len(p.parts))]
	q.mu.Lock()
	if len(q.again) < maxAgain {
		q.again = append(q.again, b)
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (p *Pool) notify(n notice) {
	for _, q := range p.parts {
		q.mu.Lock()
		q.notices = append(q.notices, n)
		q.mu.Unlock()
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
}

// advise tells a client about a bundle of its own.
func (p *Pool) advise(b *smr.Bundle, code wire.AdviceCode, text string) {
	a := &wirepb.Advice{Code: uint32(code), Session: uint64(b.Session), First: uint64(b.First), Text: text}
	if b.Kind == smr.BundleOpen {
		a.First = b.Nonce
	}
	if code == wire.AdviceBusy {
		a.RetryAfterMs = uint64(busyPause / time.Millisecond)
	}
	p.cfg.Advise(b.Client, a)
}

// busyPause is how long a client is asked to wait after Busy.
const busyPause = 50 * time.Millisecond

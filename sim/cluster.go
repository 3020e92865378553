package sim

import (
	"fmt"
	"maps"
	"runtime/debug"
	"strings"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/quorum"
)

// Result is what came of a run.
type Result struct {
	Seed      uint64
	Scenario  string
	Replicas  int
	TraceHash string // of everything that happened
	Events    uint64
	Virtual   time.Duration // how long the run took in its own time
	Failure   string        // the first violation; empty if none
	Counts    Counts
}

// OK reports whether no oracle was violated.
func (r Result) OK() bool { return r.Failure == "" }

// Counts says how much of what a run saw: a run that saw nothing proves nothing.
type Counts struct {
	Faults       map[FaultKind]uint64 // that really happened
	Lost         uint64               // frames
	Views        smr.View
	Decided      smr.SeqNo
	Checkpoints  int // made by correct replicas
	Truncations  int
	CaughtUp     int // times that a replica began to fetch decisions
	ViewChanges  int // views entered by a replica
	Excused      int // runs without a quorum of replicas that can go on
	Transfers    int // checkpoints taken over
	Fenced       int // replicas that stopped themselves, or their execution, for a local fault
	Refused      int // replicas that did not start, or vote, on what their disk held
	FellBack     int // replicas that started from an older checkpoint, the newest being damaged
	Diverged     int // replicas that found their own state to be another one than the certified
	Acknowledged int // ordered operations
	Reads        int // unordered reads answered without ordering
	BadBundles   int // sent by Byzantine clients, of any kind
	BadOps       int // of Byzantine clients that took effect
	BadRefused   int // frames and bundles of Byzantine clients that a replica refused outright
}

// Add sums c and d, for a report over seeds.
func (c Counts) Add(d Counts) Counts {
	faults := map[FaultKind]uint64{}
	maps.Copy(faults, c.Faults)
	for _, k := range FaultKinds() {
		if n := d.Faults[k]; n > 0 {
			faults[k] += n
		}
	}
	c.Faults = faults
	c.Lost += d.Lost
	c.Views += d.Views
	c.Decided += d.Decided
	c.Checkpoints += d.Checkpoints
	c.Truncations += d.Truncations
	c.CaughtUp += d.CaughtUp
	c.ViewChanges += d.ViewChanges
	c.Excused += d.Excused
	c.Transfers += d.Transfers
	c.Fenced += d.Fenced
	c.Refused += d.Refused
	c.FellBack += d.FellBack
	c.Diverged += d.Diverged
	c.Acknowledged += d.Acknowledged
	c.Reads += d.Reads
	c.BadBundles += d.BadBundles
	c.BadOps += d.BadOps
	c.BadRefused += d.BadRefused
	return c
}

// cluster is one run.
type cluster struct {
	plan    Plan
	options Options
	clk     clock
	seed    uint64
	trace   *trace
	net     *network
	oracle  *oracle
	history history

	id         smr.ClusterID
	members    *quorum.Membership
	scheme     auth.Scheme
	nodes      []*node
	clients    []*worker
	badClients []*badClient
	side       []bool // by replica: which of two twins it sees

	onAck    func() // called once, at the next acknowledged write
	healed   bool
	healedAt time.Duration
	failure  string
	counts   Counts
}

// violation ends a run from inside an event.
type violation string

// fail records the first violation and unwinds to Run.
func (c *cluster) fail(format string, args ...any) {
	panic(violation(fmt.Sprintf(format, args...)))
}

// livenessBound is how long after the faults all requests must be done and all replicas equal, in
// timeouts of a first view: failed views during the faults have lengthened the current one.
const livenessBound = 120

// maxEvents bounds a run against a cluster that storms.
const maxEvents = 5_000_000

// Run simulates one seed. The error is a mistake in the options; what the run found is in the
// result.
func Run(seed uint64, o Options) (Result, error) {
	c := &cluster{options: o, seed: seed}
	c.trace = newTrace(&c.clk, o.Trace)
	if o.Plan != nil {
		c.plan = *o.Plan
	} else if p, err := Draw(seed, o); err != nil {
		return Result{}, err
	} else {
		c.plan = p
	}
	c.counts.Faults = map[FaultKind]uint64{}
	c.oracle = newOracle(c)
	c.net = newNetwork(c)
	if err := c.build(); err != nil {
		return Result{}, err
	}
	c.trace.head(seed, o)
	c.trace.note("seed %d: %+v", seed, c.plan)
	c.guard(c.run)
	if c.failure != "" {
		c.trace.note("FAILED: %s", c.failure)
	}
	for _, n := range c.nodes {
		if n.up && !n.byzantine {
			c.counts.Views = max(c.counts.Views, n.last.view)
		}
	}
	c.countWeather()
	c.counts.Decided, c.counts.Lost = c.oracle.top, c.net.lost
	c.trace.word(c.clk.ran)
	hash := fmt.Sprintf("%016x", c.trace.sum)
	c.trace.foot(hash)
	return Result{
		Seed: seed, Scenario: c.plan.Scenario, Replicas: c.plan.Replicas, TraceHash: hash,
		Events: c.clk.ran, Virtual: c.clk.now, Failure: c.failure, Counts: c.counts,
	}, nil
}

// stream returns the random source of one thing in this run.
func (c *cluster) stream(kind, id uint64) random { return stream(c.seed, kind, id) }

// guard runs f; a violation or panic under it becomes the run's failure.
func (c *cluster) guard(f func()) {
	defer func() {
		switch x := recover().(type) {
		case nil:
		case violation:
			c.failure = fmt.Sprintf("at %s: %s", c.clk.now, string(x))
		default:
			c.failure = fmt.Sprintf("at %s: panic: %v\n%s", c.clk.now, x, debug.Stack())
		}
	}()
	f()
}

// run drives the run to its end.
func (c *cluster) run() {
	for _, n := range c.nodes {
		n.restart()
	}
	for _, w := range c.clients {
		w.begin()
	}
	for _, b := range c.badClients {
		b.begin()
	}
	c.schedule()
	bound := c.plan.Chaos + livenessBound*c.plan.Timeout
	next := time.Duration(0)
	for c.clk.step(bound) {
		if c.clk.ran > maxEvents {
			c.fail("storm: %d events by %s", c.clk.ran, c.clk.now)
		}
		if c.healed && c.clk.now >= next {
			next = c.clk.now + 10*time.Millisecond
			if c.done() {
				break
			}
		}
	}
	c.clk.now = max(c.clk.now, c.healedAt)
	if why := c.unfinished(); why != "" {
		excuse := c.unrecoverable()
		if excuse == "" {
			c.fail("liveness: %s after the faults ended: %s", c.clk.now-c.healedAt, why)
		}
		c.trace.note("not recoverable: %s", excuse)
		c.counts.Excused++
	}
	c.final()
}

func (c *cluster) done() bool { return c.unfinished() == "" }

func (c *cluster) describe() string {
	var b strings.Builder
	for _, n := range c.nodes {
		fmt.Fprintf(&b, "[%s] ", n.describe())
	}
	return b.String()
}

// countWeather counts what happened all the time.
func (c *cluster) countWeather() {
	f, w := c.counts.Faults, c.net
	f[FaultLoss], f[FaultDuplicate], f[FaultReorder] = w.lost, w.duplicated, w.straggled
	for _, n := range c.nodes {
		if n.clock.skew != 0 {
			f[FaultSkew]++
		}
	}
}

// final checks what can be said only at the end.
func (c *cluster) final() {
	for _, n := range c.nodes {
		n.checkDivergence()
	}
	c.sameState()
	c.history.check(c)
}

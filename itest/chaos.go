package itest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/atlas-smr/smr/internal/localcluster"
)

// Report is what a run of faults did and found.
type Report struct {
	Seed      uint64   `json:"seed"`
	Seconds   float64  `json:"seconds"`
	Rounds    int      `json:"rounds"`
	Acked     int64    `json:"acknowledged"`
	Open      int64    `json:"unknown"` // calls given up, outcome unknown
	Kills     int      `json:"kills"`
	Pauses    int      `json:"pauses"`
	Cuts      int      `json:"cuts"`
	HalfOpen  int      `json:"half_open"` // connections
	Resets    int      `json:"resets"`    // connections
	Slowed    int      `json:"slowed"`    // delay, loss, bandwidth
	Fills     int      `json:"fills"`
	LeftOut   []string `json:"left_out,omitempty"` // faults this machine does not allow
	View      uint64   `json:"view"`               // the highest at the end
	Stable    uint64   `json:"stable"`             // sequence number of the newest stable checkpoint
	MaxHealMs int64    `json:"max_heal_ms"`        // longest from healing until all clients were answered and all replicas worked
	Wrong     []string `json:"wrong,omitempty"`
}

// ChaosOptions say how to torment a cluster.
type ChaosOptions struct {
	Seed    uint64
	For     time.Duration // faults begin for this long
	Rate    int           // calls a second
	Clients int
	LeftOut []string
	// HealWithin bounds each recovery.
	HealWithin time.Duration
	Say        func(format string, args ...any)
}

// run is one run of faults. It belongs to one goroutine.
type run struct {
	c       *Cluster
	load    *Load
	rng     *rand.Rand
	deck    deck
	clients int
	report  Report
	o       ChaosOptions
	began   time.Time
}

func (r *run) say(format string, args ...any) {
	r.o.Say("%6.1fs %s", time.Since(r.began).Seconds(), fmt.Sprintf(format, args...))
}

// Chaos torments a running cluster in rounds: some faults at once, then everything heals, and every
// client must be answered and every replica must work within a bound. At the end it judges. An error
// is a broken promise too, unless ctx ended.
func Chaos(ctx context.Context, c *Cluster, o ChaosOptions) (*Report, error) {
	load, err := StartLoad(ctx, c, o.Clients, o.Rate, o.Seed)
	if err != nil {
		return nil, err
	}
	rng := rand.New(rand.NewPCG(o.Seed, 1))
	r := &run{c: c, load: load, rng: rng, deck: deck{rng: rng}, clients: o.Clients, o: o, began: time.Now()}
	r.report.Seed, r.report.LeftOut = o.Seed, o.LeftOut
	err = r.torment(ctx)
	finish, cancel := context.WithTimeout(ctx, o.HealWithin)
	defer cancel()
	err = errors.Join(err, load.Finish(finish))
	r.report.Acked, r.report.Open = load.Acked.Load(), load.Open.Load()
	if err == nil {
		err = r.judge(ctx)
	}
	r.report.Seconds = float64(time.Since(r.began).Milliseconds()) / 1000
	return &r.report, err
}

func (r *run) judge(ctx context.Context) (err error) {
	caught, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	if r.report.Wrong, err = r.c.Judge(caught, r.load.History); err != nil {
		return err
	}
	for _, i := range r.c.Nodes() {
		s, err := r.c.Status(ctx, i)
		if err != nil {
			return err
		}
		r.report.View, r.report.Stable = max(r.report.View, s.View), max(r.report.Stable, s.Stable)
	}
	return nil
}

func (r *run) torment(ctx context.Context) error {
	for time.Since(r.began) < r.o.For {
		r.report.Rounds++
		if err := r.round(ctx); err != nil {
			return fmt.Errorf("round %d: %w", r.report.Rounds, err)
		}
		if err := r.load.Failed(); err != nil {
			return err
		}
	}
	return nil
}

// step is the beginning or the end of a fault.
type step struct {
	at   time.Duration
	text string
	do   func(context.Context, *Cluster) error
}

// round has up to three faults at once and heals.
func (r *run) round(ctx context.Context) error {
	var steps []step
	victims := r.c.Nodes()
	for range 1 + r.rng.IntN(3) {
		f, ok := r.draw(r.deck.deal(), &victims)
		if !ok {
			continue
		}
		from := time.Duration(r.rng.IntN(1500)) * time.Millisecond
		lasts := time.Duration(200+r.rng.IntN(3500)) * time.Millisecond
		steps = append(steps, step{from, f.text, f.begin})
		if f.end != nil {
			steps = append(steps, step{from + lasts, "", f.end})
		} else {
			steps = append(steps, step{from + lasts, "", func(context.Context, *Cluster) error { return nil }})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return int(a.at - b.at) })
	began := time.Now()
	for _, s := range steps {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(s.at - time.Since(began)):
		}
		if s.text != "" {
			r.say("%s", s.text)
		}
		if err := s.do(ctx, r.c); err != nil {
			return err
		}
	}
	return r.heal(ctx)
}

// heal ends all faults and waits for recovery.
func (r *run) heal(ctx context.Context) error {
	began := time.Now()
	if err := r.c.Heal(); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, r.o.HealWithin)
	defer cancel()
	if err := r.load.AwaitProgress(within); err != nil {
		return fmt.Errorf("no progress after healing: %w", err)
	}
	for _, i := range r.c.Nodes() {
		if err := r.c.Await(within, i, "working after healing", localcluster.Normal); err != nil {
			return err
		}
	}
	took := time.Since(began)
	r.report.MaxHealMs = max(r.report.MaxHealMs, took.Milliseconds())
	primary, view, err := r.c.Primary(ctx)
	if err != nil {
		return err
	}
	r.say("healed in %d ms; view %d, replica %d leads; %d acknowledged", took.Milliseconds(), view, primary, r.load.Acked.Load())
	return nil
}

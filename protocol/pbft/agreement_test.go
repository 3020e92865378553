package pbft

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// seeds returns how many schedules to run, and from which seed; PBFT_SEED replays one.
func seeds(t *testing.T, n int) (first, count uint64) {
	if s := os.Getenv("PBFT_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v, 1
	}
	if testing.Short() {
		n = max(1, n/10)
	}
	return 1, uint64(n)
}

// schedule runs one random schedule: loss, delay, crashes with loss of unsynced records, and up to
// f Byzantine replicas; then heals, and everything must be decided everywhere.
func schedule(t *testing.T, n int, seed uint64, byzantine bool) *cluster {
	c := newCluster(t, n, seed)
	defer func() {
		if t.Failed() {
			t.Logf("replay: PBFT_SEED=%d go test -run '%s' ./protocol/pbft", seed, t.Name())
			if c.trace != nil {
				t.Log(c.trace.String())
			}
		}
	}()
	if os.Getenv("PBFT_SEED") != "" {
		c.trace = &strings.Builder{}
	}
	f := c.m.F()
	if byzantine {
		for range f {
			id := smr.NodeID(1 + c.rng.IntN(n))
			c.faulty[id] = &traitor{
				equivocate: c.rng.IntN(3) > 0, withhold: c.rng.IntN(2) == 0, lie: c.rng.IntN(2) == 0, loose: c.rng.IntN(3) > 0,
			}
		}
	}
	c.drop = []float64{0, 0.02, 0.1, 0.3}[c.rng.IntN(4)]
	c.maxDelay = time.Duration(1+c.rng.IntN(80)) * time.Millisecond
	c.maxSync = time.Duration(c.rng.IntN(30)) * time.Millisecond
	c.boot()
	chaos := epochStart.Add(time.Duration(500+c.rng.IntN(2500)) * time.Millisecond)
	for c.now.Before(chaos) {
		c.elapse(c.random(150 * time.Millisecond))
		for range c.rng.IntN(4) {
			c.submit()
		}
		x := c.nodes[c.rng.IntN(n)]
		switch c.rng.IntN(8) {
		case 0:
			if x.alive {
				c.crash(x)
			}
		case 1, 2:
			if !x.alive {
				c.start(x)
			}
		case 3:
			if c.rng.IntN(6) == 0 { // everyone at once
				for _, y := range c.nodes {
					if y.alive {
						c.crash(y)
					}
				}
			}
		case 4:
			if c.rng.IntN(3) == 0 {
				c.run(x, func(out *protocol.Effects) { x.ord.HandOver(c.now, 0, out) })
			}
		case 5:
			cut := smr.NodeID(1 + c.rng.IntN(n))
			if c.filter = nil; c.rng.IntN(2) == 0 {
				c.filter = func(from, to smr.NodeID, _ protocol.Message) bool { return from != cut && (to != cut || seed%2 == 0) }
			}
		}
	}
	c.drop, c.filter, c.maxDelay, c.maxSync = 0, nil, 10*time.Millisecond, 2*time.Millisecond
	for _, x := range c.nodes {
		if !x.alive {
			c.start(x)
		}
	}
	for _, x := range c.nodes { // what a crashed replica missed is resent by its clients
		for _, id := range c.all {
			c.learns(x, id)
		}
	}
	c.submit()
	c.await(120 * time.Second)
	return c
}

func (c *cluster) learnt(x *node, id smr.BundleID) bool {
	for _, k := range x.known {
		if k == id {
			return true
		}
	}
	return false
}

func TestRandomSchedulesAgreeAndRecover(t *testing.T) {
	for _, s := range []struct {
		n, count  int
		byzantine bool
	}{{4, 250, false}, {4, 500, true}, {7, 60, false}, {7, 120, true}} {
		t.Run(fmt.Sprintf("n=%d byzantine=%v", s.n, s.byzantine), func(t *testing.T) {
			first, count := seeds(t, s.count)
			views, starts := smr.View(0), 0
			for seed := first; seed < first+count; seed++ {
				c := schedule(t, s.n, seed, s.byzantine)
				views += c.nodes[0].ord.Status().View
				starts += c.twoStarts
			}
			t.Logf("%d views failed or handed over; %d views had two starting certificates", views, starts)
			if count >= 100 && (views == 0 || s.byzantine && starts == 0) {
				t.Error("the schedules try too little")
			}
		})
	}
}

func TestEqualSeedsGiveEqualTraces(t *testing.T) {
	run := func() string {
		c := newCluster(t, 4, 42)
		c.trace = &strings.Builder{}
		c.drop = 0.1
		c.boot()
		for range 20 {
			c.submit()
			c.elapse(30 * time.Millisecond)
		}
		c.crash(c.nodes[0])
		c.elapse(2 * time.Second)
		c.start(c.nodes[0])
		c.drop = 0
		c.await(20 * time.Second)
		return c.trace.String()
	}
	if a, b := run(), run(); a != b {
		t.Error("two runs of one seed differ")
	}
}

package itest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/atlas-smr/smr"
)

// fault is one thing that goes wrong for a while. begin and end run on the cluster's goroutine; end
// may be nil: healing ends it.
type fault struct {
	text       string
	begin, end func(ctx context.Context, c *Cluster) error
}

// kinds are the faults there are, by the name under which they are counted.
var kinds = []string{
	"kill", "kill", "kill-primary", "pause", "pause-primary", "cut", "cut-one-way", "partition", "client-cut", "half-open", "reset", "slow", "lossy",
	"narrow", "kill-many", "kill-all", "fill",
}

// deck deals kinds in random order, each as often as it is in kinds before any comes again.
type deck struct {
	rng  *rand.Rand
	rest []string
}

func (d *deck) deal() string {
	if len(d.rest) == 0 {
		for _, i := range d.rng.Perm(len(kinds)) {
			d.rest = append(d.rest, kinds[i])
		}
	}
	kind := d.rest[0]
	d.rest = d.rest[1:]
	return kind
}

// draw makes a fault of a kind. victims are the replicas that no other fault of the round kills,
// stops or fills; it takes those it needs, and returns false if there are too few, or if nothing here
// can have that fault.
func (r *run) draw(kind string, victims *[]smr.NodeID) (fault, bool) {
	take := func() smr.NodeID {
		i := r.rng.IntN(len(*victims))
		id := (*victims)[i]
		*victims = append((*victims)[:i:i], (*victims)[i+1:]...)
		return id
	}
	switch kind {
	case "kill", "kill-primary", "pause", "pause-primary", "fill":
		if len(*victims) == 0 {
			return fault{}, false
		}
	case "kill-many", "kill-all":
		if len(*victims) < len(r.c.Genesis.Members) {
			return fault{}, false
		}
	}
	switch kind {
	case "kill":
		return r.kill(take()), true
	case "pause":
		return r.pause(take()), true
	case "kill-primary", "pause-primary":
		// Who leads is known when it begins; nobody else may be a victim.
		if len(*victims) < len(r.c.Genesis.Members) {
			return fault{}, false
		}
		*victims = nil
		return r.atPrimary(map[string]func(smr.NodeID) fault{"kill-primary": func(i smr.NodeID) fault { return r.kill(i) }, "pause-primary": r.pause}[kind]), true
	case "kill-many":
		n := r.c.Genesis.F + 1 + r.rng.IntN(len(r.c.Genesis.Members)-r.c.Genesis.F-1)
		var ids []smr.NodeID
		for range n {
			ids = append(ids, take())
		}
		return r.kill(ids...), true
	case "kill-all":
		*victims = nil
		return r.kill(r.c.Nodes()...), true
	case "fill":
		return r.fill(victims)
	}
	return r.drawNetwork(kind), true
}

func (r *run) kill(ids ...smr.NodeID) fault {
	return fault{
		text: fmt.Sprintf("kill -9 of %v", ids),
		begin: func(_ context.Context, c *Cluster) error {
			for _, i := range ids {
				if err := c.Ended(i); err != nil {
					return err
				}
			}
			r.report.Kills += len(ids)
			return c.Kill(ids...)
		},
		end: func(_ context.Context, c *Cluster) error {
			for _, i := range ids {
				if err := c.Start(i); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func (r *run) pause(id smr.NodeID) fault {
	return fault{
		text: fmt.Sprintf("replica %d stands still", id),
		begin: func(_ context.Context, c *Cluster) error {
			r.report.Pauses++
			return c.Pause(id)
		},
		end: func(_ context.Context, c *Cluster) error { return c.Resume(id) },
	}
}

// atPrimary is a fault of whoever leads when it begins.
func (r *run) atPrimary(of func(smr.NodeID) fault) fault {
	var f fault
	return fault{
		text: "at the primary",
		begin: func(ctx context.Context, c *Cluster) error {
			id, _, err := c.Primary(ctx)
			if err != nil {
				id = 1 // nobody leads: any will do
			}
			f = of(id)
			r.say("  that is: %s", f.text)
			return f.begin(ctx, c)
		},
		end: func(ctx context.Context, c *Cluster) error { return f.end(ctx, c) },
	}
}

// endsWithin is how soon a replica whose disk is full must have ended by itself.
const endsWithin = 30 * time.Second

// fill fills a replica's disk; the replica must end by itself, and the others must go on meanwhile.
func (r *run) fill(victims *[]smr.NodeID) (fault, bool) {
	var id smr.NodeID
	for k, v := range *victims {
		if r.c.disks[v] != nil {
			id = v
			*victims = append((*victims)[:k:k], (*victims)[k+1:]...)
			break
		}
	}
	if id == 0 {
		return fault{}, false
	}
	return fault{
		text: fmt.Sprintf("the disk of replica %d is full", id),
		begin: func(_ context.Context, c *Cluster) error {
			r.report.Fills++
			r.load.Big(true)
			return c.disks[id].Fill()
		},
		end: func(ctx context.Context, c *Cluster) error {
			defer r.load.Big(false)
			c.Net.Heal() // so that there is something to write
			ctx, cancel := context.WithTimeout(ctx, endsWithin)
			defer cancel()
			exit, err := c.AwaitEnd(ctx, id)
			if err != nil {
				return err
			}
			if exit == nil {
				return fmt.Errorf("replica %d ended with code 0 on a full disk", id)
			}
			if err := c.disks[id].Free(); err != nil {
				return err
			}
			return c.Start(id)
		},
	}, true
}

// drawNetwork makes a fault between ends.
func (r *run) drawNetwork(kind string) fault {
	nodes := r.c.Nodes()
	a := NodeEnd(nodes[r.rng.IntN(len(nodes))])
	others := r.c.Net.Others(a)
	b := others[r.rng.IntN(len(others))]
	both := func(w Weather) func(context.Context, *Cluster) error {
		return func(_ context.Context, c *Cluster) error {
			for _, o := range others {
				c.Net.SetBoth(a, o, w)
			}
			return nil
		}
	}
	ms := func(low, high int) time.Duration {
		return time.Duration(low+r.rng.IntN(high-low)) * time.Millisecond
	}
	switch kind {
	case "cut", "cut-one-way", "partition":
		return r.cut(kind, a, b)
	case "client-cut":
		j := ClientEnd(1 + r.rng.IntN(r.clients))
		reachable := r.rng.IntN(len(nodes))
		return fault{text: fmt.Sprintf("client %d reaches %d replicas only", j.ID, reachable), begin: func(_ context.Context, c *Cluster) error {
			r.report.Cuts++
			for _, i := range nodes[reachable:] {
				c.Net.SetBoth(j, NodeEnd(i), Weather{Cut: true})
			}
			return nil
		}}
	case "half-open":
		return fault{text: fmt.Sprintf("connections of %v are half open", a), begin: func(_ context.Context, c *Cluster) error {
			for _, o := range others {
				r.report.HalfOpen += c.Net.HalfOpen(o, a)
			}
			return nil
		}}
	case "reset":
		return fault{text: fmt.Sprintf("connections of %v are reset", a), begin: func(_ context.Context, c *Cluster) error {
			for _, o := range others {
				r.report.Resets += c.Net.Break(a, o)
			}
			return nil
		}}
	}
	w := map[string]Weather{
		"slow":   {Delay: ms(1, 150), Jitter: ms(1, 200)},
		"lossy":  {Stall: 0.05 + r.rng.Float64()/5, StallFor: ms(50, 400), Reset: r.rng.Float64() / 200},
		"narrow": {BytesPerMs: 5 + r.rng.IntN(100)},
	}[kind]
	f := fault{text: fmt.Sprintf("what %v sends and gets is %s: %+v", a, kind, w), begin: both(w)}
	begin := f.begin
	f.begin = func(ctx context.Context, c *Cluster) error {
		r.report.Slowed++
		return begin(ctx, c)
	}
	return f
}

// cut makes a fault in which nothing arrives.
func (r *run) cut(kind string, a, b End) fault {
	gone := Weather{Cut: true}
	nodes := r.c.Nodes()
	switch {
	case kind == "partition":
		side := map[End]bool{}
		for _, k := range r.rng.Perm(len(nodes))[:1+r.rng.IntN(len(nodes)-1)] {
			side[NodeEnd(nodes[k])] = true
		}
		return fault{text: fmt.Sprintf("the network splits: %v and the rest", side), begin: func(_ context.Context, c *Cluster) error {
			r.report.Cuts++
			for _, x := range nodes {
				for _, y := range nodes {
					if side[NodeEnd(x)] != side[NodeEnd(y)] {
						c.Net.Set(NodeEnd(x), NodeEnd(y), gone)
					}
				}
			}
			return nil
		}}
	case kind == "cut":
		return fault{text: fmt.Sprintf("no way between %v and %v", a, b), begin: func(_ context.Context, c *Cluster) error {
			r.report.Cuts++
			c.Net.SetBoth(a, b, gone)
			return nil
		}}
	}
	out := r.rng.IntN(2) == 0
	text := map[bool]string{true: "nothing that %v sends arrives", false: "nothing arrives at %v"}[out]
	return fault{text: fmt.Sprintf(text, a), begin: func(_ context.Context, c *Cluster) error {
		r.report.Cuts++
		for _, o := range c.Net.Others(a) {
			if out {
				c.Net.Set(a, o, gone)
			} else {
				c.Net.Set(o, a, gone)
			}
		}
		return nil
	}}
}

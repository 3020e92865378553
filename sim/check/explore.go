package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/protocol"
)

// The faults that can be explored.
const (
	Byzantine = "byzantine"
	Crash     = "crash"
)

// Options bound a run.
type Options struct {
	Factory  protocol.Factory // of an ordering whose machines are protocol.Explorable
	Fault    string           // Byzantine or Crash
	Replicas int              // 4
	Seqs     int              // sequence numbers that carry batches, at least 1
	Views    int              // at least 1
	Variants int              // Byzantine: proposals for one place, 1 or 2
	Crashes  int              // how often the victim crashes; Byzantine: 0, or one correct replica crashes as well
	Victim   int              // Crash: which replica, from 1
	Limit    int              // states to stop at; 0 for none

	Progress func(Result) // called now and then; may be nil
}

// Result says what was explored.
type Result struct {
	Fault       string `json:"fault"`
	Replicas    int    `json:"replicas"`
	Seqs        int    `json:"seqs"`
	Views       int    `json:"views"`
	Variants    int    `json:"variants,omitempty"`
	Victim      int    `json:"victim,omitempty"`
	Crashes     int    `json:"crashes,omitempty"`
	States      int    `json:"states"`
	Transitions int    `json:"transitions"`
	Locals      int    `json:"locals"` // different states of one replica
	Inputs      int    `json:"inputs"` // runs of the production machine
	Proposals   int    `json:"proposals"`
	Depth       int    `json:"depth"`
	Frontier    int    `json:"frontier"`
	Exhausted   bool   `json:"exhausted"`
	Violation   string `json:"violation,omitempty"`

	Trace []string `json:"trace,omitempty"` // how the violation comes about, one input a line
}

// validate reports every option that is out of bounds.
func (o *Options) validate() error {
	var bad []string
	refuse := func(no bool, format string, args ...any) {
		if no {
			bad = append(bad, fmt.Sprintf(format, args...))
		}
	}
	refuse(o.Fault != Byzantine && o.Fault != Crash, "fault %q: one of %s, %s", o.Fault, Byzantine, Crash)
	refuse(o.Replicas != 4, "%d replicas: 4", o.Replicas)
	refuse(o.Seqs < 1 || o.Seqs > 4, "%d sequence numbers: 1 to 4", o.Seqs)
	refuse(o.Views < 1 || o.Views > maxViews, "%d views: 1 to %d", o.Views, maxViews)
	refuse(o.Fault == Byzantine && (o.Variants < 1 || o.Variants > 2), "%d variants: 1 or 2", o.Variants)
	refuse(o.Fault == Crash && (o.Victim < 1 || o.Victim > o.Replicas), "victim %d: a replica from 1 to %d", o.Victim, o.Replicas)
	refuse(o.Fault == Crash && o.Crashes < 1 || o.Crashes < 0 || o.Crashes > 3, "%d crashes: 1 to 3, or 0 beside a Byzantine replica", o.Crashes)
	if len(bad) > 0 {
		return fmt.Errorf("model checker: %s", strings.Join(bad, "; "))
	}
	return nil
}

// search is one run.
type search struct {
	w      *world
	states []state
	from   []uint32
	table  []uint32 // open addressing: 1 + index into states
	mask   uint32
	res    Result
}

// Run explores every state within the bounds, breadth first, until one is wrong, none is left, the
// limit is reached or ctx ends. The error is about options only.
func Run(ctx context.Context, o Options) (Result, error) {
	if err := o.validate(); err != nil {
		return Result{}, err
	}
	w, err := newWorld(o)
	if err != nil {
		return Result{}, err
	}
	s := &search{w: w, table: make([]uint32, 1<<16), mask: 1<<16 - 1}
	s.res = Result{Fault: o.Fault, Replicas: o.Replicas, Seqs: o.Seqs, Views: o.Views, Crashes: o.Crashes}
	if o.Fault == Byzantine {
		s.res.Variants = o.Variants
	} else {
		s.res.Victim = o.Victim
	}
	s.guard(func() { s.run(ctx) })
	s.count()
	return s.res, nil
}

// guard turns what breaks outside of a step into a violation.
func (s *search) guard(f func()) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case flaw:
			s.res.Violation = string(p)
		case invariant.Violation:
			s.res.Violation = p.Error()
		case tooMany:
			s.res.Violation = fmt.Sprintf("the bounds allow more than %d proposals: choose smaller ones", maxBlocks)
		default:
			panic(p)
		}
	}()
	f()
}

func (s *search) run(ctx context.Context) {
	s.w.probe()
	var g state
	for i, d := range s.w.duty {
		g[i], _ = s.w.first(d)
	}
	s.add(g, 0)
	level := 1
	for next := 0; next < len(s.states); next++ {
		if next == level {
			level = len(s.states)
			s.res.Depth++
		}
		s.res.Frontier = len(s.states) - next
		if next&0x3fff == 0x3fff {
			if s.w.o.Progress != nil {
				s.count()
				s.w.o.Progress(s.res)
			}
			if ctx.Err() != nil {
				return
			}
		}
		if s.w.o.Limit > 0 && len(s.states) >= s.w.o.Limit {
			return
		}
		if !s.expand(uint32(next)) {
			return
		}
	}
	s.res.Frontier, s.res.Exhausted = 0, true
}

func (s *search) count() {
	s.res.States, s.res.Locals, s.res.Inputs, s.res.Proposals = len(s.states), len(s.w.locals), len(s.w.steps), len(s.w.blocks)-1
}

// expand adds the successors of a state and reports whether nothing is wrong.
func (s *search) expand(at uint32) bool {
	g := s.states[at]
	over := true
	for i, d := range s.w.duty {
		if i > 0 && s.w.duty[i-1] == d && g[i-1] == g[i] {
			continue // the same replica by another name
		}
		targets, bad := s.w.reach(&g, i)
		if bad != "" {
			s.fail(at, i, bad)
			return false
		}
		for _, t := range targets {
			over = false
			n := g
			n[i] = t
			s.w.order(&n)
			s.res.Transitions++
			if s.add(n, at) {
				if bad := s.w.agree(&n); bad != "" {
					s.fail(uint32(len(s.states)-1), -1, bad)
					return false
				}
			}
		}
	}
	if over {
		if bad := s.w.finished(&g); bad != "" {
			s.fail(at, -1, bad)
			return false
		}
	}
	return true
}

// order sorts the replicas of each duty.
func (w *world) order(g *state) {
	for i := 1; i < len(w.duty); i++ {
		for k := i; k > 0 && w.duty[k-1] == w.duty[k] && g[k-1] > g[k]; k-- {
			g[k-1], g[k] = g[k], g[k-1]
		}
	}
}

// add notes a state and reports whether it is new.
func (s *search) add(g state, from uint32) bool {
	if 2*len(s.states) >= len(s.table) {
		s.grow()
	}
	at := hash(&g) & s.mask
	for ; s.table[at] != 0; at = (at + 1) & s.mask {
		if s.states[s.table[at]-1] == g {
			return false
		}
	}
	s.states, s.from = append(s.states, g), append(s.from, from)
	s.table[at] = uint32(len(s.states))
	return true
}

func (s *search) grow() {
	s.table = make([]uint32, 2*len(s.table))
	s.mask = uint32(len(s.table) - 1)
	for i := range s.states {
		at := hash(&s.states[i]) & s.mask
		for s.table[at] != 0 {
			at = (at + 1) & s.mask
		}
		s.table[at] = uint32(i + 1)
	}
}

func hash(g *state) uint32 {
	h := uint64(g[0])<<32 | uint64(g[1])
	h = (h ^ h>>29) * 0xbf58476d1ce4e5b9
	h ^= uint64(g[2])<<32 | uint64(g[3])
	h = (h ^ h>>32) * 0x94d049bb133111eb
	return uint32(h >> 32)
}

// reach returns the local states that replica i of g can come to by signing something next.
func (w *world) reach(g *state, i int) ([]uint32, flaw) {
	e := w.environment(g, i)
	id, ok := w.envs[e]
	if !ok {
		id = uint32(len(w.envs))
		w.envs[e] = id
	}
	key := uint64(g[i])<<32 | uint64(id)
	if t, ok := w.jumps[key]; ok {
		return t, ""
	}
	var targets []uint32
	_, bad := w.walk(g[i], &e, func(at, to uint32, _ input) bool {
		if to != at && w.locals[to].facts.spoken() != w.locals[g[i]].facts.spoken() {
			targets = append(targets, to)
			return false
		}
		return true
	})
	if bad == "" {
		slices.Sort(targets)
		targets = w.earliest(slices.Compact(targets), &e)
		w.jumps[key] = targets
	}
	return targets, bad
}

// earliest drops what another target comes to without signing anything: it can do so later as well.
func (w *world) earliest(targets []uint32, e *env) []uint32 {
	late := map[uint32]bool{}
	for _, t := range targets {
		if late[t] {
			continue
		}
		spoken := w.locals[t].facts.spoken()
		if !slices.ContainsFunc(targets, func(o uint32) bool { return o != t && w.locals[o].facts.spoken() == spoken }) {
			continue
		}
		w.walk(t, e, func(_, to uint32, _ input) bool {
			if w.locals[to].facts.spoken() != spoken {
				return false
			}
			if to != t && slices.Contains(targets, to) {
				late[to] = true
			}
			return true
		})
	}
	return slices.DeleteFunc(targets, func(t uint32) bool { return late[t] })
}

// link says how a local state was reached within a walk.
type link struct {
	at uint32
	by input
}

// walk visits every local state that a replica can come to from one, going on where visit agrees.
func (w *world) walk(from uint32, e *env, visit func(at, to uint32, by input) bool) (map[uint32]link, flaw) {
	seen := map[uint32]link{from: {from, 0}}
	stack := []uint32{from}
	var buf []input
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		buf = w.inputs(w.locals[at], e, buf[:0])
		for _, in := range buf {
			to, bad := w.step(at, in)
			if bad == "" {
				bad = w.founded(to, e)
			}
			if bad != "" {
				seen[^uint32(0)] = link{at, in}
				return seen, bad
			}
			if _, again := seen[to]; again {
				continue
			}
			if visit(at, to, in) {
				seen[to] = link{at, in}
				stack = append(stack, to)
			}
		}
	}
	return seen, ""
}

// founded checks that a decision has a quorum's commits behind it.
func (w *world) founded(l uint32, e *env) flaw {
	d := w.locals[l].facts.decided
	if d == 0 {
		return ""
	}
	for b := range w.each(e.final) {
		if w.blocks[b].line&(1<<d) != 0 {
			return ""
		}
	}
	return flaw(fmt.Sprintf("decides %s without a quorum's commits", w.call(d)))
}

// finished checks, where all replicas are correct and nobody can sign anything new, that everything
// is decided, unless who leads the last view crashed: it does not lead again a view it led.
func (w *world) finished(g *state) flaw {
	if w.o.Fault != Crash || w.o.Victim == w.o.Views {
		return ""
	}
	for i := range w.duty {
		e := w.environment(g, i)
		best := 0
		note := func(l uint32) { best = max(best, int(w.locals[l].done)) }
		note(g[i])
		w.walk(g[i], &e, func(_, to uint32, _ input) bool { note(to); return true })
		if best < w.o.Seqs {
			return flaw(fmt.Sprintf("nobody has anything to say any more, and replica %d can decide no more than %d", i+1, best))
		}
	}
	return ""
}

// fail notes a violation and how it comes about.
func (s *search) fail(at uint32, replica int, bad flaw) {
	s.res.Violation = string(bad)
	var path []uint32
	for i := at; ; i = s.from[i] {
		path = append(path, i)
		if i == 0 {
			break
		}
	}
	slices.Reverse(path)
	for k := range len(path) - 1 {
		s.explain(s.states[path[k]], s.states[path[k+1]])
	}
	if replica >= 0 {
		g := s.states[at]
		e := s.w.environment(&g, replica)
		spoken := s.w.locals[g[replica]].facts.spoken()
		seen, _ := s.w.walk(g[replica], &e, func(_, to uint32, _ input) bool { return s.w.locals[to].facts.spoken() == spoken })
		s.tell(replica, seen, ^uint32(0))
	}
}

// explain appends the inputs that lead from one state to the next.
func (s *search) explain(g, to state) {
	for i := range s.w.duty {
		e := s.w.environment(&g, i)
		spoken := s.w.locals[g[i]].facts.spoken()
		var last link
		found, target := false, uint32(0)
		seen, _ := s.w.walk(g[i], &e, func(at, next uint32, by input) bool {
			n := g
			n[i] = next
			s.w.order(&n)
			if n == to && !found {
				last, target, found = link{at, by}, next, true
			}
			return s.w.locals[next].facts.spoken() == spoken
		})
		if found {
			seen[target] = last
			s.tell(i, seen, target)
			return
		}
	}
}

func (s *search) tell(i int, seen map[uint32]link, to uint32) {
	var lines []string
	for {
		l := seen[to]
		if l.at == to {
			break
		}
		name := string(rune('A' + i))
		if s.w.byz == 0 {
			name = fmt.Sprint(s.w.duties[s.w.duty[i]].id)
		}
		lines = append(lines, fmt.Sprintf("%s: %s", name, s.w.describe(l.by)))
		to = l.at
	}
	slices.Reverse(lines)
	s.res.Trace = append(s.res.Trace, lines...)
}

// Speed says how a run went, for progress lines.
func (r Result) Speed(d time.Duration) string {
	return fmt.Sprintf("%s: %d states, depth %d, frontier %d, %d replica states, %.0f states a second", r.Fault, r.States, r.Depth, r.Frontier, r.Locals, float64(r.States)/max(d.Seconds(), 1e-9))
}

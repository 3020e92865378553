package sim

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/atlas-smr/smr"
)

// operation is one call of a client, as it saw it. Ordered and unordered reads of a key are the
// same to the model: both are linearizable.
type operation struct {
	client int
	kind   opKind
	key    string
	value  string // put, cas: the new value
	expect string // cas: the value expected; empty: absent

	// Of the values above and below, their numbers.
	written, expected, read register

	got   string // get: the value
	found bool   // get: the key was there; cas: it swapped

	session   smr.SessionID // ordered: where it ran
	number    smr.OpNumber
	unordered bool
	call, ret time.Duration
	done      bool
}

type opKind uint8

const (
	opGet opKind = iota
	opPut
	opDelete
	opCAS
)

// String renders the operation for a failure report.
func (o operation) String() string {
	names := [...]string{"get", "put", "delete", "cas"}
	mode := ""
	if o.unordered {
		mode = " unordered"
	}
	return fmt.Sprintf("client %d%s %s %s %q expect %q -> %q %v [%s, %s]", o.client, mode, names[o.kind], o.key, brief(o.value), brief(o.expect), brief(o.got), o.found, o.call, o.ret)
}

func brief(s string) string {
	if len(s) > 16 {
		return s[:16] + "…"
	}
	return s
}

// history is what the clients of a run did.
type history struct{ ops []*operation }

func (h *history) begin(o *operation, now time.Duration) {
	o.call = now
	h.ops = append(h.ops, o)
}

// register is the model's state of one key: which value it holds, numbered, 0 for none. Numbers
// compare faster than strings, and comparing states is most of the search.
type register int32

// unknownValue is a value that nobody wrote.
const unknownValue register = -1

// model is the key-value application as porcupine checks it, one key at a time. An operation whose
// result never came may have happened at any time after its call, or never.
var model = porcupine.Model{
	Init:  func() any { return register(0) },
	Equal: func(a, b any) bool { return a.(register) == b.(register) },
	Step: func(state, input, _ any) (bool, any) {
		s, o := state.(register), input.(*operation)
		switch o.kind {
		case opGet:
			return !o.done || o.read == s, state
		case opPut:
			return true, o.written
		case opDelete:
			return !o.done || o.found == (s != 0), register(0)
		case opCAS:
			swap := s == o.expected
			if o.done && o.found != swap {
				return false, state
			}
			if swap {
				return true, o.written
			}
			return true, state
		}
		return false, state
	},
}

// number gives the values of an operation their numbers.
func (h *history) number() {
	numbers := map[string]register{"": 0}
	for _, o := range h.ops {
		if _, ok := numbers[o.value]; !ok {
			numbers[o.value] = register(len(numbers))
		}
	}
	of := func(value string) register {
		if n, ok := numbers[value]; ok {
			return n
		}
		return unknownValue
	}
	for _, o := range h.ops {
		o.written, o.expected, o.read = of(o.value), of(o.expect), of(o.got)
		if o.found && o.got == "" {
			o.read = unknownValue // the key was there, and no operation writes an empty value
		}
	}
}

// checkTimeout bounds the search for a linearization of one key, in real time, where the decided
// order is none.
const checkTimeout = 30 * time.Second

// check demands that every acknowledged ordered operation took effect, and that the history is
// linearizable key by key.
func (h *history) check(c *cluster) {
	h.number()
	byKey := map[string][]porcupine.Operation{}
	var keys []string
	for _, o := range h.ops {
		if o.done && !o.unordered {
			if _, ok := c.oracle.places[opKey{o.session, o.number}]; !ok {
				c.fail("lost: op %d of session %s was acknowledged and is in no state: %s", o.number, o.session, o)
			}
		}
		if !o.done {
			if o.unordered || o.kind == opGet {
				continue // had no effect
			}
			o.ret = c.clk.now + time.Hour
		}
		if _, ok := byKey[o.key]; !ok {
			keys = append(keys, o.key)
		}
		byKey[o.key] = append(byKey[o.key], porcupine.Operation{ClientId: o.client, Input: o, Call: int64(o.call), Return: int64(o.ret)})
	}
	for _, key := range keys {
		if witnessed(byKey[key], c.oracle.places) {
			continue
		}
		switch porcupine.CheckOperationsTimeout(model, byKey[key], checkTimeout) {
		case porcupine.Ok:
		case porcupine.Unknown:
			c.trace.note("linearizability of key %s: no verdict within %s (%d operations)", key, checkTimeout, len(byKey[key]))
		default:
			if c.options.Trace != nil {
				for _, o := range h.ops {
					if o.key == key {
						c.trace.note("%s", o)
					}
				}
			}
			c.fail("not linearizable: key %s, %d operations", key, len(byKey[key]))
		}
	}
}

// witnessed reports whether the decided order, with each unordered read at the first place where it
// fits, is a linearization of the operations on one key. If it is, nothing need be searched for: a
// search takes exponential time when many calls overlap.
func witnessed(ops []porcupine.Operation, places map[opKey]opPlace) bool {
	var order, reads []porcupine.Operation
	for _, op := range ops {
		o := op.Input.(*operation)
		if o.unordered {
			reads = append(reads, op)
		} else if _, ok := places[opKey{o.session, o.number}]; ok {
			order = append(order, op)
		} else if o.done {
			return false
		}
	}
	at := func(op porcupine.Operation) opPlace {
		o := op.Input.(*operation)
		return places[opKey{o.session, o.number}]
	}
	slices.SortFunc(order, func(a, b porcupine.Operation) int {
		x, y := at(a), at(b)
		return cmp.Or(cmp.Compare(x.seq, y.seq), cmp.Compare(x.index, y.index))
	})
	slices.SortStableFunc(reads, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	return linear(merge(order, reads))
}

// merge puts each read, in order of their calls, at the first place after all that had ended before
// it and after the reads that had, where the state is what it returned.
func merge(order, reads []porcupine.Operation) []porcupine.Operation {
	states := []any{model.Init()}
	for _, op := range order {
		_, next := model.Step(states[len(states)-1], op.Input, op.Output)
		states = append(states, next)
	}
	gaps := make([][]porcupine.Operation, len(states))
	for _, r := range reads {
		least := 0
		for i, op := range order {
			if op.Return < r.Call {
				least = i + 1
			}
		}
		for i := len(gaps) - 1; i > least; i-- {
			if slices.ContainsFunc(gaps[i], func(q porcupine.Operation) bool { return q.Return < r.Call }) {
				least = i
			}
		}
		for least < len(states)-1 && states[least] != any(r.Input.(*operation).read) {
			least++
		}
		gaps[least] = append(gaps[least], r)
	}
	merged := slices.Clone(gaps[0])
	for i, op := range order {
		merged = append(append(merged, op), gaps[i+1]...)
	}
	return merged
}

// linear reports whether ops, in this order, do what the model says and put none before one that had
// ended when it was called.
func linear(ops []porcupine.Operation) bool {
	state, called := model.Init(), int64(math.MinInt64)
	for _, op := range ops {
		if op.Return < called {
			return false
		}
		called = max(called, op.Call)
		ok, next := model.Step(state, op.Input, op.Output)
		if !ok {
			return false
		}
		state = next
	}
	return true
}

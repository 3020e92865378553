package sim

import (
	"fmt"
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

// checkTimeout bounds the search for a linearization of one key, in real time; the histories are
// short and it takes milliseconds.
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

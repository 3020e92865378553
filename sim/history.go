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

// register is the model's state of one key.
type register struct {
	value string
	here  bool
}

// model is the key-value application as porcupine checks it, one key at a time. An operation whose
// result never came may have happened at any time after its call, or never.
var model = porcupine.Model{
	Init: func() any { return register{} },
	Step: func(state, input, _ any) (bool, any) {
		s, o := state.(register), input.(*operation)
		switch o.kind {
		case opGet:
			return !o.done || o.found == s.here && o.got == s.value, s
		case opPut:
			return true, register{o.value, true}
		case opDelete:
			return !o.done || o.found == s.here, register{}
		case opCAS:
			swap := s.here == (o.expect != "") && s.value == o.expect
			if o.done && o.found != swap {
				return false, s
			}
			if swap {
				return true, register{o.value, true}
			}
			return true, s
		}
		return false, s
	},
}

// checkTimeout bounds the search for a linearization of one key, in real time; the histories are
// short and it takes milliseconds.
const checkTimeout = 30 * time.Second

// check demands that every acknowledged ordered operation took effect, and that the history is
// linearizable key by key.
func (h *history) check(c *cluster) {
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

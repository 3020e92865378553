package main

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/kv"
)

// event is one call of a client and what came back.
type event struct {
	client    int
	req       kv.Request
	rep       kv.Reply
	seq       smr.SeqNo     // ordered calls: where it was executed; 0: the replicas did not agree on it
	call, ret time.Duration // since the start of the history
}

// history is what all clients saw. It is safe for concurrent use.
type history struct {
	began time.Time

	mu     sync.Mutex
	events []event // guarded by mu
}

func newHistory() *history { return &history{began: time.Now()} }

// now is the time of the history.
func (h *history) now() time.Duration { return time.Since(h.began) }

func (h *history) add(e event) {
	h.mu.Lock()
	h.events = append(h.events, e)
	h.mu.Unlock()
}

// all returns the events in order of their calls.
func (h *history) all() []event {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := slices.Clone(h.events)
	slices.SortStableFunc(out, func(a, b event) int { return int(a.call - b.call) })
	return out
}

// cell is the state of one key in the model: a register that may be empty.
type cell struct {
	found bool
	value string
}

// register is the sequential specification of one key.
var register = porcupine.Model{
	Init: func() any { return cell{} },
	Step: func(state, input, output any) (bool, any) {
		c, req, rep := state.(cell), input.(kv.Request), output.(kv.Reply)
		switch req.Op {
		case kv.OpPut:
			return rep.Status == kv.StatusOK, cell{true, string(req.Value)}
		case kv.OpDelete:
			return (rep.Status == kv.StatusOK) == c.found, cell{}
		case kv.OpCAS:
			match := c.found != req.Absent && (!c.found || c.value == string(req.Expect))
			if (rep.Status == kv.StatusOK) != match {
				return false, c
			}
			if match {
				return true, cell{true, string(req.Value)}
			}
			return rep.Found == c.found && string(rep.Value) == c.value, c
		default:
			return rep.Found == c.found && string(rep.Value) == c.value, c
		}
	},
}

// linearizable checks a history key by key: a store of independent registers is linearizable if each
// register is. It returns a key whose history is not, if there is one, and whether every check came
// to an end in the time allowed.
func linearizable(events []event, limit time.Duration) (bad string, ok, finished bool) {
	keys := map[string][]porcupine.Operation{}
	var order []string
	for _, e := range events {
		if _, seen := keys[e.req.Key]; !seen {
			order = append(order, e.req.Key)
		}
		keys[e.req.Key] = append(keys[e.req.Key], porcupine.Operation{
			ClientId: e.client, Input: e.req, Call: int64(e.call), Output: e.rep, Return: int64(e.ret),
		})
	}
	deadline := time.Now().Add(limit)
	finished = true
	for _, k := range order {
		switch porcupine.CheckOperationsTimeout(register, keys[k], max(time.Until(deadline), time.Millisecond)) {
		case porcupine.Illegal:
			return k, false, true
		case porcupine.Unknown:
			bad, finished = k, false
		}
	}
	return bad, finished, finished
}

// sameValue reports whether a read found exactly want.
func sameValue(found bool, got, want []byte) bool { return found && bytes.Equal(got, want) }

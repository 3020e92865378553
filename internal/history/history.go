// Package history records what clients of the key-value service saw and judges it: whether it is
// linearizable (porcupine), and whether what was acknowledged is what the replicas hold.
package history

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/kv"
)

// Event is one call of a client and what came back.
type Event struct {
	Client    int
	Req       kv.Request
	Rep       kv.Reply
	Seq       smr.SeqNo     // ordered calls: where it was executed; 0: the replicas did not agree on it
	Call, Ret time.Duration // since the start of the history
	Open      bool          // nobody knows the outcome: it may have had its effect at any time after Call, or never
}

// History is what all clients saw. It is safe for concurrent use.
type History struct {
	began time.Time

	mu     sync.Mutex
	events []Event // guarded by mu
}

// New returns a history that begins now.
func New() *History { return &History{began: time.Now()} }

// Now is the time of the history.
func (h *History) Now() time.Duration { return time.Since(h.began) }

// Add records an event.
func (h *History) Add(e Event) {
	h.mu.Lock()
	h.events = append(h.events, e)
	h.mu.Unlock()
}

// All returns the events in order of their calls.
func (h *History) All() []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := slices.Clone(h.events)
	slices.SortStableFunc(out, func(a, b Event) int { return int(a.Call - b.Call) })
	return out
}

// cell is the state of one key in the model: a register that may be empty.
type cell struct {
	found bool
	value string
}

// register is the sequential specification of one key. The output of an open call is nil.
var register = porcupine.Model{
	Init: func() any { return cell{} },
	Step: func(state, input, output any) (bool, any) {
		c, req := state.(cell), input.(kv.Request)
		rep, known := output.(kv.Reply)
		switch req.Op {
		case kv.OpPut:
			return !known || rep.Status == kv.StatusOK, cell{true, string(req.Value)}
		case kv.OpDelete:
			return !known || (rep.Status == kv.StatusOK) == c.found, cell{}
		case kv.OpCAS:
			match := c.found != req.Absent && (!c.found || c.value == string(req.Expect))
			if known && (rep.Status == kv.StatusOK) != match {
				return false, c
			}
			if match {
				return true, cell{true, string(req.Value)}
			}
			return !known || rep.Found == c.found && string(rep.Value) == c.value, c
		default:
			return !known || rep.Found == c.found && string(rep.Value) == c.value, c
		}
	},
}

// Linearizable checks a history key by key: a store of independent registers is linearizable if each
// register is. It returns a key whose history is not, if there is one, and whether every check came
// to an end within limit.
func Linearizable(events []Event, limit time.Duration) (bad string, ok, finished bool) {
	keys := map[string][]porcupine.Operation{}
	var order []string
	for _, e := range events {
		if e.Open && !e.Req.Writes() {
			continue // it had no effect, and nobody saw what it read
		}
		if _, seen := keys[e.Req.Key]; !seen {
			order = append(order, e.Req.Key)
		}
		op := porcupine.Operation{ClientId: e.Client, Input: e.Req, Call: int64(e.Call), Output: e.Rep, Return: int64(e.Ret)}
		if e.Open {
			op.Output, op.Return = nil, math.MaxInt64
		}
		keys[e.Req.Key] = append(keys[e.Req.Key], op)
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

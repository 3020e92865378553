package sim

import (
	"testing"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"

	"github.com/atlas-smr/smr"
)

// What the decided order shows to be linearizable, a search finds linearizable too; and a correct
// register's history needs no search.
func TestAWitnessedHistoryIsLinearizable(t *testing.T) {
	accepted, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		places := map[opKey]opPlace{}
		var ops []porcupine.Operation
		state := register(0)
		honest := rapid.Bool().Draw(t, "honest")
		n := rapid.IntRange(1, 9).Draw(t, "n")
		for i := range n {
			o := &operation{kind: opKind(rapid.IntRange(0, 3).Draw(t, "kind")), done: true, number: smr.OpNumber(i + 1), session: 1}
			o.written, o.expected = register(i+1), register(rapid.IntRange(0, n).Draw(t, "expect"))
			o.unordered = o.kind == opGet && rapid.Bool().Draw(t, "unordered")
			o.read, o.found = state, state != 0
			if o.kind == opCAS {
				o.found = state == o.expected
			}
			if !honest && rapid.Bool().Draw(t, "lie") {
				o.read, o.found = register(rapid.IntRange(0, n).Draw(t, "read")), rapid.Bool().Draw(t, "found")
			}
			_, next := model.Step(state, o, nil)
			state = next.(register)
			if !o.unordered {
				places[opKey{1, o.number}] = opPlace{seq: smr.SeqNo(i + 1)}
			}
			at := int64(10 * i)
			back, on := rapid.Int64Range(0, 25).Draw(t, "back"), rapid.Int64Range(0, 25).Draw(t, "on")
			if !honest {
				at = rapid.Int64Range(0, int64(10*n)).Draw(t, "at")
			}
			ops = append(ops, porcupine.Operation{ClientId: i, Input: o, Call: at - back, Return: at + on})
		}
		ok := witnessed(ops, places)
		if ok && !porcupine.CheckOperations(model, ops) {
			t.Fatalf("witnessed, and not linearizable: %v", ops)
		}
		if honest && !ok && len(places) == n { // an unordered read may fit an earlier place than its own
			t.Fatalf("an honest history of ordered calls is not witnessed: %v", ops)
		}
		if ok {
			accepted++
		} else {
			refused++
		}
	})
	if accepted == 0 || refused == 0 {
		t.Errorf("%d accepted, %d refused: the test shows one side only", accepted, refused)
	}
}

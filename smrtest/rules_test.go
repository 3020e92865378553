package smrtest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/atlas-smr/smr"
)

// tally counts ops by their bytes, and breaks the rule it is told to.
type tally struct {
	smr.MonolithicState
	breaks string
	noise  int
	count  map[string]int
	order  []string
}

var instances int

func newTally(breaks string) smr.Service {
	instances++
	return &tally{breaks: breaks, noise: instances, count: map[string]int{}}
}

func (a *tally) Validate([]byte) error { return nil }
func (a *tally) State() smr.State {
	if a.breaks == "no state" {
		return nil
	}
	return a
}

func (a *tally) Execute(_ *smr.Context, op, dst []byte) ([]byte, error) {
	if a.breaks == "reply" {
		return fmt.Appendf(dst, "%d", a.noise), nil
	}
	if a.count[string(op)]++; a.count[string(op)] == 1 {
		a.order = append(a.order, string(op))
	}
	return fmt.Appendf(dst, "%d", a.count[string(op)]), nil
}

func (a *tally) Query(_ *smr.QueryContext, op, dst []byte) ([]byte, error) {
	if a.breaks == "query" {
		a.count[a.order[0]]++
	}
	return fmt.Appendf(dst, "%d", a.count[string(op)]), nil
}

func (a *tally) text() string {
	var b strings.Builder
	if a.breaks == "state" {
		fmt.Fprintln(&b, a.noise, 1)
	}
	for _, op := range a.order {
		fmt.Fprintln(&b, op, a.count[op])
	}
	return b.String()
}

type frozenTally struct {
	a    *tally
	text string
}

func (a *tally) Freeze() smr.Frozen { return &frozenTally{a, a.text()} }
func (f *frozenTally) Release()     {}
func (f *frozenTally) WriteTo(w io.Writer) (int64, error) {
	if f.a.breaks == "capture" {
		f.text = f.a.text()
	}
	n, err := io.WriteString(w, f.text)
	return int64(n), err
}

func (a *tally) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	a.count, a.order = map[string]int{}, nil
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		var op string
		var n int
		if _, err := fmt.Sscan(line, &op, &n); err != nil {
			return err
		}
		if a.breaks == "restore" {
			n++
		}
		a.count[op] = n
		a.order = append(a.order, op)
	}
	return err
}

func draw(rng *rand.Rand) []byte { return fmt.Appendf(nil, "op%d", rng.IntN(40)) }

func TestAGoodApplicationPasses(t *testing.T) {
	Application(t, func() smr.Service { return newTally("") }, draw)
}

// recorder notes failures instead of failing.
type recorder struct {
	testing.TB
	errs []string
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, a ...any) {
	r.errs = append(r.errs, fmt.Sprintf(format, a...))
}

func TestEachBrokenRuleIsNoticed(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	ops := make([][]byte, 100)
	for i := range ops {
		ops[i] = draw(rng)
	}
	for breaks, want := range map[string]string{
		"": "", "reply": "one instance replied", "state": "different states", "query": "Query changed",
		"restore": "written differently", "capture": "a capture changed", "no state": "cannot be checkpointed",
	} {
		r := &recorder{TB: t}
		check(r, func() smr.Service { return newTally(breaks) }, ops)
		if got := strings.Join(r.errs, "\n"); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%q: %s", breaks, got)
		}
	}
}

// pieces is a tally as divisible state, a part for each last byte of an op; it breaks the rule it is
// told to.
type pieces struct {
	smr.DivisibleState
	breaks   string
	captures int
	count    map[string]int
}

func newPieces(breaks string) smr.Service { return &pieces{breaks: breaks, count: map[string]int{}} }

func (a *pieces) Validate([]byte) error { return nil }
func (a *pieces) State() smr.State      { return a }

func (a *pieces) Execute(_ *smr.Context, op, dst []byte) ([]byte, error) {
	a.count[string(op)]++
	return fmt.Appendf(dst, "%d", a.count[string(op)]), nil
}

func (a *pieces) Query(_ *smr.QueryContext, op, dst []byte) ([]byte, error) {
	return fmt.Appendf(dst, "%d", a.count[string(op)]), nil
}

type frozenPieces struct {
	a     *pieces
	parts []part
}

func (a *pieces) Freeze() smr.FrozenParts {
	a.captures++
	f := &frozenPieces{a: a}
	for last := byte('0'); last <= '9'; last++ {
		var b []byte
		for _, op := range slices.Sorted(maps.Keys(a.count)) {
			if op[len(op)-1] == last {
				b = fmt.Appendf(b, "%s %d\n", op, a.count[op])
			}
		}
		if a.breaks == "captures" && len(b) > 0 {
			b = fmt.Appendf(b, "op%c %d\n", last, a.captures)
		}
		if len(b) > 0 {
			f.parts = append(f.parts, part{smr.PartInfo{ID: smr.PartID(last), Bytes: uint64(len(b)), Digest: sha256.Sum256(b)}, b})
		}
	}
	switch {
	case a.breaks == "order":
		slices.Reverse(f.parts)
	case a.breaks == "digest" && len(f.parts) > 0:
		f.parts[0].Digest[0]++
	}
	return f
}

func (f *frozenPieces) Release() {}

func (f *frozenPieces) Parts() (infos []smr.PartInfo, err error) {
	for _, p := range f.parts {
		infos = append(infos, p.PartInfo)
	}
	return infos, nil
}

func (f *frozenPieces) ReadPart(dst []byte, id smr.PartID) ([]byte, error) {
	for _, p := range f.parts {
		if p.ID == id {
			return append(dst, p.data...), nil
		}
	}
	return dst, fmt.Errorf("no part %d", id)
}

func (a *pieces) Reset() error {
	if a.breaks != "reset" {
		a.count = map[string]int{}
	}
	return nil
}

type piecesWriter struct {
	a    *pieces
	next map[string]int
	kept [][]byte
}

func (a *pieces) Begin() smr.PartWriter { return &piecesWriter{a: a, next: maps.Clone(a.count)} }

func (w *piecesWriter) Put(info smr.PartInfo, data []byte) error {
	if w.a.breaks == "keeps data" {
		w.kept = append(w.kept, data)
		return nil
	}
	if w.a.breaks != "merges" {
		_ = w.drop(info.ID)
	}
	return w.take(data)
}

func (w *piecesWriter) take(data []byte) error {
	for line := range strings.Lines(string(data)) {
		var op string
		var n int
		if _, err := fmt.Sscan(line, &op, &n); err != nil {
			return err
		}
		w.next[op] = n
	}
	return nil
}

func (w *piecesWriter) drop(id smr.PartID) error {
	maps.DeleteFunc(w.next, func(op string, _ int) bool { return op[len(op)-1] == byte(id) })
	return nil
}

func (w *piecesWriter) Delete(id smr.PartID) error {
	if w.a.breaks == "delete" {
		return nil
	}
	return w.drop(id)
}

func (w *piecesWriter) Commit() error {
	for _, data := range w.kept {
		_ = w.take(data)
	}
	w.a.count = w.next
	return nil
}

func (w *piecesWriter) Abort() {
	if w.a.breaks == "abort" {
		w.a.count = map[string]int{}
	}
}

func TestEachBrokenRuleOfDivisibleStateIsNoticed(t *testing.T) {
	ops := make([][]byte, 100)
	for i := range ops {
		ops[i] = fmt.Appendf(nil, "op%d%d", i/10, i%2+i/80) // later there are other ops in old parts, and other parts
	}
	for breaks, want := range map[string]string{
		"": "", "order": "ids must ascend", "digest": "is listed with", "captures": "Query changed", "reset": "after Reset",
		"merges": "went back to an earlier one", "delete": "went back to an earlier one", "abort": "given up", "keeps data": "written differently",
	} {
		r := &recorder{TB: t}
		check(r, func() smr.Service { return newPieces(breaks) }, ops)
		if got := strings.Join(r.errs, "\n"); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%q: %s", breaks, got)
		}
	}
}

package smrtest

import (
	"fmt"
	"io"
	"math/rand/v2"
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

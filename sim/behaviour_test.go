package sim_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/sim"
	"github.com/atlas-smr/smr/sim/adversary"
	"github.com/atlas-smr/smr/wire"
)

// mischief counts what strategies do to the frames they are given, by class and kind.
type mischief struct{ changed, dropped, delayed, kept map[string]int }

func newMischief() *mischief {
	return &mischief{map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}}
}

// counting is a strategy that is watched.
type counting struct {
	*adversary.Strategy
	*mischief
}

func nameOf(class wire.Class, kind uint8) string {
	if class == wire.ClassProtocol {
		names := []string{"", "proposal", "prepare", "commit", "certificate", "complaint", "timeout", "timeout-certificate", "heartbeat", "ask", "answer"}
		if int(kind) < len(names) {
			return names[kind]
		}
	}
	return fmt.Sprintf("%s/%d", class, kind)
}

func (c *counting) Outgoing(now time.Time, to auth.Identity, class wire.Class, kind uint8, payload []byte, emit sim.Emit) {
	same := false
	c.Strategy.Outgoing(now, to, class, kind, payload, func(after time.Duration, to auth.Identity, cl wire.Class, k uint8, p []byte) {
		if cl == class && k == kind && bytes.Equal(p, payload) {
			same = true
			if after > 0 {
				c.delayed[nameOf(class, kind)]++
			}
		} else {
			c.changed[nameOf(cl, k)]++
		}
		emit(after, to, cl, k, p)
	})
	if !same {
		c.dropped[nameOf(class, kind)]++
	}
}

func (c *counting) Incoming(now time.Time, from auth.Identity, class wire.Class, kind uint8, payload []byte, emit sim.Emit) []byte {
	p := c.Strategy.Incoming(now, from, class, kind, payload, func(after time.Duration, to auth.Identity, cl wire.Class, k uint8, b []byte) {
		c.changed[nameOf(cl, k)]++
		emit(after, to, cl, k, b)
	})
	if !bytes.Equal(p, payload) {
		c.kept[nameOf(class, kind)]++
	}
	return p
}

// watched returns options whose strategies are counted.
func watched(m *mischief) sim.Options {
	o := options()
	o.Adversaries = func(behaviour string, members []sim.AdversaryConfig) ([]sim.Adversary, error) {
		made, err := newStrategies(behaviour, members)
		out := make([]sim.Adversary, len(made))
		for i, s := range made {
			out[i] = &counting{s, m}
		}
		return out, err
	}
	return o
}

// misbehaviour says what each behaviour must be seen to do.
var misbehaviour = map[string]struct{ changed, dropped, delayed, kept []string }{
	"equivocate":      {changed: []string{"proposal", "prepare", "commit"}},
	"two-new-views":   {changed: []string{"proposal", "prepare"}},
	"lie":             {changed: []string{"timeout"}},
	"withhold":        {dropped: []string{"proposal", "forwarded-requests/0"}},
	"silent":          {dropped: []string{"proposal", "prepare", "ordered-reply/0"}},
	"selective":       {dropped: []string{"proposal", "prepare", "commit", "ordered-reply/0"}},
	"quorum-only":     {dropped: []string{"proposal", "prepare", "commit"}},
	"vote-for-all":    {changed: []string{"prepare", "commit"}},
	"forge":           {changed: []string{"certificate", "timeout", "timeout-certificate", "heartbeat", "checkpoint/4"}},
	"replay":          {changed: []string{"proposal", "prepare", "timeout", "forwarded-protocol/0"}},
	"garbage":         {changed: []string{"proposal", "prepare", "fetch/0", "reconfiguration/0"}},
	"wrong-roots":     {changed: []string{"checkpoint/3"}},
	"bad-answers":     {changed: []string{"log-transfer/2", "view-transfer/2", "forwarded-requests/0", "answer"}},
	"slow-primary":    {delayed: []string{"proposal"}},
	"censor":          {kept: []string{"ordered-request/0", "forwarded-requests/0"}},
	"duplicates":      {changed: []string{"proposal", "prepare"}},
	"empty-batches":   {changed: []string{"proposal", "prepare"}},
	"heartbeats-only": {kept: []string{"ordered-request/0"}},
	"bad-proposals":   {changed: []string{"proposal"}},
	"view-storm":      {changed: []string{"complaint", "timeout"}},
	"disorder":        {delayed: []string{"proposal", "prepare", "commit"}},
	"inflate":         {changed: []string{"prepare", "commit", "complaint", "timeout", "heartbeat", "ask", "view-transfer/2", "unordered-reply/0", "checkpoint/3"}},
	"wrong-replies":   {changed: []string{"ordered-reply/0", "unordered-reply/0", "advice/0"}},
	"bad-parts":       {changed: []string{"state-transfer/2"}},
	"mix":             {changed: []string{"proposal", "prepare", "commit", "timeout"}, dropped: []string{"proposal"}, delayed: []string{"proposal"}, kept: []string{"ordered-request/0"}},
}

func TestEveryBehaviourMisbehaves(t *testing.T) {
	for _, behaviour := range adversary.Behaviours() {
		t.Run(behaviour, func(t *testing.T) {
			want, ok := misbehaviour[behaviour]
			if !ok {
				t.Fatal("nothing says what it does")
			}
			m := newMischief()
			o := watched(m)
			o.Scenario = behaviour
			for seed := range uint64(16) {
				run(t, seed, o)
			}
			for what, x := range map[string]struct {
				did  map[string]int
				want []string
			}{"changed": {m.changed, want.changed}, "dropped": {m.dropped, want.dropped}, "delayed": {m.delayed, want.delayed}, "kept from the engine": {m.kept, want.kept}} {
				for _, k := range x.want {
					if x.did[k] == 0 {
						t.Errorf("no %s was %s: %v", k, what, x.did)
					}
				}
			}
		})
	}
}

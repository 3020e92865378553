package sim_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/sim"
	"github.com/atlas-smr/smr/sim/adversary"
	"github.com/atlas-smr/smr/wire"
)

// counting counts what a strategy does to the frames it is given, by kind of protocol message.
type counting struct {
	*adversary.Strategy
	changed, dropped map[uint8]int
}

func (c *counting) Outgoing(now time.Time, to smr.NodeID, class wire.Class, kind uint8, payload []byte, emit func(smr.NodeID, wire.Class, uint8, []byte)) {
	same, any := false, false
	c.Strategy.Outgoing(now, to, class, kind, payload, func(to smr.NodeID, cl wire.Class, k uint8, p []byte) {
		any = true
		if k == kind && bytes.Equal(p, payload) {
			same = true
		} else if class == wire.ClassProtocol {
			c.changed[k]++
		}
		emit(to, cl, k, p)
	})
	if !any && !same && class == wire.ClassProtocol {
		c.dropped[kind]++
	}
}

func TestEveryBehaviourMisbehaves(t *testing.T) {
	const proposal, prepare, commit, timeout = 1, 2, 3, 6
	for behaviour, want := range map[string]struct{ changed, dropped []uint8 }{
		"equivocate":    {changed: []uint8{proposal, prepare, commit}},
		"two-new-views": {changed: []uint8{proposal, prepare}},
		"lie":           {changed: []uint8{proposal, timeout}},
		"withhold":      {dropped: []uint8{proposal}},
		"silent":        {dropped: []uint8{proposal, prepare}},
	} {
		t.Run(behaviour, func(t *testing.T) {
			changed, dropped := map[uint8]int{}, map[uint8]int{}
			o := options()
			o.Scenario = behaviour
			o.Adversary = func(c sim.AdversaryConfig) (sim.Adversary, error) {
				s, err := adversary.New(c.Behaviour, c.Self, c.Membership, c.Verifier, c.Signer, c.Rand)
				return &counting{s, changed, dropped}, err
			}
			for seed := range uint64(24) {
				run(t, seed, o)
			}
			t.Logf("changed %v, dropped %v", changed, dropped)
			for _, k := range want.changed {
				if changed[k] == 0 {
					t.Errorf("no message of kind %d was changed", k)
				}
			}
			for _, k := range want.dropped {
				if dropped[k] == 0 {
					t.Errorf("no message of kind %d was dropped", k)
				}
			}
		})
	}
}

package sim

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/wire"
)

// badReplicaScenarios are the behaviours of Byzantine replicas that need no more than a little of the
// other faults.
var badReplicaScenarios = func() []scenario {
	var all []scenario
	for _, name := range []string{
		"selective", "quorum-only", "vote-for-all", "forge", "replay", "garbage", "wrong-roots", "bad-answers", "slow-primary", "censor",
		"duplicates", "empty-batches", "heartbeats-only", "bad-proposals", "view-storm", "disorder", "inflate", "wrong-replies", "mix",
	} {
		all = append(all, scenario{name, true, func(r random, p *draft) {
			p.Behaviour = name
			p.want(FaultIsolate, r.IntN(2))
			switch name {
			case "bad-answers", "wrong-roots", "wrong-replies", "inflate":
				p.want(FaultCrash, 1+r.IntN(4)) // so that somebody asks
			case "mix":
				p.want(FaultPartition, r.IntN(3))
				p.want(FaultPowerLoss, r.IntN(2))
			}
		}})
	}
	return all
}()

// corrupt puts the plan's behaviour between the Byzantine replicas and the network.
func (c *cluster) corrupt(liars []AdversaryConfig) error {
	if len(liars) == 0 {
		return nil
	}
	made, err := c.options.Adversaries(c.plan.Behaviour, liars)
	if err != nil {
		return err
	}
	for i, a := range made {
		c.nodes[liars[i].Self-1].adversary = a
	}
	return nil
}

// emit sends what an adversary makes of the replica's frames.
func (n *node) emit(after time.Duration, to auth.Identity, class wire.Class, kind uint8, payload []byte) {
	if after == 0 {
		n.c.net.send(auth.NodeIdentity(n.id), to, class, kind, payload)
		return
	}
	n.c.clk.after(after, func() { n.c.net.send(auth.NodeIdentity(n.id), to, class, kind, payload) })
}

// refuse drops what a client sent: a correct one does not send it.
func (n *node) refuse(client smr.ClientID, format string, args ...any) {
	if int(client) <= len(n.c.clients) {
		n.c.fail("client %d: "+format, append([]any{client}, args...)...)
	}
	n.c.counts.BadRefused++
}

package sim

import (
	"io"
	"math/rand/v2"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// Options says what to simulate. Whatever is zero is drawn from the seed.
type Options struct {
	// Factory is the ordering; required.
	Factory protocol.Factory
	// Adversary makes the behaviour of a Byzantine replica; required for the byzantine scenarios,
	// which are left out of the draw without it.
	Adversary func(AdversaryConfig) (Adversary, error)
	// Replicas is the cluster size; 0 draws 4 to 10.
	Replicas int
	// Scenario is one of Scenarios(); empty draws one.
	Scenario string
	// Plan, if set, is run instead of what Draw would make of the seed, Replicas and Scenario.
	Plan *Plan
	// Trace, if set, receives a readable line for everything that happens.
	Trace io.Writer

	// ignoreReadGate makes replicas answer unordered requests before they executed what a quorum
	// may have acknowledged: a known bug that the run must find. Only this package's tests can set it.
	ignoreReadGate bool
}

// AdversaryConfig is what a Byzantine replica knows: its own key, the public facts, and a random
// source of its own.
type AdversaryConfig struct {
	Behaviour  string
	Self       smr.NodeID
	Membership *quorum.Membership
	Verifier   *auth.Verifier
	Signer     auth.Signer
	Rand       *rand.Rand
}

// Adversary rewrites what a replica sends. The replica behind it is an honest engine.
type Adversary interface {
	// Incoming shows it what the replica receives; the honest engine receives it too.
	Incoming(from smr.NodeID, class wire.Class, kind uint8, payload []byte)
	// Outgoing is called for each frame that the replica would send, with virtual time now. What
	// the adversary passes to emit is sent instead, from this replica, to any other.
	Outgoing(now time.Time, to smr.NodeID, class wire.Class, kind uint8, payload []byte, emit func(to smr.NodeID, class wire.Class, kind uint8, payload []byte))
}

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
	// Adversaries makes the behaviour of the Byzantine replicas, which may share what they know, in
	// the order given; required for the byzantine scenarios, which are left out of the draw without it.
	Adversaries func(behaviour string, members []AdversaryConfig) ([]Adversary, error)
	// Replicas is the cluster size; 0 draws 4 to 10.
	Replicas int
	// Scenario is one of Scenarios(); empty draws one.
	Scenario string
	// Plan, if set, is run instead of what Draw would make of the seed, Replicas and Scenario.
	Plan *Plan
	// Trace, if set, receives a readable line for everything that happens.
	Trace io.Writer
}

// AdversaryConfig is what a Byzantine replica knows: its own key, the public facts, the timeout of a
// first view, and a random source of its own.
type AdversaryConfig struct {
	Self       smr.NodeID
	Membership *quorum.Membership
	Verifier   *auth.Verifier
	Signer     auth.Signer
	Rand       *rand.Rand
	Timeout    time.Duration
}

// Emit sends a frame in a replica's name, after a while.
type Emit = func(after time.Duration, to auth.Identity, class wire.Class, kind uint8, payload []byte)

// Adversary rewrites what a replica sends and receives. The replica behind it is an honest engine.
type Adversary interface {
	// Incoming is called for each frame that the replica receives from a replica or client, with
	// virtual time now. The honest engine gets what it returns instead; nil for nothing.
	Incoming(now time.Time, from auth.Identity, class wire.Class, kind uint8, payload []byte, emit Emit) []byte
	// Outgoing is called for each frame that the replica would send. What the adversary passes to
	// emit is sent instead, from this replica, to anybody.
	Outgoing(now time.Time, to auth.Identity, class wire.Class, kind uint8, payload []byte, emit Emit)
}

package execution

import (
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
)

// blockBytes is the size at which a run of cached replies is closed and another begun.
const blockBytes = 256 << 10

// blockOverhead is what a block of cached replies is charged beyond its bytes.
const blockOverhead = 64

// Limits bound the session table. They are part of the replicated rules: replicas of one cluster
// must be given equal limits, or their states part.
type Limits struct {
	// Sessions is the number of sessions of all clients together; a full table refuses opens of
	// clients that have none to give up.
	Sessions int
	// SessionsPerClient is one client's quota; an open beyond it evicts that client's least
	// recently used session.
	SessionsPerClient int
	// ReplyCacheBytes bounds the cached replies of one session; beyond it the oldest go.
	ReplyCacheBytes int
}

// DefaultLimits returns the limits a cluster has unless its genesis says otherwise.
func DefaultLimits() Limits {
	return Limits{Sessions: 16384, SessionsPerClient: 16, ReplyCacheBytes: 2 << 20}
}

// Validate reports every limit that cannot work.
func (l Limits) Validate() error {
	var errs []error
	if l.SessionsPerClient < 1 || l.Sessions < l.SessionsPerClient {
		errs = append(errs, fmt.Errorf("sessions: need 1 <= per client (%d) <= in all (%d)", l.SessionsPerClient, l.Sessions))
	}
	if least := smr.MaxReplyBytes + blockBytes + 1024; l.ReplyCacheBytes < least {
		errs = append(errs, fmt.Errorf("reply cache of %d bytes a session: at least %d, one block with one reply of full size", l.ReplyCacheBytes, least))
	}
	return errors.Join(errs...)
}

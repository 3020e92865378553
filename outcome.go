package smr

// Outcome is what became of an ordered op or session open on the replicated state. It is the
// result of deterministic execution: correct replicas report the same one.
type Outcome uint8

// The outcomes. Everything but OutcomeExecuted means that the op had no effect, except
// OutcomeReplyGone.
const (
	OutcomeUnknown      Outcome = 0  // never sent by a correct replica
	OutcomeExecuted     Outcome = 1  // the reply (or the session id) is attached
	OutcomeMalformed    Outcome = 2  // the application's codec refused the op; the op number is consumed
	OutcomeNoSession    Outcome = 3  // unknown, evicted, or another client's session
	OutcomeNotAdmitted  Outcome = 4  // the client key is not admitted
	OutcomeTableFull    Outcome = 5  // open refused: no room and nothing of this client to evict
	OutcomeStaleNonce   Outcome = 6  // open with a nonce below the client's last one
	OutcomeBeyondWindow Outcome = 7  // op number further ahead than the session window; not consumed
	OutcomeReplyGone    Outcome = 8  // executed earlier; its reply is no longer cached
	OutcomeSkipped      Outcome = 9  // passed over by an operator's skip; the op number is consumed
	OutcomeTooLarge     Outcome = 10 // the reply exceeded the limit; effects of the op stand, the reply does not travel
)

var outcomeNames = [...]string{
	"unknown", "executed", "malformed", "no session", "not admitted", "session table full",
	"stale nonce", "beyond window", "reply gone", "skipped", "reply too large",
}

// String names the outcome.
func (o Outcome) String() string {
	if int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return "invalid outcome"
}

// Limits on what the framework carries. A cluster may lower them in its genesis, never raise them.
const (
	MaxOpBytes      = 1 << 20        // one op
	MaxReplyBytes   = 1 << 20        // one reply
	MaxBundleBytes  = 1<<20 + 64<<10 // ops of a bundle and its overhead, encoded
	MaxBundleOps    = 4096           // ops in one bundle
	MaxBatchBundles = 4096           // bundles in one batch
	MaxBatchBytes   = 8 << 20        // encoded bundles of one batch
	MaxPartBytes    = 4 << 20        // one part of a checkpoint
	MaxParts        = 1 << 24        // parts of one state
	SessionWindow   = 4096           // ops of a session that may be outstanding at once
)

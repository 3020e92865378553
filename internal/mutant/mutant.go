// Package mutant names known bugs that tests put back on purpose, to see that they are found: a
// simulator or a model checker that misses one of them is the defect.
//
// Where a rule stands in the code a line `if mutant.On(mutant.X)` breaks it. Without the build tag
// `mutant` On is the constant false, and the compiler leaves nothing of such a line. With the tag
// the environment variable SMR_MUTANT chooses one mutant for the whole process; with the variable
// empty the process behaves as it should.
//
// A mutant is one rule left out, wherever the rule takes more than one line: all replicas and
// clients of the process have it.
package mutant

import "strings"

// Name names a mutant. The zero value is none.
type Name uint8

// The mutants. What each one breaks is the text beside it.
const (
	None Name = iota

	// Quorums and certificates.
	WeakQuorum         // every quorum is f+1: a commit needs no more
	TimeoutsOneShort   // a timeout certificate holds one timeout less than a quorum
	CommitUnprepared   // a replica commits what it accepted, before it is prepared
	LowestLock         // a new view extends the lowest lock that its timeouts name
	ParentUnchecked    // a proposal need not extend the tip
	CommitAfterTimeout // a replica commits in a view that it timed out of
	LockNotRaised      // a commit vote raises no lock
	ReleaseDropped     // bundles of a proposal that a view change passed over stay in flight
	NothingResent      // what was lost is not sent again
	TimerEndsEarly     // the clock over the primary stops at its proposal, not at the decision

	// Durability.
	VoteBeforeDurable    // votes leave before they are durable
	OwnVoteBeforeDurable // a replica counts its own vote before it is durable
	VoteForgotten        // a restart forgets the own votes
	TimeoutForgotten     // a restart forgets the own timeout
	LockForgotten        // a restart forgets the lock
	LeadsAgain           // a primary that restarted proposes again in the view it led
	LogOffByOne          // a restart reads the log from one decision too far above the checkpoint

	// Sessions and state.
	SessionsNotSaved // a checkpoint lacks the session table
	SeenUnchecked    // an op that was executed before is executed again
	DoneForgotten    // when a client acknowledges replies, all ops of its window are forgotten

	// Reads and clients.
	ReadGateOpen      // a replica answers reads right after a start
	WeakReads         // f+1 equal answers complete a read
	VoterCountedTwice // a replica that answers twice counts twice
	StaleReply        // the answer to an older read counts for the newest
	NoRetry           // a client sends each request once

	count
)

var names = [count]string{
	"none",
	"weak-quorum", "timeouts-one-short", "commit-unprepared", "lowest-lock", "parent-unchecked",
	"commit-after-timeout", "lock-not-raised", "release-dropped", "nothing-resent", "timer-ends-early",
	"vote-before-durable", "own-vote-before-durable", "vote-forgotten", "timeout-forgotten", "lock-forgotten", "leads-again", "log-off-by-one",
	"sessions-not-saved", "seen-unchecked", "done-forgotten",
	"read-gate-open", "weak-reads", "voter-counted-twice", "stale-reply", "no-retry",
}

// Env is the environment variable that chooses the mutant of a process built with the tag.
const Env = "SMR_MUTANT"

// String returns the name as the environment variable has it.
func (n Name) String() string { return names[n] }

// All returns every mutant but None.
func All() []Name {
	all := make([]Name, 0, count)
	for n := None + 1; n < count; n++ {
		all = append(all, n)
	}
	return all
}

// Parse returns the mutant of a name; an unknown one panics with the names there are, since only
// tests choose mutants.
func Parse(name string) Name {
	for n, s := range names {
		if s == name {
			return Name(n)
		}
	}
	panic("unknown mutant " + name + "; there are: " + strings.Join(names[:], " "))
}

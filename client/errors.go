package client

import (
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/wire"
)

// The two fates of a call that did not return a reply. Every error of an ordered call wraps exactly
// one of them.
var (
	// ErrNotExecuted: the op has had no effect and never will.
	ErrNotExecuted = errors.New("not executed")
	// ErrUnknown: the op may have had its effect, at most once; see Client.Retry.
	ErrUnknown = errors.New("outcome unknown")
)

// ErrClosed is wrapped by the errors of calls that Close ended, beside their fate.
var ErrClosed = errors.New("client closed")

// OutcomeError is a quorum's ordered outcome other than "executed with reply". It wraps the fate
// that follows from it.
type OutcomeError struct {
	Outcome smr.Outcome
	fate    error
}

// Error implements error.
func (e *OutcomeError) Error() string { return fmt.Sprintf("%s: %s", e.fate, e.Outcome) }

// Unwrap returns the fate: ErrNotExecuted or ErrUnknown.
func (e *OutcomeError) Unwrap() error { return e.fate }

// Executed reports whether the outcome proves that the op was handed to the application once, though
// its reply cannot be had (which may have been that its codec refuses the op).
func (e *OutcomeError) Executed() bool {
	return e.fate == ErrUnknown && (e.Outcome == smr.OutcomeReplyGone || e.Outcome == smr.OutcomeTooLarge)
}

// outcomeOf returns the error for a final ordered outcome of an op.
func outcomeOf(o smr.Outcome) error {
	switch o {
	case smr.OutcomeMalformed, smr.OutcomeSkipped:
		return &OutcomeError{Outcome: o, fate: ErrNotExecuted}
	}
	return &OutcomeError{Outcome: o, fate: ErrUnknown}
}

// AdviceError says that so many replicas refuse to propose an op that one of them is correct.
type AdviceError struct {
	Code wire.AdviceCode
	Text string // names the limit; from one of the replicas
	fate error
}

// Error implements error.
func (e *AdviceError) Error() string {
	what := "rejected"
	if e.Code == wire.AdviceNoKey {
		what = "client key not admitted"
	}
	if e.Text == "" {
		return fmt.Sprintf("%s: %s", e.fate, what)
	}
	return fmt.Sprintf("%s: %s: %s", e.fate, what, e.Text)
}

// Unwrap returns the fate: ErrNotExecuted if nothing but a session's open was signed, else
// ErrUnknown.
func (e *AdviceError) Unwrap() error { return e.fate }

// LimitError is a local refusal: the call exceeds a bound of this client or of the cluster. Nothing
// left the client, so it wraps ErrNotExecuted.
type LimitError struct {
	Name  string // what is bounded, as "op bytes"
	Value int    // what was asked for
	Limit int
}

// Error implements error.
func (e *LimitError) Error() string {
	return fmt.Sprintf("%s: %d %s, at most %d", ErrNotExecuted, e.Value, e.Name, e.Limit)
}

// Unwrap returns ErrNotExecuted.
func (e *LimitError) Unwrap() error { return ErrNotExecuted }

// fateError is a fate and why waiting for something better ended.
type fateError struct{ fate, cause error }

func (e *fateError) Error() string   { return fmt.Sprintf("%s: %s", e.fate, e.cause) }
func (e *fateError) Unwrap() []error { return []error{e.fate, e.cause} }

package client

import (
	"context"
	"errors"
	"sync"

	"github.com/atlas-smr/smr"
)

// Pending is a call under way. It is safe for concurrent use.
type Pending struct {
	conn   *Conn
	core   *Call // &own, or one the Core resumed
	own    Call
	op     []byte
	weight int64

	mu    sync.Mutex
	ended chan struct{} // closed when done holds an end; replaced by a retry
	done  Completion
}

// end is called by the Conn's goroutine.
func (p *Pending) end(d Completion) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = d
	select {
	case <-p.ended: // a result that came after the call was given up replaces its error
	default:
		close(p.ended)
		if p.weight > 0 {
			p.conn.room.Release(p.weight)
			p.weight = 0
		}
	}
}

// Op returns the encoded op of the call.
func (p *Pending) Op() []byte { return p.op }

// Done returns a channel that is closed when the call has ended.
func (p *Pending) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ended
}

// Result is the end of a call.
type Result struct {
	Data    []byte
	Ordered bool      // executed as an ordered op
	Seq     smr.SeqNo // see Completion.Seq
	Version smr.SeqNo // of a linearizable query's answer
}

// Wait waits for the call to end and returns its reply. If ctx ends first, a call that nothing signed
// has left for is withdrawn and ends with ErrNotExecuted; otherwise the error is ErrUnknown, the call
// goes on being sent under its number, and Wait may be called again: that is the retry.
func (p *Pending) Wait(ctx context.Context) ([]byte, error) {
	r, err := p.Result(ctx)
	return r.Data, err
}

// Result is Wait with all that is known.
func (p *Pending) Result(ctx context.Context) (Result, error) {
	select {
	case <-p.Done():
		return p.result()
	case <-ctx.Done():
	}
	cause := context.Cause(ctx)
	answer := make(chan bool, 1)
	if p.conn.post(task{kind: taskCancel, call: p, cause: cause, answer: answer}) {
		if !<-answer {
			select {
			case <-p.Done(): // it ended meanwhile
			default:
				return Result{}, p.wrap(&fateError{ErrUnknown, cause})
			}
		}
	}
	<-p.Done() // withdrawn, or the client closed: both end it
	return p.result()
}

func (p *Pending) result() (Result, error) {
	p.mu.Lock()
	d := p.done
	p.mu.Unlock()
	if d.Err != nil {
		return Result{}, p.wrap(d.Err)
	}
	return Result{Data: d.Data, Ordered: d.Ordered, Seq: d.Seq, Version: d.Version}, nil
}

// wrap makes an unknown outcome carry the call, for Retry.
func (p *Pending) wrap(err error) error {
	if errors.Is(err, ErrUnknown) {
		return &UnknownError{Call: p, cause: err}
	}
	return err
}

// UnknownError is every ErrUnknown that a call returns: the call itself, so that it can be retried,
// and why waiting ended.
type UnknownError struct {
	Call  *Pending
	cause error
}

// Error implements error.
func (e *UnknownError) Error() string { return e.cause.Error() }

// Unwrap returns why: an error that wraps ErrUnknown.
func (e *UnknownError) Unwrap() error { return e.cause }

// Retry waits on for a call whose outcome is unknown, under the same session and op number: however
// often it is retried, the op is executed at most once. err is what the call returned; an error that
// is no UnknownError is returned as it is. A quorum's outcome (an OutcomeError) is final and comes
// back unchanged.
func Retry(ctx context.Context, err error) (Result, error) {
	var unknown *UnknownError
	if !errors.As(err, &unknown) {
		return Result{}, err
	}
	p := unknown.Call
	var advice *AdviceError
	if errors.As(err, &advice) {
		p.again()
	}
	return p.Result(ctx)
}

// again reopens a call that ended with advice.
func (p *Pending) again() {
	p.mu.Lock()
	var advice *AdviceError
	reopen := errors.As(p.done.Err, &advice)
	if reopen {
		p.done, p.ended = Completion{}, make(chan struct{})
	}
	p.mu.Unlock()
	if reopen && !p.conn.post(task{kind: taskRetry, call: p}) {
		p.end(Completion{Call: p.core, Err: &fateError{ErrUnknown, ErrClosed}})
	}
}

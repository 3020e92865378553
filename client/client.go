package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
)

// Client calls a service in its own types. It is safe for concurrent use.
type Client[Req, Rep any] struct {
	conn *Conn
	req  smr.Codec[Req]
	rep  smr.Codec[Rep]
}

// Open makes a client of the cluster that cfg names. It does not wait for replicas; ctx bounds
// nothing but the making itself. Close it.
func Open[Req, Rep any](ctx context.Context, cfg Config, req smr.Codec[Req], rep smr.Codec[Rep]) (*Client[Req, Rep], error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	conn, err := Dial(cfg)
	if err != nil {
		return nil, err
	}
	return New(conn, req, rep), nil
}

// New returns a client on conn, which it closes when it is closed.
func New[Req, Rep any](conn *Conn, req smr.Codec[Req], rep smr.Codec[Rep]) *Client[Req, Rep] {
	return &Client[Req, Rep]{conn: conn, req: req, rep: rep}
}

// Conn returns the untyped client below.
func (c *Client[Req, Rep]) Conn() *Conn { return c.conn }

// Status returns counters and the state of the session.
func (c *Client[Req, Rep]) Status() Status { return c.conn.Status() }

// Close ends the client; see Conn.Close.
func (c *Client[Req, Rep]) Close() error { return c.conn.Close() }

// Do executes req as one ordered call and returns its reply. Without a reply the error wraps exactly
// one of ErrNotExecuted and ErrUnknown, except that a reply which the codec refuses is a DecodeError:
// the op was executed.
func (c *Client[Req, Rep]) Do(ctx context.Context, req Req) (Rep, error) {
	var none Rep
	op, err := c.encode(req)
	if err != nil {
		return none, err
	}
	data, err := c.conn.Do(ctx, op)
	if err != nil {
		return none, err
	}
	return c.decode(data)
}

// Retry waits on for a call that ended with ErrUnknown, under the same op number; err is what the
// call returned. See the function Retry.
func (c *Client[Req, Rep]) Retry(ctx context.Context, err error) (Rep, error) {
	r, err := Retry(ctx, err)
	if err != nil {
		var none Rep
		return none, err
	}
	return c.decode(r.Data)
}

// Submit starts an ordered call and returns at once. Calls submitted together share bundles. No order
// is promised among calls that are under way at the same time: wait for one to order another after it. A call that
// cannot start (see Conn.Submit) ends with that error.
func (c *Client[Req, Rep]) Submit(req Req) *Future[Rep] {
	f := &Future[Rep]{rep: c.rep}
	op, err := c.encode(req)
	if err == nil {
		f.call, err = c.conn.Submit(op)
	}
	f.err = err
	return f
}

// Query asks req unordered, at Level Linearizable unless told otherwise, and falls back to an ordered
// call if the replicas do not agree in time. The error is as that of Do.
func (c *Client[Req, Rep]) Query(ctx context.Context, req Req, level ...Level) (Rep, error) {
	var none Rep
	if len(level) > 1 {
		return none, &fateError{ErrNotExecuted, errors.New("more than one level")}
	}
	op, err := c.encode(req)
	if err != nil {
		return none, err
	}
	var l Level
	if len(level) == 1 {
		l = level[0]
	}
	call, err := c.conn.Query(ctx, op, l)
	if err != nil {
		return none, err
	}
	data, err := call.Wait(ctx)
	if err != nil {
		return none, err
	}
	return c.decode(data)
}

// Recovered returns the calls of the session file that had no result when it was last written, with
// their requests; see Conn.Recovered.
func (c *Client[Req, Rep]) Recovered() ([]Req, []*Future[Rep], error) {
	var (
		reqs []Req
		futs []*Future[Rep]
	)
	for _, p := range c.conn.Recovered() {
		req, err := c.req.Decode(p.Op())
		if err != nil {
			return nil, nil, fmt.Errorf("recovered op: %w", err)
		}
		reqs, futs = append(reqs, req), append(futs, &Future[Rep]{call: p, rep: c.rep})
	}
	return reqs, futs, nil
}

func (c *Client[Req, Rep]) encode(req Req) ([]byte, error) {
	op, err := c.req.Append(nil, req)
	if err != nil {
		return nil, &fateError{ErrNotExecuted, err}
	}
	return op, nil
}

func (c *Client[Req, Rep]) decode(data []byte) (Rep, error) { return decode(c.rep, data) }

func decode[Rep any](codec smr.Codec[Rep], data []byte) (Rep, error) {
	rep, err := codec.Decode(data)
	if err != nil {
		return rep, &DecodeError{Data: data, Err: err}
	}
	return rep, nil
}

// DecodeError says that the call was executed and a quorum agrees on its reply, but the client's
// codec refuses it: client and service are of different versions.
type DecodeError struct {
	Data []byte
	Err  error
}

// Error implements error.
func (e *DecodeError) Error() string { return fmt.Sprintf("executed, but its reply: %s", e.Err) }

// Unwrap returns the codec's error.
func (e *DecodeError) Unwrap() error { return e.Err }

// Future is an ordered call under way.
type Future[Rep any] struct {
	call *Pending
	rep  smr.Codec[Rep]
	err  error // why it did not start
}

// Wait waits for the reply. If ctx ends first, see Pending.Wait; calling Wait again is the retry.
func (f *Future[Rep]) Wait(ctx context.Context) (Rep, error) {
	rep, _, err := f.Result(ctx)
	return rep, err
}

// Result is Wait with where the call was executed, to be used with AtLeast; zero if the replicas did
// not agree on it.
func (f *Future[Rep]) Result(ctx context.Context) (Rep, smr.SeqNo, error) {
	var none Rep
	if f.err != nil {
		return none, 0, f.err
	}
	r, err := f.call.Result(ctx)
	if err != nil {
		return none, 0, err
	}
	rep, err := decode(f.rep, r.Data)
	return rep, r.Seq, err
}

// Done returns a channel that is closed once Wait returns without waiting.
func (f *Future[Rep]) Done() <-chan struct{} {
	if f.err != nil {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	return f.call.Done()
}

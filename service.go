package smr

import (
	"errors"
	"fmt"
)

// Service is an application with its types erased: ops and replies are bytes. [NewService] makes
// one from an [Application] and its codecs. The executor owns it.
type Service interface {
	// Execute applies one ordered op and appends its reply to dst. It returns ErrMalformed
	// (wrapped) if the codec refused the op, in which case nothing was applied.
	Execute(ctx *Context, op []byte, dst []byte) ([]byte, error)
	// Query answers an unordered op from the current state, appended to dst; errors as Execute.
	Query(ctx *QueryContext, op []byte, dst []byte) ([]byte, error)
	// Validate is the application's stateless check of an op, plus its decoding. It is safe for
	// concurrent use.
	Validate(op []byte) error
	// State returns the application's state, or nil if it has none.
	State() State
}

// BatchService is a Service that can apply a run of ops at once. [NewService] returns one for an
// application that implements [BatchExecutor].
type BatchService interface {
	Service
	// ExecuteBatch applies ops in order; ctxs[i] belongs to ops[i]. It then calls done once for
	// each op, in order, with what Execute would have returned for it; reply is valid during that
	// call only. Once a context is fenced,
	// done is called no more.
	ExecuteBatch(ctxs []*Context, ops [][]byte, done func(i int, reply []byte, err error))
}

// ErrMalformed is returned for an op that the application's codec cannot decode.
var ErrMalformed = errors.New("malformed op")

// NewService binds an application to its codecs. The application may implement [Validator],
// [Stateful] and [BatchExecutor]; for the last the result is a [BatchService].
func NewService[Req, Rep any](app Application[Req, Rep], req Codec[Req], rep Codec[Rep]) Service {
	s := &service[Req, Rep]{app: app, req: req, rep: rep}
	s.validator, _ = app.(Validator[Req])
	if b, ok := app.(BatchExecutor[Req, Rep]); ok {
		return &batchService[Req, Rep]{service: s, batch: b}
	}
	return s
}

type service[Req, Rep any] struct {
	app       Application[Req, Rep]
	req       Codec[Req]
	rep       Codec[Rep]
	validator Validator[Req]
}

func (s *service[Req, Rep]) Execute(ctx *Context, op, dst []byte) ([]byte, error) {
	req, err := s.req.Decode(op)
	if err != nil {
		return dst, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	rep := s.app.Execute(ctx, req)
	if ctx.fence != nil {
		return dst, nil
	}
	out, err := s.rep.Append(dst, rep)
	if err != nil {
		ctx.Fence(fmt.Errorf("encode reply: %w", err))
		return dst, nil
	}
	return out, nil
}

func (s *service[Req, Rep]) Query(ctx *QueryContext, op, dst []byte) ([]byte, error) {
	req, err := s.req.Decode(op)
	if err != nil {
		return dst, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return s.rep.Append(dst, s.app.Query(ctx, req))
}

func (s *service[Req, Rep]) Validate(op []byte) error {
	req, err := s.req.Decode(op)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if s.validator != nil {
		return s.validator.Validate(req)
	}
	return nil
}

func (s *service[Req, Rep]) State() State {
	if st, ok := s.app.(Stateful); ok {
		return st.State()
	}
	return nil
}

// batchService decodes a run of ops, hands those that are well formed to the application at once,
// and encodes the replies one by one. Its slices are kept between calls.
type batchService[Req, Rep any] struct {
	*service[Req, Rep]
	batch   BatchExecutor[Req, Rep]
	reqs    []Req
	reps    []Rep
	ctxs    []*Context
	errs    []error
	scratch []byte
}

func (s *batchService[Req, Rep]) ExecuteBatch(ctxs []*Context, ops [][]byte, done func(int, []byte, error)) {
	defer s.forget()
	for i, op := range ops {
		req, err := s.req.Decode(op)
		if err != nil {
			s.errs = append(s.errs, fmt.Errorf("%w: %w", ErrMalformed, err))
			continue
		}
		s.errs = append(s.errs, nil)
		s.reqs = append(s.reqs, req)
		s.ctxs = append(s.ctxs, ctxs[i])
	}
	if cap(s.reps) < len(s.reqs) {
		s.reps = make([]Rep, len(s.reqs))
	}
	s.reps = s.reps[:len(s.reqs)]
	s.batch.ExecuteBatch(s.ctxs, s.reqs, s.reps)
	for _, c := range s.ctxs {
		if c.fence != nil {
			return
		}
	}
	k := 0
	for i, err := range s.errs {
		if err != nil {
			done(i, nil, err)
			continue
		}
		out, err := s.rep.Append(s.scratch[:0], s.reps[k])
		if err != nil {
			s.ctxs[k].Fence(fmt.Errorf("encode reply: %w", err))
			return
		}
		s.scratch = out
		done(i, out, nil)
		k++
	}
}

// forget drops what the last call referred to and keeps the memory.
func (s *batchService[Req, Rep]) forget() {
	clear(s.reqs)
	clear(s.reps)
	clear(s.ctxs)
	clear(s.errs)
	s.reqs, s.reps, s.ctxs, s.errs = s.reqs[:0], s.reps[:0], s.ctxs[:0], s.errs[:0]
}

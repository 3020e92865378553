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

// ErrMalformed is returned for an op that the application's codec cannot decode.
var ErrMalformed = errors.New("malformed op")

// NewService binds an application to its codecs. The application may implement [Validator],
// [Stateful].
func NewService[Req, Rep any](app Application[Req, Rep], req Codec[Req], rep Codec[Rep]) Service {
	s := &service[Req, Rep]{app: app, req: req, rep: rep}
	s.validator, _ = app.(Validator[Req])
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

package client

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atlas-smr/smr"
)

// errReply is returned for a reply that no correct replica sends.
var errReply = errors.New("malformed reply")

// maxResults bounds the results in one ordered reply frame.
const maxResults = 1 << 16

// result is one OpResult of an OrderedReply; data aliases the frame.
type result struct {
	session smr.SessionID
	open    bool
	op      uint64
	outcome smr.Outcome
	data    []byte
	seq     smr.SeqNo
}

// eachResult walks an encoded wirepb.OrderedReply without building it, calls f for each result in
// order, and allocates nothing. It stops at the first malformation; f may have been called before.
func eachResult(payload []byte, f func(result)) error {
	left := maxResults
	return eachField(payload, func(num protowire.Number, _ uint64, b []byte) error {
		if num != 1 {
			return nil
		}
		if b == nil {
			return errReply
		}
		return sessionResults(b, &left, f)
	})
}

func sessionResults(b []byte, left *int, f func(result)) error {
	var r result
	err := eachField(b, func(num protowire.Number, v uint64, _ []byte) error {
		switch num {
		case 1:
			r.session = smr.SessionID(v)
		case 2:
			r.open = v != 0
		}
		return nil
	})
	if err != nil {
		return err
	}
	return eachField(b, func(num protowire.Number, _ uint64, b []byte) error {
		if num != 3 {
			return nil
		}
		if *left--; b == nil || *left < 0 {
			return errReply
		}
		one := result{session: r.session, open: r.open}
		if err := opResult(b, &one); err != nil {
			return err
		}
		f(one)
		return nil
	})
}

func opResult(b []byte, r *result) error {
	return eachField(b, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case 1:
			r.op = v
		case 2:
			if v > 255 {
				return errReply
			}
			r.outcome = smr.Outcome(v)
		case 3:
			if len(b) > smr.MaxReplyBytes {
				return errReply
			}
			r.data = b
		case 4:
			r.seq = smr.SeqNo(v)
		}
		return nil
	})
}

// eachField calls f for every field: v holds a varint, b a length-delimited value (not nil).
func eachField(b []byte, f func(num protowire.Number, v uint64, b []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errReply
		}
		b = b[n:]
		var (
			v uint64
			d []byte
		)
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			if d, n = protowire.ConsumeBytes(b); n >= 0 && d == nil {
				d = []byte{}
			}
		default:
			n = -1 // no other type is in these messages
		}
		if n < 0 {
			return errReply
		}
		if err := f(num, v, d); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

package kv

import (
	"encoding/binary"
	"errors"

	"github.com/atlas-smr/smr"
)

// The formats. Integers are shortest varints, strings a varint length and bytes; fields that an op
// or a status does not have are not there.
//
//	request  op 1 | key | by op:  put: value   cas: absent 1, expect, value   scan: end, limit
//	reply    status 1 | flags 1 (1 found, 2 more, 4 pairs)
//	         | if found: version, value | if pairs: count, then key, value each

var errFormat = errors.New("bad kv encoding")

const (
	flagFound = 1
	flagMore  = 2
	flagPairs = 4
)

// RequestCodec encodes requests.
type RequestCodec struct{}

// Append implements smr.Codec.
func (RequestCodec) Append(dst []byte, r Request) ([]byte, error) {
	if r.Op < OpGet || r.Op > OpScan {
		return dst, errFormat
	}
	dst = appendBytes(append(dst, byte(r.Op)), r.Key)
	switch r.Op {
	case OpPut:
		dst = appendBytes(dst, r.Value)
	case OpCAS:
		dst = append(dst, boolByte(r.Absent))
		dst = appendBytes(appendBytes(dst, r.Expect), r.Value)
	case OpScan:
		dst = binary.AppendUvarint(appendBytes(dst, r.End), uint64(r.Limit))
	}
	return dst, nil
}

// Decode implements smr.Codec.
func (RequestCodec) Decode(b []byte) (Request, error) {
	d := decoder{b: b}
	r := Request{Op: Op(d.byte())}
	r.Key = string(d.bytes())
	switch r.Op {
	case OpGet, OpDelete:
	case OpPut:
		r.Value = d.clone()
	case OpCAS:
		r.Absent = d.bool()
		r.Expect, r.Value = d.clone(), d.clone()
		d.must(!r.Absent || len(r.Expect) == 0)
	case OpScan:
		r.End = string(d.bytes())
		n := d.uvarint()
		d.must(n < 1<<32)
		r.Limit = uint32(n)
	default:
		return Request{}, errFormat
	}
	if !d.done() {
		return Request{}, errFormat
	}
	return r, nil
}

// ReplyCodec encodes replies.
type ReplyCodec struct{}

// Append implements smr.Codec.
func (ReplyCodec) Append(dst []byte, r Reply) ([]byte, error) {
	flags := boolByte(r.Found)*flagFound | boolByte(r.More)*flagMore
	if len(r.Pairs) > 0 {
		flags |= flagPairs
	}
	dst = append(dst, byte(r.Status), flags)
	if r.Found {
		dst = appendBytes(binary.AppendUvarint(dst, uint64(r.Version)), r.Value)
	}
	if len(r.Pairs) > 0 {
		dst = binary.AppendUvarint(dst, uint64(len(r.Pairs)))
		for _, p := range r.Pairs {
			dst = appendBytes(appendBytes(dst, p.Key), p.Value)
		}
	}
	return dst, nil
}

// Decode implements smr.Codec.
func (ReplyCodec) Decode(b []byte) (Reply, error) {
	d := decoder{b: b}
	r := Reply{Status: Status(d.byte())}
	flags := d.byte()
	d.must(flags < 8 && r.Status >= StatusOK && r.Status <= StatusInvalid)
	r.Found, r.More = flags&flagFound != 0, flags&flagMore != 0
	if r.Found {
		r.Version = smr.SeqNo(d.uvarint())
		r.Value = d.clone()
	}
	if flags&flagPairs != 0 {
		n := d.uvarint()
		d.must(n > 0 && n <= MaxScanPairs)
		for ; n > 0 && !d.bad; n-- {
			r.Pairs = append(r.Pairs, Pair{string(d.bytes()), d.clone()})
		}
	}
	if !d.done() {
		return Reply{}, errFormat
	}
	return r, nil
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func appendBytes[B bytesLike](dst []byte, b B) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// decoder reads fields off b; once bad, everything it reads is zero.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) must(ok bool) {
	if !ok {
		d.bad, d.b = true, nil
	}
}

func (d *decoder) done() bool { return !d.bad && len(d.b) == 0 }

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.must(false)
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

func (d *decoder) bool() bool {
	v := d.byte()
	d.must(v < 2)
	return v == 1
}

// uvarint takes shortest encodings only.
func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || n > 1 && d.b[n-1] == 0 {
		d.must(false)
		return 0
	}
	d.b = d.b[n:]
	return v
}

// bytes returns a string's bytes, which alias the input.
func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.must(false)
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

// clone returns a string's bytes, copied.
func (d *decoder) clone() []byte {
	b := d.bytes()
	return append(make([]byte, 0, len(b)+versionBytes), b...) // so that the store need not copy it again
}

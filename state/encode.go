package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/atlas-smr/smr"
)

// Limits of a map. A pair of full size makes a part of its own, which fits smr.MaxPartBytes.
const (
	MaxKeyBytes   = 8 << 10
	MaxValueBytes = 1 << 20
	MaxMetaBytes  = 64 << 10
)

// Parts as bytes. Lengths and counts are shortest varints.
//
//	header  version 1 | next part id | length, the application's own bytes     part 0
//	range   version 1 | length, low | length, high | count | pairs             all others
//	pair    length, key | length, value                                        ascending by key
const partVersion = 1

var (
	// ErrLimit is wrapped by the refusal of a key or value that is too long.
	ErrLimit = errors.New("beyond a limit of the map")
	// ErrPart is wrapped by every refusal of an encoded part, or of parts that do not fit together.
	ErrPart = errors.New("bad part of a map")
)

func checkPair(key string, value []byte) error {
	if len(key) > MaxKeyBytes || len(value) > MaxValueBytes {
		return fmt.Errorf("%w: key of %d bytes (at most %d), value of %d (at most %d)", ErrLimit, len(key), MaxKeyBytes, len(value), MaxValueBytes)
	}
	return nil
}

func uvarintSize(n int) int {
	size := 1
	for ; n >= 0x80; n >>= 7 {
		size++
	}
	return size
}

func fieldSize(n int) int { return uvarintSize(n) + n }

func pairSize(key string, value []byte) int { return fieldSize(len(key)) + fieldSize(len(value)) }

func rangeHeaderSize(low, high string, pairs int) int {
	return 1 + fieldSize(len(low)) + fieldSize(len(high)) + uvarintSize(pairs)
}

func appendField[B ~string | ~[]byte](dst []byte, b B) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// appendPart appends the encoding of p, whose pairs are in src.
func appendPart(dst []byte, p *part, src source) ([]byte, error) {
	dst = slices.Grow(dst, p.size())
	start := len(dst)
	dst = appendField(appendField(append(dst, partVersion), p.low), p.high)
	dst = binary.AppendUvarint(dst, uint64(p.pairs))
	err := src.scan(p.low, p.high, func(key string, value []byte) bool {
		dst = appendField(appendField(dst, key), value)
		return true
	})
	if err == nil && len(dst)-start != p.size() {
		err = fmt.Errorf("%w: part %d has %d bytes, not %d", ErrPart, p.id, len(dst)-start, p.size())
	}
	return dst, err
}

func appendHeader(dst []byte, next smr.PartID, meta []byte) []byte {
	return appendField(binary.AppendUvarint(append(dst, partVersion), uint64(next)), meta)
}

// partReader reads fields off an encoding; after the first failure all reads are empty.
type partReader struct {
	b   []byte
	bad bool
}

func (r *partReader) version() {
	if len(r.b) == 0 || r.b[0] != partVersion {
		r.bad = true
		return
	}
	r.b = r.b[1:]
}

func (r *partReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 || n > 1 && r.b[n-1] == 0 { // a last byte of zero: not the shortest
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *partReader) field(most int) []byte {
	n := r.uvarint()
	if r.bad || n > uint64(most) || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	f := r.b[:n:n]
	r.b = r.b[n:]
	return f
}

func decodeHeader(b []byte) (next smr.PartID, meta []byte, err error) {
	next, meta, rest, err := takeHeader(b)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: %d bytes after the header", ErrPart, len(rest))
	}
	return next, meta, err
}

// takeHeader reads a header off the start of b and returns what follows it.
func takeHeader(b []byte) (next smr.PartID, meta, rest []byte, err error) {
	r := partReader{b: b}
	r.version()
	next = smr.PartID(r.uvarint())
	meta = r.field(MaxMetaBytes)
	if r.bad || next <= firstPart {
		return 0, nil, nil, fmt.Errorf("%w: malformed header", ErrPart)
	}
	return next, slices.Clone(meta), r.b, nil
}

// decodePart reads part id off b, which it fills, and calls each for every pair, in order; key and
// value alias b. It accepts exactly what appendPart makes. The part it returns has no digest.
func decodePart(id smr.PartID, b []byte, each func(key, value []byte) error) (*part, error) {
	if id == headerPart || len(b) > smr.MaxPartBytes {
		return nil, fmt.Errorf("%w: part %d of %d bytes", ErrPart, id, len(b))
	}
	p, rest, err := takePart(id, b, each)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: %d bytes after the last pair of part %d", ErrPart, len(rest), id)
	}
	return p, err
}

// takePart reads part id off the start of b and returns what follows it.
func takePart(id smr.PartID, b []byte, each func(key, value []byte) error) (_ *part, rest []byte, err error) {
	r := partReader{b: b}
	r.version()
	p := &part{id: id, low: string(r.field(MaxKeyBytes)), high: string(r.field(MaxKeyBytes)), sum: new(sum)}
	pairs := r.uvarint()
	if r.bad || p.high != "" && p.high <= p.low || pairs > uint64(len(r.b))/2 { // a pair takes two bytes at least
		return nil, nil, fmt.Errorf("%w: malformed start of part %d", ErrPart, id)
	}
	p.pairs, p.bytes = int(pairs), len(r.b)
	prev := ""
	for i := range p.pairs {
		key, value := r.field(MaxKeyBytes), r.field(MaxValueBytes)
		if r.bad || !p.covers(string(key)) || i > 0 && string(key) <= prev {
			return nil, nil, fmt.Errorf("%w: pair %d of part %d is malformed or out of place", ErrPart, i, id)
		}
		prev = string(key)
		if err := each(key, value); err != nil {
			return nil, nil, err
		}
	}
	p.bytes -= len(r.b)
	return p, r.b, nil
}

package kv

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/state"
)

// The state is the pairs, each value with its version behind it, and beside them, as the map's meta:
//
//	last     8, big endian
//	deletes  8 each, deleteBuckets of them
const metaBytes = 8 + 8*deleteBuckets

func (s *Store) meta() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, metaBytes), uint64(s.last))
	for _, v := range s.deletes {
		b = binary.BigEndian.AppendUint64(b, uint64(v))
	}
	return b
}

var errMeta = errors.New("bad kv state")

// loadMeta takes what stands beside the pairs; a map without it is empty.
func (s *Store) loadMeta() error {
	b := s.pairs.Meta()
	s.last, s.deletes = 0, [deleteBuckets]smr.SeqNo{}
	if len(b) == 0 && s.pairs.Len() == 0 {
		return nil
	}
	if len(b) != metaBytes {
		return fmt.Errorf("%w: %d bytes beside the pairs, want %d", errMeta, len(b), metaBytes)
	}
	s.last = smr.SeqNo(binary.BigEndian.Uint64(b))
	for i := range s.deletes {
		s.deletes[i] = smr.SeqNo(binary.BigEndian.Uint64(b[8+8*i:]))
	}
	return nil
}

// Freeze implements smr.Divisible, in constant time. A local fault panics, which fences.
func (s *Store) Freeze() smr.FrozenParts {
	if s.last > 0 { // an unused store has the state of a new one
		if err := s.pairs.SetMeta(s.meta()); err != nil {
			panic(err)
		}
	}
	return s.pairs.Freeze()
}

// Reset implements smr.Divisible.
func (s *Store) Reset() error {
	if err := s.pairs.Reset(); err != nil {
		return err
	}
	return s.loadMeta()
}

// restoring passes parts on and takes what stands beside the pairs at the end.
type restoring struct {
	smr.PartWriter
	s *Store
}

// Begin implements smr.Divisible.
func (s *Store) Begin() smr.PartWriter { return restoring{s.pairs.Begin(), s} }

// Commit implements smr.PartWriter.
func (r restoring) Commit() error {
	if err := r.PartWriter.Commit(); err != nil {
		return err
	}
	return r.s.loadMeta()
}

// ReadDump returns a store in memory with the content of another, whose parts lie in b one after the
// other, as an administrator's dump gives them. It is for reading only.
func ReadDump(b []byte) (*Store, error) {
	pairs, err := state.ReadParts(b)
	if err != nil {
		return nil, err
	}
	s := On(pairs)
	if err := s.loadMeta(); err != nil {
		return nil, err
	}
	var bad error
	err = pairs.Scan("", "", func(key string, v []byte) bool {
		_, _, bad = divide(key, v)
		return bad == nil
	})
	return s, errors.Join(err, bad)
}

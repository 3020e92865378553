package kv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/state"
)

// deleteBuckets is the number of groups of keys for which the last delete is remembered: the
// version of what is not there.
const deleteBuckets = 1024

// versionBytes is what a stored value has behind the client's: the sequence number of its batch.
const versionBytes = 8

// Store is the application. It implements smr.Application[Request, Reply], smr.Validator,
// smr.Stateful and smr.Divisible. It belongs to one goroutine.
type Store struct {
	smr.DivisibleState
	pairs   state.Map
	deletes [deleteBuckets]smr.SeqNo // last delete of a key of the bucket
	last    smr.SeqNo                // last write or delete of any key
	broken  error                    // a local fault that a query met
}

// New returns an empty store in memory.
func New() *Store { return &Store{pairs: state.NewMemory()} }

// On returns a store on pairs, which belong to it from now on. Whether they are in memory or on disk
// makes no difference to clients or to the other replicas. What a map on disk holds of an earlier run
// counts once it was restored or reset, as a replica does at its start.
func On(pairs state.Map) *Store { return &Store{pairs: pairs} }

// Len returns the number of keys.
func (s *Store) Len() int { return s.pairs.Len() }

// State implements smr.Stateful.
func (s *Store) State() smr.State { return s }

// Validate implements smr.Validator.
func (s *Store) Validate(r Request) error { return r.Check() }

// Execute implements smr.Application.
func (s *Store) Execute(ctx *smr.Context, r Request) Reply {
	if r.Check() != nil {
		return Reply{Status: StatusInvalid}
	}
	rep, err := s.execute(ctx.Seq, r)
	if err == nil {
		err = s.broken
	}
	if err != nil {
		ctx.Fence(err)
	}
	return rep
}

func (s *Store) execute(seq smr.SeqNo, r Request) (Reply, error) {
	switch r.Op {
	case OpPut:
		return Reply{Status: StatusOK}, s.put(seq, r.Key, r.Value)
	case OpDelete:
		switch had, err := s.pairs.Delete(r.Key); {
		case err != nil:
			return Reply{}, err
		case !had:
			return Reply{Status: StatusNotFound}, nil
		}
		s.deletes[bucket(r.Key)] = seq
		s.last = seq
		return Reply{Status: StatusOK}, nil
	case OpCAS:
		value, version, ok, err := s.get(r.Key)
		if err != nil {
			return Reply{}, err
		}
		if ok == r.Absent || ok && !bytes.Equal(value, r.Expect) {
			return Reply{Status: StatusMismatch, Found: ok, Value: value, Version: version}, nil
		}
		return Reply{Status: StatusOK}, s.put(seq, r.Key, r.Value)
	}
	rep, _, err := s.read(r)
	return rep, err
}

// Query implements smr.Application. The version of a value is the batch that wrote it, of a missing
// key the last delete in its bucket (deletes of other keys of the bucket do no harm: the version is
// only newer than need be), of a scan the last change of anything. A local fault panics, which the
// client is told, and fences at the next Execute.
func (s *Store) Query(ctx *smr.QueryContext, r Request) Reply {
	if r.Writes() || r.Check() != nil {
		ctx.SetVersion(0)
		return Reply{Status: StatusInvalid}
	}
	rep, version, err := s.read(r)
	if err != nil {
		s.broken = err
		panic(err)
	}
	ctx.SetVersion(version)
	return rep
}

func (s *Store) put(seq smr.SeqNo, key string, value []byte) error {
	s.last = seq
	return s.pairs.Set(key, binary.BigEndian.AppendUint64(value, uint64(seq)))
}

// get returns a value and when it was written.
func (s *Store) get(key string) (value []byte, version smr.SeqNo, ok bool, err error) {
	v, ok, err := s.pairs.Get(key)
	if err != nil || !ok {
		return nil, 0, false, err
	}
	value, version, err = divide(key, v)
	return value, version, true, err
}

// divide splits what is stored into value and version.
func divide(key string, v []byte) ([]byte, smr.SeqNo, error) {
	n := len(v) - versionBytes
	if n < 0 {
		return nil, 0, fmt.Errorf("the value of %q has %d bytes and no version", key, len(v))
	}
	return v[:n:n], smr.SeqNo(binary.BigEndian.Uint64(v[n:])), nil
}

// read answers Get and Scan, with the version of the answer.
func (s *Store) read(r Request) (Reply, smr.SeqNo, error) {
	if r.Op == OpScan {
		rep, err := s.scan(r)
		return rep, s.last, err
	}
	value, version, ok, err := s.get(r.Key)
	if err != nil {
		return Reply{}, 0, err
	}
	if !ok {
		return Reply{Status: StatusNotFound}, s.deletes[bucket(r.Key)], nil
	}
	return Reply{Status: StatusOK, Found: true, Value: value, Version: version}, version, nil
}

func (s *Store) scan(r Request) (Reply, error) {
	rep := Reply{Status: StatusOK}
	limit := int(r.Limit)
	if limit == 0 {
		limit = MaxScanPairs
	}
	size := 0
	var bad error
	err := s.pairs.Scan(r.Key, r.End, func(key string, v []byte) bool {
		value, _, err := divide(key, v)
		if err != nil {
			bad = err
			return false
		}
		size += len(key) + len(value)
		if n := len(rep.Pairs); n == limit || n > 0 && size > MaxScanBytes {
			rep.More = true
			return false
		}
		rep.Pairs = append(rep.Pairs, Pair{key, bytes.Clone(value)})
		return true
	})
	return rep, errors.Join(err, bad)
}

// bucket is the FNV-1a hash of key, the same everywhere.
func bucket(key string) int {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return int((h ^ h>>32) % deleteBuckets)
}

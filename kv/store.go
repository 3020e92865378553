package kv

import (
	"bytes"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/state"
)

// deleteBuckets is the number of groups of keys for which the last delete is remembered: the
// version of what is not there.
const deleteBuckets = 1024

// entry is a value and when it was written.
type entry struct {
	value   []byte
	version smr.SeqNo
}

// Store is the application. It implements smr.Application[Request, Reply], smr.Validator,
// smr.Stateful and smr.Monolithic. It belongs to one goroutine.
type Store struct {
	smr.MonolithicState
	tree    *state.Tree[entry]
	deletes [deleteBuckets]smr.SeqNo // last delete of a key of the bucket
	last    smr.SeqNo                // last write or delete of any key
}

// New returns an empty store.
func New() *Store { return &Store{tree: &state.Tree[entry]{}} }

// Len returns the number of keys.
func (s *Store) Len() int { return s.tree.Len() }

// State implements smr.Stateful.
func (s *Store) State() smr.State { return s }

// Validate implements smr.Validator.
func (s *Store) Validate(r Request) error { return r.Check() }

// Execute implements smr.Application.
func (s *Store) Execute(ctx *smr.Context, r Request) Reply {
	if r.Check() != nil {
		return Reply{Status: StatusInvalid}
	}
	switch r.Op {
	case OpPut:
		s.put(ctx.Seq, r.Key, r.Value)
		return Reply{Status: StatusOK}
	case OpDelete:
		if _, ok := s.tree.Delete(r.Key); !ok {
			return Reply{Status: StatusNotFound}
		}
		s.deletes[bucket(r.Key)] = ctx.Seq
		s.last = ctx.Seq
		return Reply{Status: StatusOK}
	case OpCAS:
		e, ok := s.tree.Get(r.Key)
		if ok == r.Absent || ok && !bytes.Equal(e.value, r.Expect) {
			return Reply{Status: StatusMismatch, Found: ok, Value: e.value, Version: e.version}
		}
		s.put(ctx.Seq, r.Key, r.Value)
		return Reply{Status: StatusOK}
	}
	rep, _ := s.read(r)
	return rep
}

// Query implements smr.Application. The version of a value is the batch that wrote it, of a missing
// key the last delete in its bucket (deletes of other keys of the bucket do no harm: the version is
// only newer than need be), of a scan the last change of anything.
func (s *Store) Query(ctx *smr.QueryContext, r Request) Reply {
	if r.Writes() || r.Check() != nil {
		ctx.SetVersion(0)
		return Reply{Status: StatusInvalid}
	}
	rep, version := s.read(r)
	ctx.SetVersion(version)
	return rep
}

func (s *Store) put(seq smr.SeqNo, key string, value []byte) {
	s.tree.Set(key, entry{value, seq})
	s.last = seq
}

// read answers Get and Scan, with the version of the answer.
func (s *Store) read(r Request) (Reply, smr.SeqNo) {
	if r.Op == OpScan {
		return s.scan(r), s.last
	}
	e, ok := s.tree.Get(r.Key)
	if !ok {
		return Reply{Status: StatusNotFound}, s.deletes[bucket(r.Key)]
	}
	return Reply{Status: StatusOK, Found: true, Value: e.value, Version: e.version}, e.version
}

func (s *Store) scan(r Request) Reply {
	rep := Reply{Status: StatusOK}
	limit := int(r.Limit)
	if limit == 0 {
		limit = MaxScanPairs
	}
	size := 0
	s.tree.Ascend(r.Key, func(key string, e entry) bool {
		if r.End != "" && key >= r.End {
			return false
		}
		size += len(key) + len(e.value)
		if n := len(rep.Pairs); n == limit || n > 0 && size > MaxScanBytes {
			rep.More = true
			return false
		}
		rep.Pairs = append(rep.Pairs, Pair{key, e.value})
		return true
	})
	return rep
}

// bucket is the FNV-1a hash of key, the same everywhere.
func bucket(key string) int {
	h := uint64(14695981039346656037)
	for i := range len(key) {
		h = (h ^ uint64(key[i])) * 1099511628211
	}
	return int((h ^ h>>32) % deleteBuckets)
}

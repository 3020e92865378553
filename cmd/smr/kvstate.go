package main

import (
	"bytes"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/kv"
)

// decodeKV reads the application's section of a checkpoint stream.
func decodeKV(b []byte) (*kv.Store, error) {
	st := kv.New()
	if err := st.Restore(bytes.NewReader(b)); err != nil {
		return nil, err
	}
	return st, nil
}

// eachPair calls each with every pair of a store in key order.
func eachPair(st *kv.Store, each func(kv.Pair) error) error {
	ctx := smr.NewQueryContext(0, 0)
	for req := kv.Scan("", "", 0); ; {
		rep := st.Query(ctx, req)
		for _, p := range rep.Pairs {
			if err := each(p); err != nil {
				return err
			}
		}
		if !rep.More {
			return nil
		}
		req = req.Next(rep)
	}
}

// lookup returns the value of a key in a store and the sequence number at which it was written.
func lookup(st *kv.Store, key string) (value []byte, version smr.SeqNo, found bool) {
	rep := st.Query(smr.NewQueryContext(0, 0), kv.Get(key))
	return rep.Value, rep.Version, rep.Found
}

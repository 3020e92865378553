package main

import (
	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/kv"
)

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

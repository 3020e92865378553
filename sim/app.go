package sim

import (
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/kv"
)

// newApplication returns the application that a replica runs.
func newApplication() smr.Service { return kv.Service() }

// encodeRequest returns the op for o.
func encodeRequest(o *operation) []byte {
	var r kv.Request
	switch {
	case o.kind == opGet:
		r = kv.Get(o.key)
	case o.kind == opPut:
		r = kv.Put(o.key, o.value)
	case o.kind == opDelete:
		r = kv.Delete(o.key)
	case o.expect == "":
		r = kv.Create(o.key, o.value)
	default:
		r = kv.CAS(o.key, o.expect, o.value)
	}
	b, err := kv.RequestCodec{}.Append(nil, r)
	if err != nil {
		panic(err) // the workload makes valid requests
	}
	return b
}

// decodeReply fills in what o found.
func decodeReply(o *operation, b []byte) error {
	r, err := kv.ReplyCodec{}.Decode(b)
	if err != nil {
		return err
	}
	if r.Status == kv.StatusInvalid {
		return fmt.Errorf("status %s", r.Status)
	}
	switch o.kind {
	case opGet:
		o.got, o.found = string(r.Value), r.Found
	case opPut:
		if r.Status != kv.StatusOK {
			return fmt.Errorf("status %s", r.Status)
		}
	default:
		o.found = r.Status == kv.StatusOK
	}
	return nil
}

package smrtest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/state"
)

// drawKV draws a request, some of them of a size at which parts split and join.
func drawKV(t *testing.T) func(rng *rand.Rand) []byte {
	return func(rng *rand.Rand) []byte {
		key, value := fmt.Sprintf("k%d", rng.IntN(20)), fmt.Sprintf("v%d", rng.IntN(5))
		var req kv.Request
		switch rng.IntN(7) {
		case 0, 1:
			req = kv.Put(key, value)
		case 2:
			req = kv.Get(key)
		case 3:
			req = kv.Delete(key)
		case 4:
			req = kv.CAS(key, fmt.Sprintf("v%d", rng.IntN(5)), value)
		case 5:
			req = kv.Put(key, bytes.Repeat([]byte{'x'}, rng.IntN(150_000)))
		default:
			return fmt.Appendf(nil, "garbage %d", rng.IntN(9))
		}
		b, err := kv.RequestCodec{}.Append(nil, req)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
}

func TestTheKeyValueStoreKeepsTheRules(t *testing.T) { Application(t, kv.Service, drawKV(t)) }

func TestTheKeyValueStoreOnDiskKeepsTheRules(t *testing.T) {
	Application(t, func() smr.Service {
		m, err := state.OpenPebble("kv", state.PebbleOptions{FS: vfs.NewMem(), CacheBytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
		return kv.On(m).Service()
	}, drawKV(t))
}

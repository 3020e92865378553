package smrtest

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/atlas-smr/smr/kv"
)

func TestTheKeyValueStoreKeepsTheRules(t *testing.T) {
	Application(t, kv.Service, func(rng *rand.Rand) []byte {
		key, value := fmt.Sprintf("k%d", rng.IntN(20)), fmt.Sprintf("v%d", rng.IntN(5))
		var req kv.Request
		switch rng.IntN(6) {
		case 0, 1:
			req = kv.Put(key, value)
		case 2:
			req = kv.Get(key)
		case 3:
			req = kv.Delete(key)
		case 4:
			req = kv.CAS(key, fmt.Sprintf("v%d", rng.IntN(5)), value)
		default:
			return fmt.Appendf(nil, "garbage %d", rng.IntN(9))
		}
		b, err := kv.RequestCodec{}.Append(nil, req)
		if err != nil {
			t.Fatal(err)
		}
		return b
	})
}

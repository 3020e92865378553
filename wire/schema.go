package wire

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atlas-smr/smr"
)

// ErrSchema is wrapped by every refusal of a message before it is unpacked.
var ErrSchema = errors.New("fields out of bounds")

// Schema says what an encoded message may hold, so that it is refused before anything is allocated
// for it. The generated decoders allocate for each repeated field and keep every unknown one: a
// two-byte field may cost dozens of bytes. Ends agree on a version in their Hello, so a field that
// the version does not have is refused, too.
type Schema struct {
	Fields  uint64 // bit i is set if field i exists; see Fields
	Repeats []Repeat
}

// Repeat bounds one field of a message. A field that no Repeat is about may occur often, but only
// the last value stays, and bytes are not copied by the unsafe decoders.
type Repeat struct {
	Field protowire.Number
	Most  int      // occurrences
	Least int      // bytes of each occurrence: what its own decoder would refuse is not unpacked
	In    []Schema // the one schema of a message in it; none for bytes
}

// Fields returns the set of these field numbers, each below 64.
func Fields(numbers ...int) (set uint64) {
	for _, n := range numbers {
		set |= 1 << n
	}
	return set
}

// Counts says how often each of a schema's Repeats occurs, in their order.
type Counts [4]int

// Check walks b, which it neither keeps nor unpacks. It allocates nothing unless it refuses. With
// the counts a caller can make room at once.
func (s Schema) Check(b []byte) (counts Counts, err error) {
	if len(s.Repeats) > len(counts) {
		panic("a schema of more repeated fields")
	}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return counts, fmt.Errorf("%w: %w", ErrSchema, protowire.ParseError(n))
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 {
			return counts, fmt.Errorf("%w: %w", ErrSchema, protowire.ParseError(m))
		}
		if num >= 64 || s.Fields&(1<<num) == 0 {
			return counts, fmt.Errorf("%w: field %d is unknown", ErrSchema, num)
		}
		for i := range s.Repeats {
			if r := &s.Repeats[i]; r.Field == num {
				if counts[i]++; counts[i] > r.Most {
					return counts, fmt.Errorf("%w: more than %d times field %d", ErrSchema, r.Most, num)
				}
				if err := r.check(typ, b[n:n+m]); err != nil {
					return counts, err
				}
			}
		}
		b = b[n+m:]
	}
	return counts, nil
}

func (r *Repeat) check(typ protowire.Type, value []byte) error {
	if typ != protowire.BytesType {
		return fmt.Errorf("%w: field %d is of type %d", ErrSchema, r.Field, typ)
	}
	v, _ := protowire.ConsumeBytes(value)
	if len(v) < r.Least {
		return fmt.Errorf("%w: field %d of %d bytes", ErrSchema, r.Field, len(v))
	}
	for _, in := range r.In {
		if _, err := in.Check(v); err != nil {
			return err
		}
	}
	return nil
}

// LeastBundleBytes is less than any encoded bundle has: its signature and its key.
const LeastBundleBytes = 64 + 32

var (
	bundlesSchema = Schema{Fields: Fields(1), Repeats: []Repeat{{Field: 1, Most: smr.MaxBatchBundles, Least: LeastBundleBytes}}}
	bodySchema    = Schema{Fields: Fields(1, 2, 3, 4, 5, 6, 7, 8), Repeats: []Repeat{{Field: 8, Most: smr.MaxBundleOps}}}
)

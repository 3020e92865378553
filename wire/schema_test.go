package wire

import (
	"bytes"
	"errors"
	"runtime"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

func TestASchemaRefusesBeforeAnythingIsUnpacked(t *testing.T) {
	inner := Schema{Fields: Fields(1), Repeats: []Repeat{{Field: 1, Most: 2, Least: 3}}}
	s := Schema{Fields: Fields(1, 2, 3), Repeats: []Repeat{{Field: 2, Most: 2, In: []Schema{inner}}}}
	field := func(num protowire.Number, v ...byte) []byte {
		return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), v)
	}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	one := field(1, 9, 9, 9)
	for name, b := range map[string][]byte{
		"nothing": nil, "nested": join(field(2, join(one, one)...), field(2, one...), field(3)),
		"not bounded": join(field(1), field(1), field(1), []byte{3 << 3, 7}),
	} {
		if _, err := s.Check(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{
		"too often": join(field(2), field(2), field(2)), "unknown": field(4), "far": field(100), "too short": field(2, field(1, 9, 9)...),
		"nested too often": field(2, join(one, one, one)...), "nested unknown": field(2, field(2)...), "truncated": one[:3],
		"a number": {2 << 3, 1}, "no tag": {0xff}, "a group": {1<<3 | 3},
	} {
		if _, err := s.Check(b); !errors.Is(err, ErrSchema) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := field(2, join(one, one)...)
	if n := testing.AllocsPerRun(10, func() { _, _ = s.Check(b) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// repeated returns size bytes that repeat field.
func repeated(size int, field ...byte) []byte {
	return bytes.Repeat(field, size/len(field))
}

// allocated returns what f allocates in all, freed or not.
func allocated(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

func TestHostileBundlesCostLittle(t *testing.T) {
	const size = 10 << 20
	for name, b := range map[string][]byte{
		"empty bundles": repeated(size, 1<<3|2, 0), "small bundles": repeated(size, append([]byte{1<<3 | 2, 98}, make([]byte, 98)...)...),
		"unknown fields": repeated(size, 9<<3, 1), "unknown bytes": repeated(size, 9<<3|2, 2, 0, 0),
	} {
		if n := allocated(func() {
			if _, err := DecodeBundles(b); err == nil {
				t.Errorf("%s: taken", name)
			}
		}); n > len(b) {
			t.Errorf("%s: %d bytes allocated for %d", name, n, len(b))
		}
	}
}

func TestHostileOpsCostLittle(t *testing.T) {
	for name, body := range map[string][]byte{
		"many": repeated(1<<20, 8<<3|2, 0), "unknown": repeated(1<<20, 9<<3, 1), "unknown bytes": repeated(1<<20, 15<<3|2, 2, 0, 0),
	} {
		b := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), body)
		b = protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), make([]byte, 64))
		if n := allocated(func() {
			if _, err := DecodeBundle(b); !errors.Is(err, ErrBundle) {
				t.Errorf("%s: %v", name, err)
			}
		}); n > len(b) {
			t.Errorf("%s: %d bytes allocated for %d", name, n, len(b))
		}
	}
}

package engine

import (
	"bytes"
	"runtime"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/wire"
)

// laxScheme takes every signature.
type laxScheme struct{}

func (laxScheme) Verify(smr.PublicKey, []byte, []byte) bool { return true }
func (laxScheme) VerifyBatch([]auth.Item) []bool            { return nil }

// received is a frame and who sent it.
type received struct {
	from smr.NodeID
	Frame
}

// recorded returns frames that node 2 of a PBFT cluster received, at most three of each class and
// kind, while it falls behind and catches up and a primary dies.
func recorded(t testing.TB) []received {
	s := newShuttle(t, 4, pbft.Factory(), nil)
	type key struct {
		class wire.Class
		kind  uint8
	}
	seen := map[key]int{}
	var out []received
	s.cut = func(from, to smr.NodeID, f Frame) bool {
		if k := (key{f.Class, f.Kind}); to == 2 && seen[k] < 3 && len(f.Payload) < 4<<10 {
			seen[k]++
			out = append(out, received{from, f})
		}
		return false
	}
	for id := smr.NodeID(1); id <= 4; id++ {
		s.start(id)
	}
	s.run(100*time.Millisecond, nil)
	s.load(5, time.Millisecond, 1, 3)
	s.stop(2)
	s.load(5, time.Millisecond, 1, 3, 4)
	s.start(2)
	s.run(2*time.Second, nil)
	s.stop(1)
	s.load(5, time.Millisecond, 2, 3, 4)
	s.run(10*time.Second, nil)
	return out
}

// Whatever a peer's frame holds, a fresh replica takes it and goes on; and the decoder takes it
// without a panic when signatures do not stop it.
func FuzzPBFTReceive(f *testing.F) {
	for _, x := range recorded(f) {
		f.Add(uint8(x.from), uint8(x.Class), x.Kind, x.Payload)
	}
	s := newShuttle(f, 4, pbft.Factory(), nil)
	v := auth.NewVerifier(s.m, laxScheme{})
	lax := NewDecoder(v, s.factory.NewCodec(v), laxScheme{})
	cfg := s.config(2)
	strict := NewDecoder(cfg.Params.Verifier, s.factory.NewCodec(cfg.Params.Verifier), s.scheme)
	f.Fuzz(func(t *testing.T, from, class, kind uint8, payload []byte) {
		peer := smr.NodeID(from)
		if peer == 2 {
			return
		}
		if m, err := lax.Decode(peer, wire.Class(class), kind, payload); err == nil && m.Size() < 0 {
			t.Fatal("negative size")
		}
		m, err := strict.Decode(peer, wire.Class(class), kind, payload)
		if err != nil {
			return
		}
		e, now := New(cfg), time.Unix(1000, 0)
		var out Output
		e.Start(now, Boot{Recovered: protocol.Recovered{Fresh: true}}, &out)
		for range 2 {
			e.Receive(now, peer, m, &out)
			for _, timer := range out.SetTimer {
				now = now.Add(time.Second)
				var next Output
				e.Expire(now, timer.ID, &next)
			}
			out.SetTimer = nil
		}
		if out.Fatal != nil {
			t.Fatal(out.Fatal)
		}
	})
}

// many is a field of no bytes, count times.
func many(num protowire.Number, count int) []byte {
	return bytes.Repeat(protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), nil), count)
}

// within is a field that holds b.
func within(num protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), b)
}

// An element of two bytes costs its receiver up to a hundred, so every repeated field is counted
// before it is unpacked.
func TestRefusedFramesAllocateLittle(t *testing.T) {
	s := newShuttle(t, 4, pbft.Factory(), nil)
	v := auth.NewVerifier(s.m, laxScheme{})
	d := NewDecoder(v, s.factory.NewCodec(v), laxScheme{})
	const n = 1 << 20
	ordering := func(kind byte, payload []byte) []byte { return append([]byte{8, kind, 32, 1}, within(2, payload)...) }
	for name, f := range map[string]Frame{
		"attached bundles":       {Class: wire.ClassProtocol, Kind: 1, Payload: many(3, n)},
		"relayed bundles":        {Class: wire.ClassForwardedProtocol, Payload: within(2, many(3, n))},
		"forwarded bundles":      {Class: wire.ClassForwardedRequests, Kind: wire.KindOnly, Payload: many(1, n)},
		"fetched ids":            {Class: wire.ClassFetch, Kind: wire.KindOnly, Payload: many(1, 100<<10)},
		"pages of a checkpoint":  {Class: wire.ClassStateTransfer, Kind: wire.KindAnswer, Payload: many(7, n)},
		"log entries":            {Class: wire.ClassLogTransfer, Kind: wire.KindAnswer, Payload: many(3, n)},
		"links":                  {Class: wire.ClassLogTransfer, Kind: wire.KindAnswer, Payload: many(4, n)},
		"bundles of one entry":   {Class: wire.ClassLogTransfer, Kind: wire.KindAnswer, Payload: within(3, many(2, n))},
		"bundles of all entries": {Class: wire.ClassLogTransfer, Kind: wire.KindAnswer, Payload: bytes.Repeat(within(3, many(2, 512)), 2048)},
		"timeouts":               {Class: wire.ClassProtocol, Kind: 7, Payload: ordering(7, many(2, n))},
		"proposed timeouts":      {Class: wire.ClassProtocol, Kind: 1, Payload: ordering(1, within(3, many(2, n)))},
		"split timeouts":         {Class: wire.ClassProtocol, Kind: 1, Payload: ordering(1, bytes.Repeat(within(3, many(2, 4)), 100<<10))},
		"headers":                {Class: wire.ClassProtocol, Kind: 10, Payload: ordering(10, many(1, n))},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := d.Decode(3, f.Class, f.Kind, f.Payload)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: taken", name)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 2*uint64(len(f.Payload)) {
			t.Errorf("%s: %d bytes allocated for %d received (%v)", name, got, len(f.Payload), err)
		}
	}
}

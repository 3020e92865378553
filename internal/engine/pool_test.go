package engine

import (
	"slices"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/wire"
)

// solo returns one started engine of four and the bundles to feed it.
func solo(t *testing.T, lim Limits, count int) (*shuttle, *Engine, []*smr.Bundle) {
	s := newShuttle(t, 4, fakeFactory(), func(c *Config) { c.Limits = lim })
	e := New(s.config(2))
	var out Output
	e.Start(s.now, Boot{SkipVoteCheck: true}, &out)
	var bs []*smr.Bundle
	for range count {
		bs = append(bs, s.bundle(1))
	}
	return s, e, bs
}

func ids(bs ...*smr.Bundle) (out []smr.BundleID) {
	for _, b := range bs {
		out = append(out, b.ID)
	}
	return out
}

func TestTheEngineNamesTheBundlesItGivesUp(t *testing.T) {
	s, e, bs := solo(t, Limits{ClientBundles: 2}, 7)
	var out Output
	e.Bundles(s.now, bs[1:4], auth.ClientIdentity(1), &out)
	if !slices.Equal(out.Stopped, ids(bs[3])) {
		t.Fatalf("beyond the client's bound: %v", out.Stopped)
	}
	out.Reset()
	e.Bundles(s.now, bs[5:6], auth.NodeIdentity(3), &out) // takes the forwarder's slot
	e.Bundles(s.now, bs[0:1], auth.NodeIdentity(3), &out) // a lower op takes it over
	if !slices.Equal(out.Stopped, ids(bs[5])) {
		t.Fatalf("put out of its slot: %v", out.Stopped)
	}
	out.Reset()
	e.Bundles(s.now, bs[1:2], auth.ClientIdentity(1), &out)
	if len(out.Stopped) != 0 || len(out.Decided) != 0 {
		t.Fatal("a copy of a bundle that waits ends the waiting")
	}
	// Decided under another signature: the waiting copy of the same op is given up.
	again := *bs[1]
	again.Acked = 0
	twin, err := wire.EncodeBundle(s.cluster, s.scheme.Signer(1001), again)
	if err != nil || twin.ID == bs[1].ID {
		t.Fatal(err)
	}
	e.store.put(twin)
	e.conclude(s.now, protocol.Decision{HeaderInfo: protocol.HeaderInfo{Seq: 1, Refs: []smr.BundleRef{twin.Ref()}}}, []*smr.Bundle{twin}, false, &out)
	e.finish(s.now, &out)
	if !slices.Contains(out.Stopped, bs[1].ID) || slices.Contains(out.Stopped, twin.ID) || !slices.Equal(out.Decided, ids(twin)) {
		t.Fatalf("stopped %v decided %v", out.Stopped, out.Decided)
	}
	out.Reset()
	e.Bundles(s.now, []*smr.Bundle{twin}, auth.ClientIdentity(1), &out)
	if !slices.Equal(out.Decided, ids(twin)) || len(out.Stopped) != 0 {
		t.Fatalf("offered again after its decision: stopped %v decided %v", out.Stopped, out.Decided)
	}
	if out.Reset(); len(out.Stopped) != 0 {
		t.Fatal("not reset")
	}
}

func TestAPeerEvictsOnlyWhatItSentItself(t *testing.T) {
	_, e, bs := solo(t, Limits{LooseBytes: 2000, InlineBytes: 1}, 60)
	st := e.store
	st.bring(bs[0], 1)
	if st.bring(bs[1], 3); st.bring(bs[1], 1) {
		t.Fatal("a known bundle counts as new")
	}
	for _, b := range bs[2:] {
		st.bring(b, 3)
	}
	for i, want := range map[int]bool{0: true, 1: true, 2: false, 59: true} {
		if _, ok := st.get(bs[i].ID); ok != want {
			t.Fatalf("bundle %d kept: %v", i, ok)
		}
	}
	if got := e.Status().Pool.LooseBytes; got == 0 || got > 2000 || len(st.all) > 20 {
		t.Fatalf("%d loose bytes, %d bundles", got, len(st.all))
	}
	// Held, then released: back into the share it came from.
	x, _ := st.get(bs[1].ID)
	st.hold(x)
	if st.release(x); x.loose != 1 {
		t.Fatalf("in %d shares", x.loose)
	}
	if st.decide(x, false); x.loose != 0 {
		t.Fatal("decided, but still loose")
	}
}

func TestTheNewestLooseBundleStaysHoweverLarge(t *testing.T) {
	_, e, bs := solo(t, Limits{LooseBytes: 1, InlineBytes: 1}, 2)
	e.store.bring(bs[0], 3)
	e.store.bring(bs[1], 3)
	_, old := e.store.get(bs[0].ID)
	if _, ok := e.store.get(bs[1].ID); !ok || old {
		t.Fatal("a bundle that is waited for is evicted as it arrives, or nothing is")
	}
}

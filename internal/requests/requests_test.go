package requests

import (
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeSessions admits clients under their keys and has seen what it is told.
type fakeSessions struct {
	mu   sync.Mutex
	keys map[smr.ClientID]smr.PublicKey
	seen map[smr.BundleID]bool
}

func (f *fakeSessions) Admitted(c smr.ClientID, k smr.PublicKey) bool { return f.keys[c] == k }
func (f *fakeSessions) Seen(b *smr.Bundle) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen[b.ID]
}

func bundle(n uint64, size int) *smr.Bundle {
	b := &smr.Bundle{Kind: smr.BundleOps, Client: 1, Session: 1, First: smr.OpNumber(n), Ops: [][]byte{{}}, Raw: make([]byte, size)}
	binary.BigEndian.PutUint64(b.ID[:], n)
	return b
}

func TestCoreVerdicts(t *testing.T) {
	ss := &fakeSessions{keys: map[smr.ClientID]smr.PublicKey{1: {}}, seen: map[smr.BundleID]bool{}}
	limits := Limits{ClientBundles: 3, ClientBytes: 1000, Expiry: time.Minute, Resend: time.Second}
	validate := func(op []byte) error {
		switch string(op) {
		case "bad":
			return errors.New("no such thing")
		case "panic":
			panic("boom")
		}
		return nil
	}
	c := NewCore(limits, ss, NewLedger(), validate)
	now := time.Unix(0, 0)
	want := func(what string, b *smr.Bundle, kind VerdictKind, text string) {
		t.Helper()
		if v := c.Offer(now, b); v.Kind != kind || !strings.Contains(v.Text, text) {
			t.Errorf("%s: %+v, want %d %q", what, v, kind, text)
		}
	}
	one := bundle(1, 400)
	want("new", one, Accept, "")
	want("again", one, Duplicate, "")
	want("second", bundle(2, 400), Accept, "")
	want("bytes", bundle(3, 400), Busy, "bytes outstanding")
	want("third", bundle(4, 100), Accept, "")
	want("bundles", bundle(5, 1), Busy, "3 bundles outstanding")
	now = now.Add(2 * time.Second)
	want("late copy", one, Accept, "")
	want("and again", one, Duplicate, "")
	c.Released([]smr.BundleID{one.ID})
	want("released", one, Accept, "")
	c.Decided([]smr.BundleID{one.ID})
	ss.seen[one.ID] = true
	want("executed", one, Executed, "")
	if v := c.Reorder(now, one); v.Kind != Accept {
		t.Errorf("reorder: %+v", v)
	}
	want("being reordered", one, Duplicate, "")
	bad := bundle(6, 1)
	bad.Ops = [][]byte{{}, []byte("bad")}
	want("refused", bad, Rejected, "op 7: no such thing")
	bad.Ops[1] = []byte("panic")
	want("panicking", bad, Rejected, "panicked")
	stranger := bundle(7, 1)
	stranger.Key = smr.PublicKey{9}
	want("stranger", stranger, NoKey, "")
	now = now.Add(2 * time.Minute)
	want("after expiry", bundle(8, 1), Accept, "")
	if n := c.Outstanding(); n != 1 {
		t.Errorf("%d outstanding after all expired but one", n)
	}
	c.Stopped([]smr.BundleID{bundle(8, 1).ID})
	if len(c.ledger.clients) != 0 {
		t.Errorf("ledger keeps %v", c.ledger.clients)
	}
}

func TestPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scheme := auth.NewStandIn(1)
		cluster := smr.ClusterID{1}
		k1, k2 := scheme.Signer(1), scheme.Signer(2)
		ss := &fakeSessions{keys: map[smr.ClientID]smr.PublicKey{1: k1.Public(), 2: k2.Public()}, seen: map[smr.BundleID]bool{}}
		var mu sync.Mutex
		accepted := map[auth.Identity]int{}
		var advice []*wirepb.Advice
		resent := 0
		p := NewPool(PoolConfig{
			Cluster: cluster, Scheme: scheme, Sessions: ss, Verifiers: 2, Partitions: 3, SourceBytes: 100 << 10,
			Accepted: func(bs []*smr.Bundle, from auth.Identity) {
				mu.Lock()
				defer mu.Unlock()
				accepted[from] += len(bs)
			},
			Resend: func(b *smr.Bundle, missed func(*smr.Bundle)) bool { resent++; missed(b); return true },
			Advise: func(_ smr.ClientID, a *wirepb.Advice) {
				mu.Lock()
				defer mu.Unlock()
				advice = append(advice, a)
			},
		})
		sign := func(s auth.Signer, client smr.ClientID, session smr.SessionID, op string) *smr.Bundle {
			b, err := wire.EncodeBundle(cluster, s, smr.Bundle{Kind: smr.BundleOps, Client: client, Session: session, First: 1, Ops: [][]byte{[]byte(op)}})
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		submit := func(from auth.Identity, bs ...*smr.Bundle) error { return p.Submit(from, wire.EncodeBundles(bs)) }
		c1, c2, r3 := auth.ClientIdentity(1), auth.ClientIdentity(2), auth.NodeIdentity(3)
		var all []*smr.Bundle
		for i := range 20 {
			all = append(all, sign(k1, 1, smr.SessionID(i+1), "x"))
		}
		if err := submit(c1, all...); err != nil {
			t.Fatal(err)
		}
		if err := submit(c2, all[0]); err == nil {
			t.Error("client 2 submits in client 1's name")
		}
		if err := submit(r3, all[0], all[1]); err != nil {
			t.Error("forwarded:", err)
		}
		broken := append([]byte(nil), sign(k2, 2, 1, "y").Raw...)
		broken[len(broken)-1] ^= 1
		b, err := wire.DecodeBundle(broken)
		if err != nil {
			t.Fatal(err)
		}
		if err := submit(c2, b, sign(k2, 2, 2, "y"), sign(k1, 2, 3, "z")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if accepted[c1] != 20 || accepted[r3] != 2 || accepted[c2] != 1 {
			t.Errorf("accepted %v", accepted)
		}
		if len(advice) != 1 || advice[0].Code != uint32(wire.AdviceNoKey) {
			t.Errorf("advice %v", advice)
		}
		if st := p.Stats(); st.BadSignature != 1 || st.WaitingBytes != 0 {
			t.Errorf("%+v", st)
		}
		// Executed, but the reply is gone: ordered once more.
		p.Decided([]smr.BundleID{all[0].ID})
		synctest.Wait()
		ss.mu.Lock()
		ss.seen[all[0].ID] = true
		ss.mu.Unlock()
		_ = submit(c1, all[0])
		synctest.Wait()
		if resent != 1 || accepted[c1] != 21 {
			t.Errorf("resent %d, accepted %v", resent, accepted)
		}
		// A flood is refused at the edge, with the limit named.
		advice = nil
		var flood []*smr.Bundle
		for i := range 3 {
			flood = append(flood, sign(k2, 2, smr.SessionID(50+i), strings.Repeat("f", 60<<10)))
		}
		_ = submit(c2, flood...)
		synctest.Wait()
		if len(advice) != 2 || advice[0].Code != uint32(wire.AdviceBusy) || advice[0].Text == "" || advice[0].RetryAfterMs == 0 {
			t.Errorf("advice %v", advice)
		}
		p.Close()
	})
}

func FuzzSubmit(f *testing.F) {
	scheme := auth.NewStandIn(1)
	s := scheme.Signer(1)
	b, _ := wire.EncodeBundle(smr.ClusterID{}, s, smr.Bundle{Kind: smr.BundleOpen, Client: 1, Nonce: 1})
	f.Add(wire.EncodeBundles([]*smr.Bundle{b}))
	ss := &fakeSessions{keys: map[smr.ClientID]smr.PublicKey{1: s.Public()}}
	p := NewPool(PoolConfig{
		Scheme: scheme, Sessions: ss, Accepted: func([]*smr.Bundle, auth.Identity) {},
		Resend: func(*smr.Bundle, func(*smr.Bundle)) bool { return true }, Advise: func(smr.ClientID, *wirepb.Advice) {},
	})
	f.Cleanup(p.Close)
	f.Fuzz(func(t *testing.T, payload []byte) { _ = p.Submit(auth.ClientIdentity(1), payload) })
}

// One bundle that waits long must not make everything decided meanwhile be remembered with it.
func TestWhatWasDecidedIsForgottenBehindABundleThatWaits(t *testing.T) {
	ss := &fakeSessions{keys: map[smr.ClientID]smr.PublicKey{1: {}}, seen: map[smr.BundleID]bool{}}
	c := NewCore(DefaultLimits(), ss, NewLedger(), nil)
	now := time.Unix(0, 0)
	c.Offer(now, bundle(1, 10))
	for n := uint64(2); n < 20_000; n++ {
		b := bundle(n, 10)
		if v := c.Offer(now, b); v.Kind != Accept {
			t.Fatalf("bundle %d: %+v", n, v)
		}
		c.Decided([]smr.BundleID{b.ID})
		if full := c.Overfull(); full != "" {
			t.Fatal(full)
		}
	}
	if v := c.Offer(now.Add(2*time.Minute), bundle(1, 10)); v.Kind != Accept || c.Outstanding() != 1 {
		t.Errorf("the bundle that waited did not expire: %+v, %d outstanding", v, c.Outstanding())
	}
}

package engine

import (
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/pbft"
)

// twisted is a Byzantine primary: a correct ordering whose batches are replaced.
type twisted struct {
	protocol.Ordering
	twist func(smr.Batch) smr.Batch
	again func() (smr.Batch, bool) // what to propose on every timer, if anything
}

func (x *twisted) Propose(now time.Time, b smr.Batch, out *protocol.Effects) {
	x.Ordering.Propose(now, x.twist(b), out)
}

func (x *twisted) Expire(now time.Time, id protocol.TimerID, out *protocol.Effects) {
	x.Ordering.Expire(now, id, out)
	if b, ok := x.again(); ok && x.Want() > 0 {
		b.Time = now.UnixNano()
		x.Ordering.Propose(now, b, out)
	}
}

// twist makes node 1 of a PBFT cluster Byzantine.
func twist(x *twisted) protocol.Factory {
	f := pbft.Factory()
	f.New = func(p protocol.Params) protocol.Ordering {
		if p.Self != 1 {
			return pbft.New(p)
		}
		x.Ordering = pbft.New(p)
		return x
	}
	return f
}

func TestPBFTALieAboutALengthIsNotDecided(t *testing.T) {
	s := newShuttle(t, 4, twist(&twisted{
		twist: func(b smr.Batch) smr.Batch {
			b.Refs = append([]smr.BundleRef(nil), b.Refs...)
			for i := range b.Refs {
				b.Refs[i].Bytes = 1
			}
			return b
		},
		again: func() (smr.Batch, bool) { return smr.Batch{}, false },
	}), nil)
	s.startAll()
	s.run(100*time.Millisecond, nil)
	bs := s.load(20, time.Millisecond, all(4)...)
	must1(t, s, s.run(20*time.Second, s.allHave(bs...)), "the liar is not replaced")
	for _, d := range s.nodes[1].applied {
		for i, ref := range d.Decision.Refs {
			if int(ref.Bytes) != len(d.Bundles[i].Raw) {
				t.Fatalf("seq %d says %d bytes of a bundle of %d: nobody can fetch it from the log", d.Decision.Seq, ref.Bytes, len(d.Bundles[i].Raw))
			}
		}
	}
}

func TestPBFTAPrimaryThatRepeatsOldWorkIsReplaced(t *testing.T) {
	var old smr.Batch
	s := newShuttle(t, 4, twist(&twisted{
		twist: func(b smr.Batch) smr.Batch {
			if old.Refs == nil {
				old = b
			}
			return old
		},
		again: func() (smr.Batch, bool) { return old, old.Refs != nil },
	}), nil)
	s.startAll()
	s.run(100*time.Millisecond, nil)
	bs := s.load(1, time.Millisecond, all(4)...)
	s.run(500*time.Millisecond, nil)
	bs = append(bs, s.load(20, time.Millisecond, 2, 3, 4)...)
	must1(t, s, s.run(30*time.Second, s.allHave(bs...)), "old work over and over counts as progress")
}

func TestPBFTAPrimaryThatOrdersOnlyWhatItAloneGotIsReplaced(t *testing.T) {
	s := newShuttle(t, 4, pbft.Factory(), func(c *Config) { c.Limits.OvertakeBytes = 10_000 })
	s.startAll()
	s.run(100*time.Millisecond, nil)
	s.nodes[0].admit = false // drops whatever is forwarded to it
	victim := s.bundle(9)
	s.submit(victim, 2, 3, 4)
	for range 400 {
		s.submit(s.bundle(1), 1)
		if s.run(10*time.Millisecond, s.allHave(victim)) {
			return
		}
	}
	t.Fatal("censored by work that nobody else knew")
}

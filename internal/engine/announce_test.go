package engine

import (
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/wire"
)

// A replica that loses every message about checkpoints for a while keeps an old stable one, and its
// window ends there: it must hear of the newest again, though nobody votes about it any more.
func TestPBFTACheckpointCertificateThatWasLostIsToldAgain(t *testing.T) {
	s := newShuttle(t, 4, pbft.Factory(), func(c *Config) { c.Params.Window = 16 })
	deaf := true
	s.cut = func(from, to smr.NodeID, f Frame) bool { return deaf && to == 2 && f.Class == wire.ClassCheckpoint }
	s.startAll()
	s.run(100*time.Millisecond, nil)
	bs := s.load(20, 20*time.Millisecond, all(4)...)
	must1(t, s, s.run(5*time.Second, func() bool { return s.nodes[0].e.Status().Stable > 0 }), "no stable checkpoint")
	must1(t, s, s.run(5*time.Second, s.allHave(bs[:8]...)), "does not decide")
	if st := s.nodes[1].e.Status().Stable; st != 0 {
		t.Fatalf("replica 2 heard of the checkpoint at %d", st)
	}
	deaf = false
	// Nothing new is ordered, so nobody votes about a checkpoint any more.
	must1(t, s, s.run(20*time.Second, func() bool { return s.nodes[1].e.Status().Stable == s.nodes[0].e.Status().Stable }), "the certificate is not told again")
	must1(t, s, s.run(20*time.Second, s.allHave(bs...)), "stays behind")
}

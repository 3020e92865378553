package sim

import (
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/kv"
)

// appFault is what is wrong with the application of one replica.
type appFault struct {
	slow      int  // how many times slower it is; 0: not
	panicNext bool // at the next op
	panicked  bool
	diverges  bool // it is not deterministic: its state and its replies are its own
}

// spoil makes the state of a replica another one than that of its peers.
func (n *node) spoil(ctx *smr.Context, s smr.Service) {
	op, err := kv.RequestCodec{}.Append(nil, kv.Put("key0", fmt.Sprintf("replica %d at %d.%d", n.id, ctx.Seq, ctx.Index)))
	if err == nil {
		_, err = s.Execute(ctx, op, nil)
	}
	if err != nil {
		n.c.fail("replica %d: spoil its state: %v", n.id, err)
	}
}

// slowApplication makes execution on one replica slow for a while.
func (f *occurrence) slowApplication() {
	id := f.c.someone(f.rng)
	if id == 0 {
		return
	}
	f.took()
	n := f.c.nodes[id-1]
	n.app.slow = 5 + f.rng.IntN(50)
	f.c.clk.after(f.For, func() { n.app.slow = 0 })
}

// panicApplication makes the next op panic on one replica: it stops executing and serving, and goes
// on voting until it is restarted.
func (f *occurrence) panicApplication() {
	n := f.victim(false)
	if n == nil {
		return
	}
	f.took()
	n.app.panicNext, n.doomed = true, true
	life := n.life
	f.c.clk.after(f.For, func() {
		n.app.panicNext = false
		if n.life == life && n.up {
			n.crash()
			n.restart()
		}
	})
}

// diverge makes the application of one replica non-deterministic, for good: the replica must find
// out at its next checkpoint that is certified, and say so.
func (f *occurrence) diverge() {
	n := f.victim(false)
	if n == nil {
		return
	}
	f.took()
	n.app.diverges, n.bad = true, "a non-deterministic application"
}

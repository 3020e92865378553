package sim

import (
	"fmt"

	"github.com/atlas-smr/smr"
)

// watchedService is the application of a correct replica as the oracle watches it.
type watchedService struct {
	smr.Service
	o     *oracle
	n     *node
	seq   smr.SeqNo // of the newest op in this life
	index int
}

// Execute implements smr.Service.
func (w *watchedService) Execute(ctx *smr.Context, op, dst []byte) ([]byte, error) {
	if w.seq > ctx.Seq || w.seq == ctx.Seq && w.index >= ctx.Index {
		w.o.c.fail("order: replica %d executes %d.%d after %d.%d", w.n.id, ctx.Seq, ctx.Index, w.seq, w.index)
	}
	w.seq, w.index = ctx.Seq, ctx.Index
	if w.n.app.panicNext {
		w.n.app.panicNext, w.n.app.panicked = false, true
		panic("the application broke on this replica")
	}
	before := len(dst)
	out, err := w.Service.Execute(ctx, op, dst)
	at := opPlace{seq: ctx.Seq, index: ctx.Index, op: hash(op)}
	if err != nil {
		at.reply = hash([]byte(fmt.Sprint(err)))
	} else {
		at.reply = hash(out[before:])
	}
	if w.n.app.diverges {
		w.n.spoil(ctx, w.Service)
		return out, err
	}
	w.o.executed(w.n.id, opKey{ctx.Session, ctx.Op}, at)
	return out, err
}

func hash(b []byte) uint64 {
	t := trace{sum: fnvOffset}
	t.bytes(b)
	return t.sum
}

package execution

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol"
)

// batchOps is how many ops are planned, at least, before they are handed to an application that
// takes runs of ops at once.
const batchOps = 1024

// work is the memory of one Apply, kept for the next. A batch is worked off in rounds: bundles are
// planned (the session table decides which ops run and marks them consumed), the planned ops are
// executed, and their results recorded, in bundle order. A round is one bundle, or about batchOps
// ops for an application with a batch path; what is recorded does not depend on the rounds.
type work struct {
	seq   smr.SeqNo
	out   *Output
	opens int // opens executed in this batch so far
	index int // ops handed to the application in this batch so far
	time  time.Time

	runs  []run
	items []item
	cur   int // the run that is being recorded
	item  int // the op that is being executed, -1 for none

	enc    []byte // results of the open block
	lo, hi smr.OpNumber

	ctx     smr.Context
	scratch []byte
	ctxs    []*smr.Context
	ops     [][]byte
	done    func(int, []byte, error)
}

// run is one bundle of a round.
type run struct {
	b      *smr.Bundle
	s      *session     // nil if the bundle was refused or is an open
	low    smr.OpNumber // of the session's window when the bundle was planned
	first  int          // its first item
	items  int
	passed int         // ops of it that are no items: consumed before, or beyond the window
	refuse smr.Outcome // of every op, if the bundle was refused
	silent bool        // refused without a word
	opened smr.SessionID
}

// item is one op that the table let through.
type item struct {
	run    int
	offset int // of the op in its bundle
	skip   bool
}

func (c *Core) begin(seq smr.SeqNo, out *Output) {
	w := &c.work
	w.seq, w.out, w.opens, w.index, w.item = seq, out, 0, 0, -1
	c.applies++
	clear(c.touched)
	c.touched, c.gone = c.touched[:0], c.gone[:0]
}

// keepScratch bounds the buffers that are kept from batch to batch.
const keepScratch = 4 << 20

func (w *work) release() {
	clear(w.runs)
	clear(w.ops)
	w.runs, w.items, w.ops, w.out, w.enc = w.runs[:0], w.items[:0], w.ops[:0], nil, w.enc[:0]
	w.ctx.Reset()
	if cap(w.scratch) > keepScratch {
		w.scratch = nil
	}
}

func (c *Core) applyBundles(d protocol.Decision, bundles []*smr.Bundle) error {
	w := &c.work
	w.time = c.agreedTime(d)
	for i := 0; i < len(bundles); {
		w.runs, w.items, w.cur, w.item = w.runs[:0], w.items[:0], -1, -1
		for i < len(bundles) && (len(w.runs) == 0 || c.batch != nil && len(w.items) < batchOps) {
			c.plan(bundles[i])
			i++
		}
		if err := c.execute(); err != nil {
			return err
		}
		c.record(len(w.runs))
	}
	return nil
}

// plan lets the session table decide about a bundle.
func (c *Core) plan(b *smr.Bundle) {
	w, t := &c.work, c.table
	r := run{b: b, first: len(w.items)}
	cl := t.clients[b.Client]
	switch {
	case cl == nil:
		r.refuse = smr.OutcomeNotAdmitted
	case cl.key != b.Key:
		// Somebody else signed in this client's name: its owner must not read this as the outcome
		// of an op of its own.
		r.refuse, r.silent = smr.OutcomeNotAdmitted, true
	case b.Kind == smr.BundleOpen:
		s, evicted, o := t.open(cl, b.Nonce, smr.NewSessionID(w.seq, w.opens))
		r.refuse = o
		if evicted != nil {
			c.gone = append(c.gone, evicted.id)
			c.counts.Evicted++
		}
		if o == smr.OutcomeExecuted {
			r.opened = s.id
			if s.id.Opened() == w.seq && s.id.Position() == w.opens {
				w.opens++
				c.counts.Opens++
			}
			c.note(s)
		}
	default:
		s := t.sessions[b.Session]
		if s == nil || s.client != b.Client {
			r.refuse = smr.OutcomeNoSession
			break
		}
		r.s = t.use(s)
		c.note(r.s)
		c.admit(&r)
	}
	w.runs = append(w.runs, r)
}

// admit consumes the ops of a bundle that its session has not seen, as items.
func (c *Core) admit(r *run) {
	w, s, b := &c.work, r.s, r.b
	s.advance(b.Acked)
	r.low = s.low
	for i := range b.Ops {
		op := b.First + smr.OpNumber(i)
		if s.seen(op) && !mutant.On(mutant.SeenUnchecked) || op-s.low >= smr.SessionWindow {
			r.passed++
			continue
		}
		s.set(op)
		it := item{run: len(w.runs), offset: i}
		if c.skips != nil {
			it.skip = c.skips[Skip{w.seq, s.id, op}]
		}
		w.items = append(w.items, it)
		r.items++
	}
}

func (c *Core) execute() error {
	w := &c.work
	if c.batch != nil && c.skips == nil && len(w.items) > 0 {
		return c.executeBatch()
	}
	for i, it := range w.items {
		w.item = i
		if it.skip {
			c.result(i, smr.OutcomeSkipped, nil)
			continue
		}
		b := w.runs[it.run].b
		c.setContext(&w.ctx, b, it.offset)
		reply, err := c.service.Execute(&w.ctx, b.Ops[it.offset], w.scratch[:0])
		if f := w.ctx.Fenced(); f != nil {
			return c.fence(f, nil)
		}
		w.scratch = reply
		if err := c.outcome(i, reply, err); err != nil {
			return c.fence(err, nil)
		}
	}
	w.item = -1
	return nil
}

func (c *Core) executeBatch() error {
	w := &c.work
	for len(w.ctxs) < len(w.items) {
		w.ctxs = append(w.ctxs, new(smr.Context))
	}
	w.ops = w.ops[:0]
	ctxs := w.ctxs[:len(w.items)]
	for i, it := range w.items {
		b := w.runs[it.run].b
		c.setContext(ctxs[i], b, it.offset)
		w.ops = append(w.ops, b.Ops[it.offset])
	}
	c.batch.ExecuteBatch(ctxs, w.ops, w.done)
	for i, ctx := range ctxs {
		if f := ctx.Fenced(); f != nil {
			w.item = i
			return c.fence(f, nil)
		}
	}
	if c.fenced != nil {
		return c.fenced
	}
	w.item = -1
	return nil
}

func (c *Core) batchResult(i int, reply []byte, err error) {
	c.work.item = i
	if err := c.outcome(i, reply, err); err != nil && c.fenced == nil {
		_ = c.fence(err, nil)
	}
}

func (c *Core) setContext(ctx *smr.Context, b *smr.Bundle, offset int) {
	w := &c.work
	ctx.Reset()
	ctx.Seq, ctx.Index, ctx.Time = w.seq, w.index, w.time
	ctx.Client, ctx.Session, ctx.Op = b.Client, b.Session, b.First+smr.OpNumber(offset)
	w.index++
}

// outcome records what the service made of an op; an error is none the contract of Service knows.
func (c *Core) outcome(i int, reply []byte, err error) error {
	switch {
	case err == nil && len(reply) > smr.MaxReplyBytes:
		c.result(i, smr.OutcomeTooLarge, nil)
	case err == nil:
		c.counts.Executed++
		c.result(i, smr.OutcomeExecuted, reply)
	case errors.Is(err, smr.ErrMalformed):
		c.counts.Malformed++
		c.result(i, smr.OutcomeMalformed, nil)
	default:
		return fmt.Errorf("service: %w", err)
	}
	return nil
}

// result records the result of an item. Items come in order.
func (c *Core) result(i int, o smr.Outcome, reply []byte) {
	w := &c.work
	it := w.items[i]
	c.record(it.run)
	op := w.runs[it.run].b.First + smr.OpNumber(it.offset)
	if len(w.enc) == 0 {
		w.lo = op
	}
	w.hi = op
	w.enc = appendResult(w.enc, uint64(op), o, reply, w.seq)
	if len(w.enc) >= blockBytes {
		c.seal(&w.runs[it.run])
	}
}

// record brings the recording to run `to`, finishing all before it.
func (c *Core) record(to int) {
	w := &c.work
	for w.cur < to {
		if w.cur >= 0 {
			c.finish(&w.runs[w.cur])
		}
		w.cur++
		if w.cur < len(w.runs) && w.runs[w.cur].s != nil {
			w.runs[w.cur].s.trim(w.runs[w.cur].low)
		}
	}
}

// seal closes the open block of results: cached and sent.
func (c *Core) seal(r *run) {
	w := &c.work
	if len(w.enc) == 0 {
		return
	}
	b := &block{lo: w.lo, hi: w.hi, enc: append([]byte(nil), w.enc...)}
	w.enc = w.enc[:0]
	r.s.cache(b, c.table.limits.ReplyCacheBytes)
	w.out.add(Reply{Client: r.b.Client, Session: r.b.Session, Results: b.enc})
}

// finish records what a run has beyond results of executed ops.
func (c *Core) finish(r *run) {
	switch {
	case r.s != nil:
		c.seal(r)
		if r.passed > 0 {
			c.answerPassed(r)
		}
	case r.b.Kind == smr.BundleOpen:
		if r.refuse != smr.OutcomeExecuted {
			c.counts.Refused++
		}
		if !r.silent {
			c.work.out.add(openReply(r.b.Client, r.b.Nonce, r.refuse, r.opened, c.work.seq))
		}
	default:
		c.counts.Refused++
		if !r.silent {
			c.work.out.add(uniform(r.b, r.refuse, c.work.seq))
		}
	}
}

// openReply is the result of an open; that of an equal nonce is the same to the byte.
func openReply(client smr.ClientID, nonce uint64, o smr.Outcome, id smr.SessionID, seq smr.SeqNo) Reply {
	var data []byte
	if o == smr.OutcomeExecuted {
		data = binary.BigEndian.AppendUint64(nil, uint64(id))
		seq = id.Opened()
	}
	return Reply{Client: client, Open: true, Results: appendResult(nil, nonce, o, data, seq)}
}

// uniform is one outcome for every op of b.
func uniform(b *smr.Bundle, o smr.Outcome, seq smr.SeqNo) Reply {
	var enc []byte
	for i := range b.Ops {
		enc = appendResult(enc, uint64(b.First)+uint64(i), o, nil, seq)
	}
	return Reply{Client: b.Client, Session: b.Session, Results: enc}
}

// answerPassed answers the ops of a run that were not executed: consumed before, their replies
// cached or gone, or beyond the window.
func (c *Core) answerPassed(r *run) {
	w, b := &c.work, r.b
	var want opSet
	var enc []byte
	next := r.first
	for i := range b.Ops {
		if next < r.first+r.items && w.items[next].offset == i {
			next++
			continue
		}
		op := b.First + smr.OpNumber(i)
		switch {
		case op < r.low:
			c.counts.Duplicates++
			enc = appendResult(enc, uint64(op), smr.OutcomeReplyGone, nil, w.seq)
		case op-r.low >= smr.SessionWindow:
			c.counts.Refused++
			enc = appendResult(enc, uint64(op), smr.OutcomeBeyondWindow, nil, w.seq)
		default:
			c.counts.Duplicates++
			want.add(i)
		}
	}
	for _, blk := range r.s.cached() {
		if found := blk.pick(b.First, len(b.Ops), &want); found != nil {
			w.out.add(Reply{Client: b.Client, Session: b.Session, Results: found})
		}
	}
	for i := range b.Ops {
		if want.has(i) {
			enc = appendResult(enc, uint64(b.First)+uint64(i), smr.OutcomeReplyGone, nil, w.seq)
		}
	}
	if enc != nil {
		w.out.add(Reply{Client: b.Client, Session: b.Session, Results: enc})
	}
}

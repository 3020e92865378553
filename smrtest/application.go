package smrtest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
)

// Rounds of Application, and ops in each.
const (
	rounds      = 4
	opsPerRound = 250
)

// Application checks a service against the rules of replication:
//
//   - two instances that execute the same ops give the same replies and the same state, byte for byte,
//     whenever captures were taken;
//   - a state that is written and restored into a fresh instance goes on as the original does;
//   - a capture is of the moment of Freeze, whatever is executed before it is written;
//   - Query changes nothing;
//   - parts of divisible state are listed as they are, in order; a later state goes back to an earlier
//     one by the parts that differ; Reset gives the state of a new instance.
//
// newService returns a fresh instance in the genesis state. op draws an op, valid or not, from rng;
// it must draw from nothing else. A service without state fails: no replica runs it.
func Application(t *testing.T, newService func() smr.Service, op func(rng *rand.Rand) []byte) {
	t.Helper()
	for seed := range uint64(rounds) {
		ops := make([][]byte, opsPerRound)
		rng := rand.New(rand.NewPCG(seed, 0))
		for i := range ops {
			ops[i] = op(rng)
		}
		check(t, newService, ops)
		if t.Failed() {
			t.Logf("smrtest.Application: seed %d", seed)
			return
		}
	}
}

func check(t testing.TB, newService func() smr.Service, ops [][]byte) {
	t.Helper()
	half := len(ops) / 2
	a, b := &runner{t: t, s: newService()}, &runner{t: t, s: newService()}
	for _, op := range ops[:half] {
		same(t, a, b, op)
	}
	frozen, ok := capture(t, a.s.State())
	if !ok {
		t.Errorf("the application has no state: it cannot be checkpointed")
		return
	}
	before := a.snapshot()
	for _, op := range ops {
		a.query(op)
	}
	if after := a.snapshot(); !bytes.Equal(before, after) {
		t.Errorf("Query changed the state")
	}
	if other := b.snapshot(); !bytes.Equal(before, other) {
		t.Errorf("equal ops, different states: %d and %d bytes", len(before), len(other))
	}

	restored := &runner{t: t, s: newService(), index: a.index}
	if err := restore(t, restored.s.State(), before); err != nil {
		t.Errorf("Restore of its own snapshot: %v", err)
		return
	}
	if again := restored.snapshot(); !bytes.Equal(before, again) {
		t.Errorf("a restored state is written differently: %d and %d bytes", len(before), len(again))
	}
	for i, op := range ops[half:] {
		same(t, a, restored, op)
		if i%9 == 0 {
			_ = restored.snapshot() // captures must leave no trace
		}
	}
	if x, y := a.snapshot(), restored.snapshot(); !bytes.Equal(x, y) {
		t.Errorf("after a restore, equal ops give different states: %d and %d bytes", len(x), len(y))
	}
	if late := frozen(); !bytes.Equal(before, late) {
		t.Errorf("a capture changed while ops were executed")
	}
	divisible(t, a.s.State(), before, newService)
}

// same executes op on two instances.
func same(t testing.TB, a, b *runner, op []byte) {
	t.Helper()
	x, errX := a.execute(op)
	y, errY := b.execute(op)
	if !bytes.Equal(x, y) || (errX == nil) != (errY == nil) {
		t.Errorf("op %q: one instance replied %q (%v), the other %q (%v)", op, x, errX, y, errY)
	}
}

// runner executes ops on one instance, with agreed contexts.
type runner struct {
	t     testing.TB
	s     smr.Service
	index int
}

const opsPerBatch = 10

func (r *runner) execute(op []byte) ([]byte, error) {
	r.t.Helper()
	seq := smr.SeqNo(1 + r.index/opsPerBatch)
	ctx := &smr.Context{
		Seq: seq, Index: r.index % opsPerBatch, Time: time.Unix(int64(seq), 0).UTC(),
		Client: 1, Session: smr.NewSessionID(1, 0), Op: smr.OpNumber(r.index + 1),
	}
	r.index++
	reply, err := r.s.Execute(ctx, bytes.Clone(op), nil)
	if fenced := ctx.Fenced(); fenced != nil {
		r.t.Errorf("op %q fenced the replica: %v", op, fenced)
	}
	if err != nil && !errors.Is(err, smr.ErrMalformed) {
		r.t.Errorf("op %q: %v; Execute may only return ErrMalformed", op, err)
	}
	return reply, err
}

func (r *runner) query(op []byte) {
	r.t.Helper()
	seq := smr.SeqNo(1 + r.index/opsPerBatch)
	ctx := smr.NewQueryContext(seq, 1)
	if _, err := r.s.Query(ctx, bytes.Clone(op), nil); err != nil && !errors.Is(err, smr.ErrMalformed) {
		r.t.Errorf("query %q: %v; Query may only return ErrMalformed", op, err)
	}
	if ctx.Version() > seq {
		r.t.Errorf("query %q: version %d is ahead of the state, %d", op, ctx.Version(), seq)
	}
}

func (r *runner) snapshot() []byte {
	r.t.Helper()
	read, _ := capture(r.t, r.s.State())
	return read()
}

func write(t testing.TB, f smr.Frozen) []byte {
	t.Helper()
	defer f.Release()
	var b bytes.Buffer
	n, err := f.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Errorf("WriteTo wrote %d bytes and returned %d, %v", b.Len(), n, err)
	}
	return b.Bytes()
}

// iotest hands out a stream in short reads, as a transfer does.
type iotest struct{ r io.Reader }

func (r iotest) Read(p []byte) (int, error) {
	if len(p) > 7 {
		p = p[:7]
	}
	return r.r.Read(p)
}

package client

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
	"github.com/atlas-smr/smr/wire"
)

// ledger counts executions of each op; ops that begin with ! are malformed.
type ledger struct{ ran map[string]int }

func (l *ledger) Execute(_ *smr.Context, op, dst []byte) ([]byte, error) {
	if strings.HasPrefix(string(op), "!") {
		return dst, smr.ErrMalformed
	}
	l.ran[string(op)]++
	return append(append(dst, "did "...), op...), nil
}

func (l *ledger) Query(ctx *smr.QueryContext, op, dst []byte) ([]byte, error) {
	ctx.SetVersion(0)
	return fmt.Appendf(dst, "saw %s", op), nil
}
func (l *ledger) Validate([]byte) error { return nil }
func (l *ledger) State() smr.State      { return nil }

// replicas is n real execution cores behind a perfect order. The last f lie.
type replicas struct {
	t     tester
	m     *quorum.Membership
	cores []*execution.Core
	books []*ledger
	seq   smr.SeqNo
	past  []*smr.Bundle
	emit  func(from smr.NodeID, client smr.ClientID, class wire.Class, payload []byte)
	lie   func(from smr.NodeID, payload []byte) []byte // nil result: silence
}

func newReplicas(t tester, n int, limits execution.Limits) *replicas {
	r := &replicas{t: t, m: testMembership(t, quorum.Byzantine, n)}
	for range n {
		book := &ledger{ran: map[string]int{}}
		core, err := execution.New(execution.Config{
			Clients: []execution.Client{{ID: self, Key: stand.Signer(100).Public()}}, Limits: limits, Membership: r.m.Digest(),
		}, book)
		if err != nil {
			t.Fatal(err)
		}
		core.SetReadGate(0, true)
		r.cores, r.books = append(r.cores, core), append(r.books, book)
	}
	return r
}

func (r *replicas) decide(bundles ...*smr.Bundle) {
	r.seq++
	d := protocol.Decision{}
	d.Seq, d.Time = r.seq, int64(r.seq)
	for _, b := range bundles {
		d.Refs = append(d.Refs, b.Ref())
	}
	r.past = append(r.past, bundles...)
	for i, core := range r.cores {
		var out execution.Output
		if err := core.Apply(d, bundles, &out); err != nil {
			r.t.Fatal(err)
		}
		out.Frames(func(client smr.ClientID, payload []byte) { r.send(i, client, wire.ClassOrderedReply, payload) })
	}
}

func (r *replicas) send(i int, client smr.ClientID, class wire.Class, payload []byte) {
	id := r.m.Voter(i).ID
	if i >= r.m.N()-r.m.F() && r.lie != nil && class == wire.ClassOrderedReply {
		if payload = r.lie(id, payload); payload == nil {
			return
		}
	}
	r.emit(id, client, class, payload)
}

func (r *replicas) handle(f Frame) {
	switch f.Class {
	case wire.ClassOrderedRequest:
		bs, err := wire.DecodeBundles(f.Payload)
		if err != nil {
			r.t.Fatal(err)
		}
		if len(bs) != 1 {
			r.t.Fatal("a request of", len(bs), "bundles")
		}
		r.decide(bs...)
	case wire.ClassUnorderedRequest:
		var q wirepb.UnorderedRequest
		if err := q.UnmarshalVT(f.Payload); err != nil {
			r.t.Fatal(err)
		}
		i, _ := r.m.Index(f.To)
		b, _ := r.cores[i].Query(self, &q).MarshalVT()
		r.send(i, self, wire.ClassUnorderedReply, b)
	}
}

// forge turns a reply into another: other data, evicted, or gone.
func forge(pick uint64, payload []byte) []byte {
	var m wirepb.OrderedReply
	if err := m.UnmarshalVT(payload); err != nil {
		panic(err)
	}
	for _, s := range m.Sessions {
		for _, x := range s.Results {
			switch pick % 4 {
			case 0:
				x.Data = []byte("did nothing")
			case 1:
				x.Outcome, x.Data = uint32(smr.OutcomeNoSession), nil
			case 2:
				x.Outcome, x.Data = uint32(smr.OutcomeMalformed), nil
			case 3:
				x.Op++
			}
			x.Seq += pick
		}
	}
	b, _ := m.MarshalVT()
	return b
}

// Whatever is lost, repeated, reordered, forged by f replicas, evicted, or restarted: an op runs at
// most once, a reply is the service's, "not executed" is true for ever, and once frames arrive again
// every call ends.
func TestOutcomesAreTrueWhateverHappens(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		net := &fuzzed{t: t, now: time.Unix(1000, 0), calls: map[string]*Call{}, ends: map[string]Completion{}}
		net.reps = newReplicas(t, 4, execution.Limits{Sessions: 8, SessionsPerClient: 2, ReplyCacheBytes: 2 << 20})
		net.reps.emit = func(from smr.NodeID, _ smr.ClientID, class wire.Class, payload []byte) {
			net.back = append(net.back, arrived{from, class, payload})
		}
		net.reps.lie = func(_ smr.NodeID, payload []byte) []byte { return forge(net.lies, payload) }
		net.start(nil)
		t.Repeat(map[string]func(*rapid.T){
			"submit": func(t *rapid.T) {
				for range rapid.IntRange(1, 6).Draw(t, "n") {
					net.submit(rapid.SampledFrom([]string{"", "!", ""}).Draw(t, "kind"))
				}
			},
			"query": func(*rapid.T) { net.query() },
			"request": func(t *rapid.T) {
				if f, ok := take(t, &net.out); ok {
					net.lies = rapid.Uint64Range(0, 7).Draw(t, "lie")
					net.reps.handle(f)
				}
			},
			"reply":        func(t *rapid.T) { f, ok := take(t, &net.back); net.deliver(f, ok) },
			"lose request": func(t *rapid.T) { take(t, &net.out) },
			"lose reply":   func(t *rapid.T) { take(t, &net.back) },
			"wait":         func(t *rapid.T) { net.expire(time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond) },
			"repeat": func(t *rapid.T) {
				if len(net.reps.past) > 0 {
					net.reps.decide(rapid.SampledFrom(net.reps.past).Draw(t, "old"))
				}
			},
			"rival": func(t *rapid.T) { // another process of the same client takes sessions
				b, err := wire.EncodeBundle(net.reps.m.Cluster(), stand.Signer(100), smr.Bundle{Kind: smr.BundleOpen, Client: self, Nonce: net.core.state.Nonce + 1})
				if err != nil {
					t.Fatal(err)
				}
				net.reps.decide(b)
			},
			"restart": func(*rapid.T) { net.restart() },
			"":        func(*rapid.T) { net.check() },
		})
		for range 400 { // heal
			for len(net.out) > 0 {
				f := net.out[0]
				net.out = net.out[1:]
				net.reps.handle(f)
			}
			for len(net.back) > 0 {
				f := net.back[0]
				net.back = net.back[1:]
				net.deliver(f, true)
			}
			if next := net.core.Next(); !next.IsZero() {
				net.expire(max(next.Sub(net.now), 0))
			}
		}
		net.check()
		for op, call := range net.calls {
			if _, ok := net.ends[op]; !ok {
				t.Fatalf("%q never ends: phase %d, %+v", op, call.phase, net.core.Status())
			}
		}
	})
}

type arrived struct {
	from    smr.NodeID
	class   wire.Class
	payload []byte
}

func take[T any](t *rapid.T, from *[]T) (T, bool) {
	var none T
	if len(*from) == 0 {
		return none, false
	}
	i := rapid.IntRange(0, len(*from)-1).Draw(t, "which")
	f := (*from)[i]
	*from = append((*from)[:i], (*from)[i+1:]...)
	return f, true
}

// fuzzed is a Core between fuzzed queues to and from replicas.
type fuzzed struct {
	t      *rapid.T
	core   *Core
	reps   *replicas
	now    time.Time
	out    []Frame
	back   []arrived
	saved  *SessionState
	lies   uint64
	n      int
	starts uint64
	calls  map[string]*Call // those a result is owed for
	ends   map[string]Completion
}

func (f *fuzzed) start(state *SessionState) {
	f.starts++
	f.core = NewCore(CoreConfig{
		Membership: f.reps.m, Client: self, Signer: stand.Signer(100), Rand: rand.New(rand.NewPCG(f.starts, 2)),
		Resume: state, Keep: true, Limits: Limits{Window: 8, MaxBundleOps: 3},
	})
}

func (f *fuzzed) do(step func(out *Output)) {
	var out Output
	step(&out)
	f.core.Flush(f.now, &out)
	if out.Save != nil {
		s, err := DecodeSessionState(out.Save.Append(nil))
		if err != nil {
			f.t.Fatal(err)
		}
		f.saved = s
	}
	f.out = append(f.out, out.Send...)
	for _, d := range out.Done {
		op := d.Call.Tag.(string)
		if old, ok := f.ends[op]; ok {
			f.t.Fatalf("%q ends twice: %v, %v", op, old, d)
		}
		f.ends[op] = d
	}
}

func (f *fuzzed) submit(kind string) {
	f.n++
	op := fmt.Sprintf("%sop %d", kind, f.n)
	call := &Call{Tag: op}
	f.calls[op] = call
	f.do(func(*Output) {
		if err := f.core.Submit(call, []byte(op)); err != nil {
			f.t.Fatal(err)
		}
	})
}

func (f *fuzzed) query() {
	f.n++
	op := fmt.Sprintf("query %d", f.n)
	call := &Call{Tag: op}
	f.calls[op] = call
	f.do(func(out *Output) {
		if err := f.core.Query(f.now, call, []byte(op), Level{}, out); err != nil {
			f.t.Fatal(err)
		}
	})
}

func (f *fuzzed) deliver(a arrived, ok bool) {
	if ok {
		f.do(func(out *Output) {
			if err := f.core.Receive(f.now, a.from, a.class, wire.KindOnly, a.payload, out); err != nil {
				f.t.Fatal(err)
			}
		})
	}
}

func (f *fuzzed) expire(d time.Duration) {
	f.now = f.now.Add(d)
	f.do(func(out *Output) { f.core.Expire(f.now, out) })
}

// restart loses the Core and goes on from what was stored: what was never signed is forgotten, and
// was not executed; the rest must be recovered.
func (f *fuzzed) restart() {
	old := f.calls
	f.calls = map[string]*Call{}
	f.start(f.saved)
	calls, ops := f.core.Recovered()
	for i, call := range calls {
		op := string(ops[i])
		call.Tag = op
		f.calls[op] = call
		delete(f.ends, op) // its end may be told again
	}
	for op, call := range old {
		if _, ended := f.ends[op]; !ended && f.calls[op] == nil {
			if call.Signed() {
				f.t.Fatalf("%q was signed and is forgotten", op)
			}
			f.ends[op] = Completion{Call: call, Err: ErrNotExecuted}
		}
	}
}

func (f *fuzzed) check() {
	for _, book := range f.reps.books {
		for op, n := range book.ran {
			if n > 1 {
				f.t.Fatalf("%q ran %d times", op, n)
			}
		}
	}
	for op, d := range f.ends {
		ran := f.reps.books[0].ran[op]
		var oe *OutcomeError
		switch {
		case d.Err == nil && d.Ordered && (ran != 1 || string(d.Data) != "did "+op):
			f.t.Fatalf("%q ran %d times, reply %q", op, ran, d.Data)
		case d.Err == nil && !d.Ordered && string(d.Data) != "saw "+op:
			f.t.Fatalf("%q: answer %q", op, d.Data)
		case errors.Is(d.Err, ErrNotExecuted) && ran != 0:
			f.t.Fatalf("%q ran, and ended with %v", op, d.Err)
		case errors.As(d.Err, &oe) && oe.Executed() && ran != 1 && op[0] != '!':
			f.t.Fatalf("%q ran %d times, and ended with %v", op, ran, d.Err)
		}
	}
}

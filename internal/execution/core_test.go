package execution

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/wire"
)

// journal is an application that remembers every op in order and answers with its position.
type journal struct {
	smr.MonolithicState
	ops []string
}

func (j *journal) Execute(ctx *smr.Context, op []byte) []byte {
	switch string(op) {
	case "panic":
		panic("boom")
	case "fence":
		ctx.Fence(errors.New("disk"))
	case "huge":
		return make([]byte, smr.MaxReplyBytes+1)
	case "big":
		return make([]byte, 300<<10)
	}
	j.ops = append(j.ops, fmt.Sprintf("%v/%d=%s", ctx.Session, ctx.Op, op))
	return binary.BigEndian.AppendUint64(nil, uint64(len(j.ops)))
}

func (j *journal) Query(ctx *smr.QueryContext, op []byte) []byte {
	if string(op) == "panic" {
		panic("boom")
	}
	ctx.SetVersion(7)
	return fmt.Append(nil, len(j.ops))
}

func (j *journal) State() smr.State { return j }

type frozenJournal []string

func (j *journal) Freeze() smr.Frozen { return frozenJournal(j.ops[:len(j.ops):len(j.ops)]) }
func (f frozenJournal) Release()      {}
func (f frozenJournal) WriteTo(w io.Writer) (int64, error) {
	var b []byte
	for _, op := range f {
		b = append(append(b, op...), '\n')
	}
	n, err := w.Write(b)
	return int64(n), err
}
func (j *journal) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	j.ops = nil
	for _, l := range bytes.SplitAfter(b, []byte("\n")) {
		if len(l) > 0 {
			j.ops = append(j.ops, string(l[:len(l)-1]))
		}
	}
	return nil
}

// batched is a journal with a batch path.
type batched struct{ journal }

func (j *batched) ExecuteBatch(ctxs []*smr.Context, reqs, replies [][]byte) {
	for i := range reqs {
		replies[i] = j.Execute(ctxs[i], reqs[i])
	}
}

// picky refuses ops that start with '!'.
type picky struct{ smr.BytesCodec }

func (picky) Decode(b []byte) ([]byte, error) {
	if len(b) > 0 && b[0] == '!' {
		return nil, errors.New("refused")
	}
	return bytes.Clone(b), nil
}

func journalService() (smr.Service, *journal) {
	j := &journal{}
	return smr.NewService[[]byte, []byte](j, picky{}, smr.BytesCodec{}), j
}

func testClients(n int) []Client {
	var cs []Client
	for i := range n {
		cs = append(cs, Client{ID: smr.ClientID(i + 1), Key: smr.PublicKey{byte(i + 1)}})
	}
	return cs
}

func testLimits() Limits {
	return Limits{Sessions: 5, SessionsPerClient: 2, ReplyCacheBytes: DefaultLimits().ReplyCacheBytes}
}

func newCore(t testing.TB, svc smr.Service) *Core {
	t.Helper()
	c, err := New(Config{Clients: testClients(4), Limits: testLimits()}, svc)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var serial uint64

// ops makes a bundle as it would come verified.
func ops(client smr.ClientID, session smr.SessionID, first, acked smr.OpNumber, op ...string) *smr.Bundle {
	b := &smr.Bundle{Kind: smr.BundleOps, Client: client, Key: smr.PublicKey{byte(client)}, Session: session, First: first, Acked: acked}
	for _, o := range op {
		b.Ops = append(b.Ops, []byte(o))
	}
	return withID(b)
}

func open(client smr.ClientID, nonce uint64) *smr.Bundle {
	return withID(&smr.Bundle{Kind: smr.BundleOpen, Client: client, Key: smr.PublicKey{byte(client)}, Nonce: nonce})
}

func withID(b *smr.Bundle) *smr.Bundle {
	serial++
	binary.BigEndian.PutUint64(b.ID[:], serial)
	b.Raw = make([]byte, 100)
	return b
}

func decision(seq smr.SeqNo, bundles []*smr.Bundle) protocol.Decision {
	d := protocol.Decision{HeaderInfo: protocol.HeaderInfo{Epoch: 1, Seq: seq, Digest: smr.Digest{byte(seq), byte(seq >> 8)}, Time: int64(seq) * 1000}}
	for _, b := range bundles {
		d.Refs = append(d.Refs, b.Ref())
	}
	return d
}

// apply executes the next batch and returns the results by client.
func apply(t testing.TB, c *Core, bundles ...*smr.Bundle) map[smr.ClientID][]*wirepb.SessionReply {
	t.Helper()
	var out Output
	if err := c.Apply(decision(c.Executed()+1, bundles), bundles, &out); err != nil {
		t.Fatal(err)
	}
	return decode(t, &out)
}

func decode(t testing.TB, out *Output) map[smr.ClientID][]*wirepb.SessionReply {
	t.Helper()
	got := map[smr.ClientID][]*wirepb.SessionReply{}
	out.Frames(func(client smr.ClientID, payload []byte) {
		var m wirepb.OrderedReply
		if err := m.UnmarshalVT(payload); err != nil {
			t.Fatal(err)
		}
		if len(payload) > wire.ClassOrderedReply.MaxFrameBytes() {
			t.Fatalf("frame of %d bytes", len(payload))
		}
		got[client] = append(got[client], m.Sessions...)
	})
	return got
}

// outcomes flattens the replies of one client to op -> outcome.
func outcomes(rs []*wirepb.SessionReply) map[uint64]smr.Outcome {
	m := map[uint64]smr.Outcome{}
	for _, r := range rs {
		for _, x := range r.Results {
			m[x.Op] = smr.Outcome(x.Outcome)
		}
	}
	return m
}

func opened(t testing.TB, rs []*wirepb.SessionReply) smr.SessionID {
	t.Helper()
	if len(rs) != 1 || !rs[0].Open || rs[0].Results[0].Outcome != uint32(smr.OutcomeExecuted) {
		t.Fatalf("open answered with %v", rs)
	}
	return smr.SessionID(binary.BigEndian.Uint64(rs[0].Results[0].Data))
}

func TestOutcomes(t *testing.T) {
	svc, j := journalService()
	c := newCore(t, svc)
	s := opened(t, apply(t, c, open(1, 5))[1])
	if again := opened(t, apply(t, c, open(1, 5))[1]); again != s {
		t.Fatalf("equal nonce opened %v, not %v", again, s)
	}
	want := func(what string, got map[uint64]smr.Outcome, op uint64, o smr.Outcome) {
		t.Helper()
		if got[op] != o {
			t.Errorf("%s: op %d is %q, want %q", what, op, got[op], o)
		}
	}
	want("lower nonce", outcomes(apply(t, c, open(1, 4))[1]), 4, smr.OutcomeStaleNonce)
	want("malformed", outcomes(apply(t, c, ops(1, s, 1, 1, "a", "!b"))[1]), 2, smr.OutcomeMalformed)
	want("other's session", outcomes(apply(t, c, ops(2, s, 3, 1, "x"))[2]), 3, smr.OutcomeNoSession)
	want("jump", outcomes(apply(t, c, ops(1, s, 1<<62, 1, "x"))[1]), 1<<62, smr.OutcomeBeyondWindow)
	want("huge", outcomes(apply(t, c, ops(1, s, 3, 1, "huge"))[1]), 3, smr.OutcomeTooLarge)
	want("repeated", outcomes(apply(t, c, ops(1, s, 1, 1, "other", "content"))[1]), 1, smr.OutcomeExecuted)
	want("acked", outcomes(apply(t, c, ops(1, s, 4, 3, "c"))[1]), 4, smr.OutcomeExecuted)
	want("below acked", outcomes(apply(t, c, ops(1, s, 1, 1, "a", "b"))[1]), 1, smr.OutcomeReplyGone)
	stranger := ops(9, s, 1, 1, "x")
	want("stranger", outcomes(apply(t, c, stranger)[9]), 1, smr.OutcomeNotAdmitted)
	forged := ops(1, s, 5, 1, "x")
	forged.Key = smr.PublicKey{99}
	if r := apply(t, c, forged); len(r) != 0 {
		t.Errorf("a bundle under another key in client 1's name is answered: %v", r)
	}
	// Quota 2: a third session evicts the least recently used, and only this client's.
	s2 := opened(t, apply(t, c, open(1, 6))[1])
	other := opened(t, apply(t, c, open(2, 1))[2])
	apply(t, c, ops(1, s, 5, 3, "d"))
	opened(t, apply(t, c, open(1, 7))[1])
	want("evicted", outcomes(apply(t, c, ops(1, s2, 1, 1, "x"))[1]), 1, smr.OutcomeNoSession)
	want("kept", outcomes(apply(t, c, ops(1, s, 6, 3, "e"))[1]), 6, smr.OutcomeExecuted)
	want("other kept", outcomes(apply(t, c, ops(2, other, 1, 1, "f"))[2]), 1, smr.OutcomeExecuted)
	apply(t, c, open(3, 1), open(3, 2)) // five in all: full
	want("full", outcomes(apply(t, c, open(4, 1))[4]), 1, smr.OutcomeTableFull)
	opened(t, apply(t, c, open(2, 2))[2]) // gives up its own
	want("gave up", outcomes(apply(t, c, ops(2, other, 2, 1, "x"))[2]), 2, smr.OutcomeNoSession)
	if n := len(j.ops); n != 5 {
		t.Errorf("executed %d: %v", n, j.ops)
	}
}

func TestAPanicFencesAndNamesTheOp(t *testing.T) {
	for _, op := range []string{"panic", "fence"} {
		svc, _ := journalService()
		c := newCore(t, svc)
		s := opened(t, apply(t, c, open(1, 1))[1])
		b := []*smr.Bundle{ops(1, s, 1, 1, "ok", op)}
		var out Output
		err := c.Apply(decision(2, b), b, &out)
		var f *FencedError
		if !errors.Is(err, ErrFenced) || !errors.As(err, &f) || f.Op != 2 || f.Session != s || f.Seq != 2 {
			t.Fatalf("%s: %v", op, err)
		}
		if len(out.Replies) != 0 || c.Executed() != 1 {
			t.Errorf("%s: replies %v, executed %d", op, out.Replies, c.Executed())
		}
		if err2 := c.Apply(decision(3, nil), nil, &out); !errors.Is(err2, ErrFenced) {
			t.Errorf("%s: goes on: %v", op, err2)
		}
		if _, err := c.Freeze(); !errors.Is(err, ErrFenced) {
			t.Errorf("%s: freezes: %v", op, err)
		}
		c.SetReadGate(0, true)
		if r := c.Query(1, &wirepb.UnorderedRequest{}); r.Code != uint32(wire.QueryNotReady) {
			t.Errorf("%s: answers a query: %v", op, r)
		}
	}
}

func TestASkippedOpIsConsumedWithoutEffect(t *testing.T) {
	svc, j := journalService()
	s := smr.NewSessionID(1, 0)
	c, err := New(Config{Clients: testClients(1), Skips: []Skip{{Seq: 2, Session: s, Op: 1}}}, svc)
	if err != nil {
		t.Fatal(err)
	}
	apply(t, c, open(1, 1))
	got := outcomes(apply(t, c, ops(1, s, 1, 1, "panic", "b"))[1])
	if got[1] != smr.OutcomeSkipped || got[2] != smr.OutcomeExecuted || len(j.ops) != 1 {
		t.Fatalf("%v %v", got, j.ops)
	}
}

func TestSequenceNumbersHaveNoGap(t *testing.T) {
	svc, _ := journalService()
	c := newCore(t, svc)
	if err := c.Apply(decision(2, nil), nil, &Output{}); !errors.Is(err, ErrFenced) {
		t.Fatalf("batch 2 before 1: %v", err)
	}
}

func TestQueriesWaitForTheReadGate(t *testing.T) {
	svc, _ := journalService()
	c := newCore(t, svc)
	code := func(atLeast uint64, op string) wire.QueryCode {
		return wire.QueryCode(c.Query(1, &wirepb.UnorderedRequest{AtLeast: atLeast, Op: []byte(op)}).Code)
	}
	if code(0, "") != wire.QueryNotReady {
		t.Error("answers while closed")
	}
	c.SetReadGate(2, true)
	apply(t, c)
	if code(0, "") != wire.QueryNotReady {
		t.Error("answers below the gate")
	}
	apply(t, c)
	if code(2, "") != wire.QueryOK || code(3, "") != wire.QueryNotReady || code(0, "!") != wire.QueryMalformed {
		t.Error("at the gate")
	}
	if code(0, "panic") == wire.QueryOK || c.Fenced() != nil {
		t.Error("a panic in Query")
	}
	if r := c.Query(1, &wirepb.UnorderedRequest{Id: 3}); r.Version != 7 || r.Executed != 2 || r.Id != 3 {
		t.Errorf("%v", r)
	}
}

func TestLargeRepliesAreFlushedAndTheOldestForgotten(t *testing.T) {
	svc, _ := journalService()
	c := newCore(t, svc)
	s := opened(t, apply(t, c, open(1, 1))[1])
	many := make([]string, 64)
	for i := range many {
		many[i] = "big"
	}
	b := []*smr.Bundle{ops(1, s, 1, 1, many...)}
	got, flushed := map[uint64]smr.Outcome{}, 0
	out := &Output{}
	take := func(o *Output) {
		for op, oc := range outcomes(decode(t, o)[1]) {
			got[op] = oc
		}
		o.Reset()
	}
	out.Flush = func(o *Output) { flushed++; take(o) }
	if err := c.Apply(decision(2, b), b, out); err != nil {
		t.Fatal(err)
	}
	take(out)
	if len(got) != 64 || flushed < 3 {
		t.Errorf("%d results, %d flushes", len(got), flushed)
	}
	if n := c.table.sessions[s].bytes; n > c.table.limits.ReplyCacheBytes {
		t.Errorf("%d bytes cached", n)
	}
	if c.Cached(b[0], out) || !c.Cached(ops(1, s, 64, 1, "big"), out) {
		t.Error("resends")
	}
}

// TestHistory runs random histories on several cores that must agree, and on a model of what may
// be executed.
// A client can have the replies of a bundle's first ops alone: a faulty replica's reply completed the
// quorum for those and was wrong about the others.
func TestAResendIsAnsweredThoughItsFirstOpsAreAcknowledged(t *testing.T) {
	svc, _ := journalService()
	c := newCore(t, svc)
	s := opened(t, apply(t, c, open(1, 1))[1])
	b := ops(1, s, 1, 1, "a", "b", "c")
	apply(t, c, b)
	apply(t, c, ops(1, s, 4, 2, "d"))
	out := &Output{}
	if !c.Cached(b, out) {
		t.Fatal("the replies that the client lacks are here and were not sent")
	}
	got := outcomes(decode(t, out)[1])
	if len(got) != 2 || got[2] != smr.OutcomeExecuted || got[3] != smr.OutcomeExecuted {
		t.Errorf("answered %v, want ops 2 and 3", got)
	}
	apply(t, c, ops(1, s, 5, 4, "e"))
	if c.Cached(b, out) {
		t.Error("a bundle of which the client has every reply was answered")
	}
}

func TestEqualHistoriesLeaveEqualStatesAndRunEachOpOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		svc, j := journalService()
		bj := &batched{}
		cores := []*Core{coreOf(svc), coreOf(smr.NewService[[]byte, []byte](bj, picky{}, smr.BytesCodec{}))}
		var third *Core
		var tj *journal
		var sessions []smr.SessionID
		owner := map[smr.SessionID]smr.ClientID{}
		next := map[smr.SessionID]smr.OpNumber{}
		var held *Snapshot
		var heldRoot smr.Digest
		for seq := smr.SeqNo(1); seq <= smr.SeqNo(rapid.IntRange(1, 25).Draw(t, "batches")); seq++ {
			var bundles []*smr.Bundle
			for range rapid.IntRange(0, 6).Draw(t, "bundles") {
				client := smr.ClientID(rapid.IntRange(1, 5).Draw(t, "client"))
				if len(sessions) == 0 || rapid.IntRange(0, 4).Draw(t, "open") == 0 {
					bundles = append(bundles, open(client, uint64(rapid.IntRange(1, 12).Draw(t, "nonce"))))
					continue
				}
				s := rapid.SampledFrom(sessions).Draw(t, "session")
				if rapid.IntRange(0, 9).Draw(t, "own") > 0 {
					client = owner[s]
				}
				first := smr.OpNumber(max(1, int(next[s])+rapid.SampledFrom([]int{0, 0, 0, 1, -3, -1, 5000}).Draw(t, "jump")))
				acked := smr.OpNumber(rapid.IntRange(0, int(first)).Draw(t, "acked"))
				names := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "!", "d", "e", "f", "big", "c"}), 1, 5).Draw(t, "ops")
				next[s] = max(next[s], first+smr.OpNumber(len(names)))
				if first > 4000 {
					next[s] = first
				}
				bundles = append(bundles, ops(client, s, first, acked, names...))
			}
			var replies [][]Reply
			all := cores
			if third != nil {
				all = append(all[:len(all):len(all)], third)
			}
			for _, c := range all {
				var out Output
				if err := c.Apply(decision(seq, bundles), bundles, &out); err != nil {
					t.Fatal(err)
				}
				replies = append(replies, out.Replies)
			}
			for i := range replies[1:] {
				if !reflect.DeepEqual(replies[i+1], replies[0]) {
					t.Fatalf("core %d replies otherwise", i+1)
				}
			}
			for _, r := range replies[0] {
				if r.Open {
					_, o, data, _, _, _ := readResult(r.Results)
					if o == smr.OutcomeExecuted {
						s := smr.SessionID(binary.BigEndian.Uint64(data))
						if _, ok := owner[s]; !ok {
							sessions = append(sessions, s)
							owner[s], next[s] = r.Client, 1
						}
					}
				}
			}
			if rapid.IntRange(0, 3).Draw(t, "snapshot") == 0 {
				if held != nil {
					w, err := held.Write(ToWriter(io.Discard))
					if err != nil || w.Root != heldRoot {
						t.Fatalf("a capture changed after the fact: %v %v", w.Root, err)
					}
				}
				held, _ = cores[0].Freeze()
				heldRoot, _ = cores[0].RootOf()
				var buf bytes.Buffer
				snap, _ := cores[1].Freeze()
				w, err := snap.Write(ToWriter(&buf))
				if err != nil || w.Root != heldRoot || uint64(buf.Len()) != w.Meta.Bytes {
					t.Fatalf("roots %v %v: %v", w.Root, heldRoot, err)
				}
				m, err := transfer.DecodeMeta(w.Meta.Append(nil))
				if err != nil || m != w.Meta {
					t.Fatal("meta", err)
				}
				svc, sj := journalService()
				third, tj = coreOf(svc), sj
				if err := third.Restore(m, &buf); err != nil {
					t.Fatal(err)
				}
				if r, _ := third.RootOf(); r != heldRoot {
					t.Fatal("a restored core has another root")
				}
			}
		}
		seen := map[string]bool{}
		for i, op := range j.ops {
			k, _, _ := bytes.Cut([]byte(op), []byte("="))
			if seen[string(k)] {
				t.Fatalf("%s ran twice", k)
			}
			seen[string(k)] = true
			if bj.ops[i] != op || third != nil && tj.ops[i] != op {
				t.Fatal("journals differ")
			}
		}
		a, _ := cores[0].RootOf()
		b, _ := cores[1].RootOf()
		if a != b {
			t.Fatal("roots differ")
		}
	})
}

func coreOf(svc smr.Service) *Core {
	c, err := New(Config{Clients: testClients(4), Limits: testLimits()}, svc)
	if err != nil {
		panic(err)
	}
	return c
}

// null is an application that costs nothing.
type null struct{}

func (null) Execute(*smr.Context, []byte, []byte) ([]byte, error)    { return nil, nil }
func (null) Query(*smr.QueryContext, []byte, []byte) ([]byte, error) { return nil, nil }
func (null) Validate([]byte) error                                   { return nil }
func (null) State() smr.State                                        { return nil }

func TestApplyAllocatesPerBundleNotPerOp(t *testing.T) {
	c := newCore(t, null{})
	s := opened(t, apply(t, c, open(1, 1))[1])
	next := smr.OpNumber(1)
	out := &Output{}
	b := ops(1, s, 1, 1, make([]string, 256)...)
	batch := []*smr.Bundle{b}
	d := decision(0, batch)
	n := testing.AllocsPerRun(100, func() {
		b.First, b.Acked = next, next
		next += 256
		d.Seq = c.Executed() + 1
		out.Reset()
		if err := c.Apply(d, batch, out); err != nil {
			t.Fatal(err)
		}
	})
	if n > 8 {
		t.Errorf("%v allocations for a bundle of 256 ops", n)
	}
}

func FuzzDecodeTable(f *testing.F) {
	svc, _ := journalService()
	c := newCore(f, svc)
	s := opened(f, apply(f, c, open(1, 5))[1])
	apply(f, c, open(2, 1), ops(1, s, 1, 1, "a", "b"), ops(1, s, 9, 2, "c"))
	fz := c.table.freeze()
	enc, _ := fz.append(nil, func(b []byte) ([]byte, error) { return b, nil })
	f.Add(enc)
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := decodeTable(b, testLimits())
		if err != nil {
			return
		}
		fz := got.freeze()
		enc, _ := fz.append(nil, func(b []byte) ([]byte, error) { return b, nil })
		if !bytes.Equal(enc, b) || fz.size() != uint64(len(b)) {
			t.Fatal("accepted an encoding that is not canonical")
		}
	})
}

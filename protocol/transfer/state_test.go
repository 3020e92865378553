package transfer

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/wire"
)

// checkpoint is one that sources hold: certified by a quorum of all.
type checkpoint struct {
	meta  Meta
	parts []Part
	data  [][]byte
	cert  auth.CheckpointCert
	tree  *protocol.MerkleTree
}

// transferring is a receiver among sources, its storage, and what moved.
type transferring struct {
	world
	t       *testing.T
	s       *State
	now     time.Time
	out     Effects
	have    map[smr.Digest][]byte // what the receiver's disk holds, whatever staged it
	staged  map[smr.Digest]bool   // by a transfer
	parts   []Part                // staged, of the transfer under way
	stored  int
	adopted *Meta
	dropped int
	served  map[uint64]int // good parts that sources sent, by index
	// answer is how each source answers; nil says nothing.
	answer  func(from smr.NodeID, q StateRequest) []byte
	waiting []pendingAnswer
	asked   map[smr.NodeID]int
	most    int // bytes asked for and not stored, at most
	crashAt int // stop before the crashAt-th operation on storage; 0: never
	ops     int
	crashed bool
}

type pendingAnswer struct {
	from    smr.NodeID
	payload []byte
}

func newTransferring(t *testing.T, n int) *transferring {
	x := &transferring{world: newWorld(t, n), t: t, now: time.Unix(100, 0), have: map[smr.Digest][]byte{}, staged: map[smr.Digest]bool{}, served: map[uint64]int{}, asked: map[smr.NodeID]int{}}
	x.boot()
	return x
}

func (x *transferring) boot() {
	x.s = NewState(1, x.m, StateConfig{Deadline: time.Second, Window: 64, PerSource: 2})
	x.crashed, x.waiting, x.parts = false, nil, nil
	x.out.Reset()
}

// make makes a certified checkpoint of divisible state with n parts; change tells versions of parts.
func (x *transferring) make(seq smr.SeqNo, n int, change func(id int) int) *checkpoint {
	state := map[smr.PartID]string{}
	var ids []smr.PartID
	for i := range n {
		state[smr.PartID(i*3)] = fmt.Sprintf("part %d.%d", i, change(i))
		ids = append(ids, smr.PartID(i*3))
	}
	c := &checkpoint{}
	c.meta, c.parts, c.data = divisible(seq, state, ids...)
	c.tree = NewPages(c.meta, c.parts)
	c.cert = x.certify(seq, Root(c.meta, c.parts))
	return c
}

func (x *transferring) certify(seq smr.SeqNo, root smr.Digest) auth.CheckpointCert {
	var votes []*auth.Vote
	for _, id := range x.m.Voters()[:x.m.Quorum()] {
		v, err := x.v.Sign(id, x.scheme.Signer(uint64(id)), rootStatement(x.v, seq, root))
		if err != nil {
			x.t.Fatal(err)
		}
		votes = append(votes, v)
	}
	cert, err := x.v.Certify(votes)
	if err != nil {
		x.t.Fatal(err)
	}
	return auth.CheckpointCert{Cert: cert}
}

// honest answers as a correct source that holds c.
func (x *transferring) honest(c *checkpoint, q StateRequest) []byte {
	switch {
	case q.Seq != c.meta.Seq || q.Root != c.cert.Root():
		return EncodeGone(q)
	case q.What == WhatPage:
		return EncodePage(q, c.meta, c.parts, c.tree)
	case q.Index < uint64(len(c.parts)):
		return EncodePart(q, c.data[q.Index])
	}
	return EncodeGone(q)
}

// do runs one input and everything it sets in motion but answers, which wait.
func (x *transferring) do(in func(out *Effects)) {
	in(&x.out)
	sends, ops := append([]Outbound(nil), x.out.Send...), append([]StateOp(nil), x.out.State...)
	x.out.Reset()
	for _, o := range sends {
		if o.Class != wire.ClassStateTransfer {
			x.t.Fatalf("a message of class %v", o.Class)
		}
		q, err := DecodeStateRequest(o.Payload)
		if err != nil {
			x.t.Fatal(err)
		}
		for _, to := range o.To {
			x.asked[to]++
			if b := x.answer(to, q); b != nil {
				x.waiting = append(x.waiting, pendingAnswer{to, b})
			}
		}
	}
	open := x.s.storing
	for _, q := range x.s.open {
		open += q.bytes()
	}
	if len(x.s.open) > 1 {
		x.most = max(x.most, open)
	}
	for _, op := range ops {
		if x.ops++; x.ops == x.crashAt {
			x.crashed = true
		}
		if x.crashed {
			return
		}
		x.storage(op)
	}
}

// storage does what package storage does.
func (x *transferring) storage(op StateOp) {
	done := StateDone{Try: op.Try, Kind: op.Kind, Index: op.Index, Parts: op.Parts, Bytes: len(op.Data), Meta: op.Meta}
	switch op.Kind {
	case OpBegin:
		x.parts = nil
	case OpStage:
		for _, p := range op.Parts {
			h := Lacking
			if _, ok := x.have[p.Digest]; ok {
				if h = Found; x.staged[p.Digest] {
					h = Left
				}
			}
			done.Held = append(done.Held, h)
		}
		x.parts = append(x.parts, op.Parts...)
	case OpPut:
		p := x.parts[op.Index]
		if sha256.Sum256(op.Data) != p.Digest || len(op.Data) != int(p.Bytes) {
			x.t.Fatalf("part %d was stored unverified", op.Index)
		}
		x.have[p.Digest], x.staged[p.Digest] = op.Data, true
		x.stored++
	case OpAdopt:
		if Root(op.Meta, x.parts) != op.Root {
			x.t.Fatal("adopted what does not make the root")
		}
		for i, p := range x.parts {
			if _, ok := x.have[p.Digest]; !ok {
				x.t.Fatalf("adopted without part %d", i)
			}
		}
		m := op.Meta
		x.adopted = &m
	case OpDrop:
		x.dropped++
		return
	}
	x.do(func(out *Effects) { x.s.Done(x.now, done, out) })
}

// run delivers answers, in random order, and lets time pass when none waits.
func (x *transferring) run(seed uint64, until func() bool) {
	r := rand.New(rand.NewPCG(seed, 1))
	for range 20000 {
		if until() || x.crashed {
			return
		}
		if len(x.waiting) == 0 {
			x.now = x.now.Add(300 * time.Millisecond)
			x.do(func(out *Effects) { x.s.Expire(x.now, out) })
			continue
		}
		i := r.IntN(len(x.waiting))
		a := x.waiting[i]
		x.waiting = append(x.waiting[:i], x.waiting[i+1:]...)
		x.deliver(a)
	}
	x.t.Fatalf("no end: %+v", x.s.Progress())
}

func (x *transferring) deliver(a pendingAnswer) {
	rep, err := DecodeStateReply(a.payload)
	if err != nil {
		return // refused before the loop
	}
	x.do(func(out *Effects) { x.s.Reply(x.now, a.from, rep, out) })
}

func (x *transferring) want(c *checkpoint) {
	x.do(func(out *Effects) { x.s.Want(x.now, c.cert, out) })
}

func (x *transferring) done() bool { return x.adopted != nil }

func same(int) int { return 0 }

func TestACheckpointIsFetchedFromSeveralSources(t *testing.T) {
	for _, parts := range []int{0, 1, 40, PageLeaves - 2, PageLeaves - 1, PageLeaves, 2*PageLeaves + 5} {
		x := newTransferring(t, 4)
		c := x.make(50, parts, same)
		x.answer = func(_ smr.NodeID, q StateRequest) []byte { return x.honest(c, q) }
		x.want(c)
		x.run(1, x.done)
		if *x.adopted != c.meta || x.stored != len(c.parts) {
			t.Fatalf("%d parts: adopted %+v, stored %d", parts, x.adopted, x.stored)
		}
		p := x.s.Progress()
		if p.Active || p.Moved != c.meta.Bytes || p.Saved != 0 || p.Parts != c.meta.Parts || p.Installed != 1 {
			t.Fatalf("%d parts: %+v", parts, p)
		}
		for _, id := range []smr.NodeID{2, 3, 4} {
			if parts > 10 && x.asked[id] < parts/6 {
				t.Fatalf("source %d was asked %d times for %d parts", id, x.asked[id], parts)
			}
		}
		if x.most > 64+pageBytes {
			t.Fatalf("%d bytes were open at once", x.most)
		}
	}
}

// Row 30, and 32: whatever one source of four, or two of seven, make of their answers, the checkpoint
// arrives, nothing false is stored, and they are blamed by name.
func TestLyingSourcesAreBlamedAndPassedOver(t *testing.T) {
	lies := map[string]func(x *transferring, c *checkpoint, q StateRequest) []byte{
		"other bytes": func(x *transferring, c *checkpoint, q StateRequest) []byte {
			if q.What == WhatPage {
				return x.honest(c, q)
			}
			return EncodePart(q, append([]byte(nil), make([]byte, len(c.data[q.Index]))...))
		},
		"short": func(x *transferring, c *checkpoint, q StateRequest) []byte {
			if q.What == WhatPage {
				return EncodePage(q, c.meta, c.parts[:len(c.parts)-1], c.tree)
			}
			return EncodePart(q, c.data[q.Index][:1])
		},
		"extra": func(x *transferring, c *checkpoint, q StateRequest) []byte {
			if q.What == WhatPage {
				return EncodePage(q, c.meta, append(append([]Part(nil), c.parts...), c.parts[0]), c.tree)
			}
			return EncodePart(q, append(append([]byte(nil), c.data[q.Index]...), 0))
		},
		"swapped": func(x *transferring, c *checkpoint, q StateRequest) []byte {
			if q.What == WhatPage {
				return x.honest(c, q)
			}
			return EncodePart(q, c.data[(q.Index+1)%uint64(len(c.data))])
		},
		"10^9 parts": func(x *transferring, c *checkpoint, q StateRequest) []byte {
			m := c.meta
			m.Parts, m.Bytes = MaxParts, MaxParts
			return EncodePage(StateRequest{q.Seq, q.Root, WhatPage, 0}, m, c.parts, c.tree)
		},
		"says nothing": func(*transferring, *checkpoint, StateRequest) []byte { return nil },
		"stalls at 99 %": func(x *transferring, c *checkpoint, q StateRequest) []byte {
			if q.Index == uint64(len(c.parts)-1) {
				return nil
			}
			return x.honest(c, q)
		},
		"gone": func(_ *transferring, _ *checkpoint, q StateRequest) []byte { return EncodeGone(q) },
	}
	for name, lie := range lies {
		for _, n := range []int{4, 7} {
			for seed := range uint64(5) {
				x := newTransferring(t, n)
				c := x.make(50, 60, same)
				liars := (n - 1) / 3
				x.answer = func(from smr.NodeID, q StateRequest) []byte {
					if int(from) <= 1+liars {
						return lie(x, c, q)
					}
					return x.honest(c, q)
				}
				x.want(c)
				x.run(seed, x.done)
				blamed := false
				for _, s := range x.s.Progress().Sources {
					faults := s.Wrong + s.Late + s.Unasked + s.Refusals
					if int(s.Node) > 1+liars && s.Wrong+s.Refusals > 0 {
						t.Fatalf("%s: correct source %d is blamed: %+v", name, s.Node, s)
					}
					blamed = blamed || int(s.Node) <= 1+liars && faults > 0
				}
				if !blamed && name != "stalls at 99 %" {
					t.Fatalf("%s, %d replicas: nobody is blamed: %+v", name, n, x.s.Progress())
				}
			}
		}
	}
}

// Row 29: f colluding sources serve one consistent state that no quorum certified.
func TestAConsistentFakeStateOfColludingSourcesGoesNowhere(t *testing.T) {
	x := newTransferring(t, 7)
	c, fake := x.make(50, 30, same), x.make(50, 30, func(int) int { return 9 })
	x.answer = func(from smr.NodeID, q StateRequest) []byte {
		if from > 3 {
			return x.honest(c, q)
		}
		// They answer for the root asked for with their own pages and parts.
		if q.What == WhatPage {
			return EncodePage(q, fake.meta, fake.parts, fake.tree)
		}
		return EncodePart(q, fake.data[q.Index])
	}
	x.want(c)
	x.run(3, x.done)
	if Root(*x.adopted, x.parts) != c.cert.Root() {
		t.Fatal("another state was adopted")
	}
	for _, p := range fake.parts[1:] {
		if _, ok := x.have[p.Digest]; ok {
			t.Fatal("a part of the fake state was stored")
		}
	}
}

// Row 32: the checkpoint is collected meanwhile.
func TestATransferWhoseCheckpointHasGoneChangesToTheNewest(t *testing.T) {
	x := newTransferring(t, 4)
	old, newer := x.make(50, 40, same), x.make(80, 40, func(i int) int { return i / 39 })
	holds := old
	x.answer = func(_ smr.NodeID, q StateRequest) []byte { return x.honest(holds, q) }
	x.want(old)
	x.run(1, func() bool { return x.stored >= 20 })
	x.want(newer)
	if x.s.Cert().Seq() != 50 {
		t.Fatal("a newer certificate alone ended a transfer that goes well")
	}
	moved := x.stored
	holds = newer
	x.run(2, x.done)
	if x.adopted.Seq != 80 {
		t.Fatalf("adopted %d", x.adopted.Seq)
	}
	if moved < 20 || x.stored > len(newer.parts)+1 {
		t.Fatalf("%d parts were stored: those of the interrupted transfer moved again", x.stored)
	}
}

// One liar alone, and no newer certificate, ends nothing; a height that no certificate proves is not
// even looked at.
func TestOneSourceThatSaysGoneChangesNothing(t *testing.T) {
	x := newTransferring(t, 4)
	c, newer := x.make(50, 30, same), x.make(60, 30, same)
	x.answer = func(from smr.NodeID, q StateRequest) []byte {
		if from == 2 {
			return EncodeGone(q)
		}
		return x.honest(c, q)
	}
	x.want(c)
	x.want(newer)
	x.run(1, x.done)
	if x.adopted.Seq != 50 || x.s.Progress().Changed != 0 {
		t.Fatalf("adopted %d after %d changes", x.adopted.Seq, x.s.Progress().Changed)
	}
}

// A crash before any operation on storage is followed by a transfer that moves no part twice.
func TestATransferInterruptedAnywhereMovesNoVerifiedPartTwice(t *testing.T) {
	const parts = 25
	for crashAt := 1; ; crashAt++ {
		x := newTransferring(t, 4)
		c := x.make(50, parts, same)
		x.answer = func(_ smr.NodeID, q StateRequest) []byte { return x.honest(c, q) }
		x.crashAt = crashAt
		x.want(c)
		x.run(uint64(crashAt), x.done)
		if x.done() {
			if crashAt < parts {
				t.Fatalf("it ended within %d operations", crashAt)
			}
			return
		}
		before := x.stored
		x.boot()
		x.want(c)
		x.run(uint64(crashAt)+1, x.done)
		p := x.s.Progress()
		if x.stored != len(c.parts) {
			t.Fatalf("crash before operation %d: %d parts stored, %d before it, of %d", crashAt, x.stored, before, len(c.parts))
		}
		if (before > 0) != (p.Resumed > 0) || p.Resumed != p.Saved {
			t.Fatalf("crash before operation %d: %+v", crashAt, p)
		}
	}
}

func TestOnePartOfAThousandChangedMovesOnePart(t *testing.T) {
	x := newTransferring(t, 4)
	old := x.make(50, 1000, same)
	for i, p := range old.parts {
		x.have[p.Digest] = old.data[i]
	}
	c := x.make(80, 1000, func(i int) int { return i / 700 * (700 / max(i, 1)) })
	x.answer = func(_ smr.NodeID, q StateRequest) []byte { return x.honest(c, q) }
	x.want(c)
	x.run(1, x.done)
	p := x.s.Progress()
	if x.stored != 1 || p.Moved >= p.Saved/500 || p.Moved+p.Saved != c.meta.Bytes {
		t.Fatalf("%d parts moved: %+v", x.stored, p)
	}
}

func TestATransferThatOwnDecisionsPassedIsGivenUp(t *testing.T) {
	x := newTransferring(t, 4)
	c := x.make(50, 30, same)
	x.answer = func(_ smr.NodeID, q StateRequest) []byte { return x.honest(c, q) }
	x.want(c)
	x.run(1, func() bool { return x.stored > 5 })
	x.do(func(out *Effects) { x.s.Cancel(49, out) })
	if !x.s.Active() {
		t.Fatal("given up too early")
	}
	x.do(func(out *Effects) { x.s.Cancel(50, out) })
	if x.s.Active() || x.dropped != 1 {
		t.Fatal("it goes on though it is pointless")
	}
	for _, a := range x.waiting {
		x.deliver(a)
	}
	if x.done() || x.s.Active() {
		t.Fatal("late answers revived it")
	}
}

func TestAnswersThatNobodyAskedForAreCountedAndDropped(t *testing.T) {
	x := newTransferring(t, 4)
	c := x.make(50, 30, same)
	x.answer = func(smr.NodeID, StateRequest) []byte { return nil }
	x.want(c)
	for i := range 1000 {
		q := StateRequest{Seq: 50, Root: c.cert.Root(), What: WhatPart, Index: uint64(i % 30)}
		x.deliver(pendingAnswer{3, EncodePart(q, c.data[i%30])})
		x.deliver(pendingAnswer{9, EncodePart(q, c.data[i%30])}) // a stranger
	}
	if x.stored != 0 || x.s.Progress().Sources[1].Unasked != 1000 || len(x.s.open)+len(x.s.queue) > 1 {
		t.Fatalf("stored %d: %+v", x.stored, x.s.Progress())
	}
}

func TestStorageThatFailsIsToldAndTriedAgain(t *testing.T) {
	x := newTransferring(t, 4)
	c := x.make(50, 3, same)
	x.answer = func(_ smr.NodeID, q StateRequest) []byte { return x.honest(c, q) }
	x.want(c)
	x.do(func(out *Effects) {
		x.s.Done(x.now, StateDone{Try: x.s.try, Kind: OpBegin, Err: fmt.Errorf("no space")}, out)
	})
	if p := x.s.Progress(); p.Failure != "no space" || !p.Active {
		t.Fatalf("%+v", p)
	}
	x.want(c)
	if x.s.phase != stateFailed {
		t.Fatal("tried again at once")
	}
	x.now = x.now.Add(2 * time.Second)
	x.waiting = nil
	x.want(c)
	x.run(1, x.done)
}

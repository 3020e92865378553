package execution

import (
	"bytes"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// capture is a Sender that keeps what it is given.
type capture struct {
	mu  sync.Mutex
	got map[wire.Class][][]byte
}

func (c *capture) Send(_ auth.Identity, class wire.Class, _ uint8, payload []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.got == nil {
		c.got = map[wire.Class][][]byte{}
	}
	c.got[class] = append(c.got[class], payload)
	return true
}

func (c *capture) take(class wire.Class) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.got[class]
	delete(c.got, class)
	return out
}

// gated holds Execute back until it is let go.
type gated struct {
	journal
	hold chan struct{}
}

func (g *gated) Execute(ctx *smr.Context, op []byte) []byte {
	if string(op) == "wait" {
		<-g.hold
	}
	return g.journal.Execute(ctx, op)
}

type sink struct {
	bytes.Buffer
	hold      chan struct{}
	committed bool
	aborted   bool
}

// Part implements PartSink.
func (s *sink) Part(_ transfer.Part, b []byte) error { _, err := s.Write(b); return err }

func (s *sink) Commit(Written) error { <-s.hold; s.committed = true; return nil }
func (s *sink) Abort()               { s.aborted = true }

func TestExecutor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := &gated{hold: make(chan struct{})}
		core := coreOf(smr.NewService[[]byte, []byte](app, picky{}, smr.BytesCodec{}))
		net := &capture{}
		log := map[smr.SeqNo]Delivery{}
		var logMu sync.Mutex
		var executed smr.SeqNo
		var checkpoints []Checkpoint
		s := &sink{hold: make(chan struct{})}
		close(s.hold)
		reads := 0
		e := NewExecutor(core, ExecutorConfig{
			Sender: net, FeedBytes: 2000, Queries: 8, QueriesPerClient: 4,
			Read: func(after, upto smr.SeqNo, _ int) (ds []Delivery, err error) {
				logMu.Lock()
				defer logMu.Unlock()
				reads++
				for q := after + 1; q <= upto && len(ds) < 3; q++ {
					d, ok := log[q]
					if !ok {
						break
					}
					d.Checkpoint = false // the log does not know
					ds = append(ds, d)
				}
				return ds, nil
			},
			Begin:        func(Meta) (CheckpointSink, error) { return s, nil },
			OnExecuted:   func(q smr.SeqNo) { executed = q },
			OnCheckpoint: func(c Checkpoint) { checkpoints = append(checkpoints, c) },
		})
		session := smr.NewSessionID(1, 0)
		deliver := func(seq smr.SeqNo, cp, logged bool, bs ...*smr.Bundle) {
			d := Delivery{Decision: decision(seq, bs), Bundles: bs, Checkpoint: cp}
			if logged {
				logMu.Lock()
				log[seq] = d
				logMu.Unlock()
			}
			e.Deliver(d)
		}
		deliver(1, false, true, open(1, 1))
		deliver(2, false, true, ops(1, session, 1, 1, "wait"))
		synctest.Wait()
		// The feed overflows while the application sleeps; Deliver does not block.
		for q := smr.SeqNo(3); q <= 20; q++ {
			deliver(q, q == 15, q != 20, ops(1, session, smr.OpNumber(q-1), 1, "x"))
		}
		for i := range 6 {
			if err := e.Unordered(auth.ClientIdentity(1), query(uint64(i))); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(net.take(wire.ClassUnorderedReply)); n != 2 {
			t.Errorf("%d of 6 queries refused at a bound of 4", n)
		}
		if st := e.Status(); st.Waiting > 2000 || !st.Behind || st.Executed != 1 || st.Newest != 20 {
			t.Errorf("status %+v", st)
		}
		close(app.hold)
		synctest.Wait()
		if executed != 19 || reads == 0 {
			t.Errorf("executed %d of the 19 in the log, %d reads", executed, reads)
		}
		logMu.Lock()
		log[20] = Delivery{Decision: decision(20, nil)}
		logMu.Unlock()
		e.Inspect(func(*Core) {}) // passes time for the retry
		for e.Status().Executed < 20 {
			synctest.Wait()
			e.nudge()
		}
		if len(checkpoints) != 1 || checkpoints[0].Meta.Seq != 15 || checkpoints[0].Err != nil || !s.committed {
			t.Errorf("checkpoints %+v", checkpoints)
		}
		if uint64(s.Len()) != checkpoints[0].Meta.Bytes || transfer.Root(checkpoints[0].Meta, checkpoints[0].Parts) != checkpoints[0].Root {
			t.Error("checkpoint bytes")
		}
		// A resend is answered from the cache, one whose reply is gone is handed back.
		net.take(wire.ClassOrderedReply)
		var missed []*smr.Bundle
		e.Resend(ops(1, session, 1, 1, "wait"), nil)
		e.Resend(ops(1, session, 4000, 1, "y"), func(b *smr.Bundle) { missed = append(missed, b) })
		synctest.Wait()
		if len(net.take(wire.ClassOrderedReply)) != 1 || len(missed) != 1 {
			t.Error("resends")
		}
		if !e.View().Seen(ops(1, session, 1, 1, "x", "x")) || e.View().Seen(ops(1, session, 4000, 1, "x")) || !e.View().Admitted(2, smr.PublicKey{2}) {
			t.Error("view")
		}
		e.SetReadGate(20, true)
		if err := e.Unordered(auth.ClientIdentity(1), query(9)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var rep wirepb.UnorderedReply
		replies := net.take(wire.ClassUnorderedReply)
		if err := rep.UnmarshalVT(replies[len(replies)-1]); err != nil || rep.Id != 9 || rep.Code != uint32(wire.QueryOK) {
			t.Errorf("query answered with %v", &rep)
		}
		e.Close()
		if e.Inspect(func(*Core) {}) {
			t.Error("inspected after Close")
		}
	})
}

func query(id uint64) []byte {
	b, _ := (&wirepb.UnorderedRequest{Id: id}).MarshalVT()
	return b
}

func TestExecutorReportsAFenceOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		svc, _ := journalService()
		var fenced []error
		e := NewExecutor(coreOf(svc), ExecutorConfig{Sender: &capture{}, OnFenced: func(err error) { fenced = append(fenced, err) }})
		b := []*smr.Bundle{open(1, 1), ops(1, smr.NewSessionID(1, 0), 1, 1, "panic")}
		e.Deliver(Delivery{Decision: decision(1, b), Bundles: b})
		e.Deliver(Delivery{Decision: decision(2, nil)})
		synctest.Wait()
		if len(fenced) != 1 || !errors.Is(fenced[0], ErrFenced) || e.Status().Fenced == nil {
			t.Errorf("fenced %v", fenced)
		}
		e.Close()
	})
}

func TestReplyNode(t *testing.T) {
	r := NewReplyNode(&capture{})
	if r.Broadcast([]smr.ClientID{1, 2}, wire.ClassOrderedReply, nil) != 2 || !errors.Is(r.SendSigned(1, wire.ClassAdvice, nil), ErrNotEnabled) {
		t.Error("reply node")
	}
}

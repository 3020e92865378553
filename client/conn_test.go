package client

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/wire"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		_ = f.Value.Set("1000")
	}
	goleak.VerifyTestMain(m)
}

// service is real execution behind a perfect order, in one goroutine, as a Transport.
type service struct {
	reps  *replicas
	in    chan Frame
	done  sync.WaitGroup
	mute  func(Frame) bool // guarded by the goroutine of the test: set before traffic
	delay time.Duration
	deaf  atomic.Bool // the client hears nothing
	seen  map[smr.BundleID]bool
	h     Handler
}

func newService(t testing.TB) *service {
	return &service{reps: newReplicas(t, 4, execution.Limits{}), in: make(chan Frame, 1<<16), delay: 2 * time.Millisecond, seen: map[smr.BundleID]bool{}}
}

func (s *service) dial(_ Config, h Handler) (Transport, error) {
	s.h = h
	s.reps.emit = func(from smr.NodeID, _ smr.ClientID, class wire.Class, payload []byte) {
		if !s.deaf.Load() {
			_ = h.Frame(from, class, wire.KindOnly, payload)
		}
	}
	s.done.Add(1)
	go func() {
		defer s.done.Done()
		for f := range s.in {
			if s.mute != nil && s.mute(f) {
				continue
			}
			if f.Class == wire.ClassOrderedRequest { // each bundle is ordered once
				b, err := wire.DecodeBundles(f.Payload)
				if err != nil || s.seen[b[0].ID] {
					continue
				}
				s.seen[b[0].ID] = true
				time.Sleep(s.delay)
			}
			s.reps.handle(f)
		}
	}()
	return s, nil
}

func (s *service) Send(to smr.NodeID, class wire.Class, kind uint8, payload []byte) bool {
	s.in <- Frame{to, class, kind, payload}
	return true
}

func (s *service) Close() error {
	close(s.in)
	s.done.Wait()
	return nil
}

func (s *service) config(edit ...func(*Config)) Config {
	cfg := Config{Membership: s.reps.m, Client: self, Signer: stand.Signer(100), Dial: s.dial}
	for _, e := range edit {
		e(&cfg)
	}
	return cfg
}

func open(t testing.TB, s *service, edit ...func(*Config)) *Conn {
	t.Helper()
	c, err := Dial(s.config(edit...))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestManyCallersAtOnceGetTheirOwnReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		c := open(t, s)
		var wg sync.WaitGroup
		for g := range 50 {
			wg.Go(func() {
				for i := range 20 {
					op := fmt.Sprintf("%d.%d", g, i)
					got, err := c.Do(t.Context(), []byte(op))
					if err != nil || string(got) != "did "+op {
						t.Errorf("%s: %q, %v", op, got, err)
					}
				}
			})
		}
		wg.Wait()
		st := c.Status()
		if st.Executed < 999 || st.Bundles > 200 {
			t.Errorf("calls do not share bundles: %+v", st)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAnEndedContextTellsTheFateAndRetryFindsTheReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		var mute atomic.Bool
		s.mute = func(Frame) bool { return mute.Load() }
		c := open(t, s)
		defer c.Close()
		if _, err := c.Do(t.Context(), []byte("first")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		mute.Store(true)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		errs := make([]error, 4)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { _, errs[i] = c.Do(short, fmt.Appendf(nil, "op %d", i)) })
			synctest.Wait() // one bundle each: two leave, two wait
		}
		wg.Wait()
		synctest.Wait()
		mute.Store(false)
		for i, err := range errs {
			if fate := []error{ErrUnknown, ErrUnknown, ErrNotExecuted, ErrNotExecuted}[i]; !errors.Is(err, fate) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("op %d: %v", i, err)
			}
		}
		for i := range 2 {
			r, err := Retry(t.Context(), errs[i])
			if err != nil || string(r.Data) != fmt.Sprintf("did op %d", i) {
				t.Errorf("retry %d: %q, %v", i, r.Data, err)
			}
		}
		if _, err := Retry(t.Context(), errs[2]); err != errs[2] {
			t.Error(err)
		}
		_ = c.Close()
		for op, n := range s.reps.books[0].ran {
			if n != 1 || op == "op 2" || op == "op 3" {
				t.Errorf("%q ran %d times", op, n)
			}
		}
	})
}

func TestCloseEndsEveryCallAndLaterOnesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.mute = func(Frame) bool { return true }
		c := open(t, s)
		p, err := c.Submit([]byte("never signed: no session"))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if _, err := p.Wait(t.Context()); !errors.Is(err, ErrNotExecuted) || !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if _, err := c.Do(t.Context(), nil); !errors.Is(err, ErrNotExecuted) || !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if err := c.Close(); err != nil {
			t.Error("second Close:", err)
		}
	})
}

func TestPendingBytesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		s.mute = func(Frame) bool { return true }
		c := open(t, s, func(c *Config) { c.MaxPendingBytes = 2 << 20 })
		defer c.Close()
		var err error
		n := 0
		for ; err == nil && n < 10; n++ {
			_, err = c.Submit(make([]byte, 1<<19))
		}
		var le *LimitError
		if !errors.As(err, &le) || le.Limit != 2<<20 || n != 4 {
			t.Errorf("after %d: %v", n, err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Do(short, make([]byte, 1<<20)); !errors.Is(err, ErrNotExecuted) {
			t.Error(err)
		}
		if _, err := c.Do(t.Context(), make([]byte, 1<<20+1)); !errors.As(err, &le) || !strings.Contains(err.Error(), "op bytes") {
			t.Error(err)
		}
	})
}

func TestAQueryAnswersUnorderedAndALoneReplicaCannotFillTheInbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		c := open(t, s)
		defer c.Close()
		p, err := c.Query(t.Context(), []byte("x"), Linearizable())
		if err != nil {
			t.Fatal(err)
		}
		if r, err := p.Result(t.Context()); err != nil || string(r.Data) != "saw x" || r.Ordered {
			t.Errorf("%+v %v", r, err)
		}
		c.mu.Lock()
		for range 2 * maxInboxFrames {
			_ = c.inbox.frame(3, frame{from: 4, class: wire.ClassOrderedReply})
		}
		err = c.inbox.frame(0, frame{from: 1, class: wire.ClassOrderedReply})
		left := len(c.inbox.frames)
		c.mu.Unlock()
		if err != nil || left != maxInboxFrames+1 || c.Status().DropsInbox != maxInboxFrames {
			t.Error(left, c.Status().DropsInbox)
		}
		if err := c.Frame(99, wire.ClassOrderedReply, 0, nil); err == nil {
			t.Error("a stranger's frame is taken")
		}
		_ = c.Frame(2, wire.ClassOrderedReply, 0, []byte{0xff})
		synctest.Wait()
		if err := c.Frame(2, wire.ClassOrderedReply, 0, nil); err == nil {
			t.Error("garbage is not told")
		}
	})
}

func TestAClientStaysExactlyOnceAcrossItsRestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "session")
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		withFile := func(c *Config) { c.SessionFile = path }
		c := open(t, s, withFile)
		if _, err := c.Do(t.Context(), []byte("a")); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		// Its replies are lost, and the process dies with the file as it is.
		s.deaf.Store(true)
		if _, err := c.Submit([]byte("b")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		crashed, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if err := os.WriteFile(path, crashed, 0o600); err != nil {
			t.Fatal(err)
		}

		again := &service{reps: s.reps, in: make(chan Frame, 1<<16), seen: map[smr.BundleID]bool{}}
		c = open(t, again, withFile)
		defer c.Close()
		rec := c.Recovered()
		if len(rec) != 1 || string(rec[0].Op()) != "b" {
			t.Fatal(len(rec))
		}
		if got, err := rec[0].Wait(t.Context()); err != nil || string(got) != "did b" {
			t.Fatalf("%q %v", got, err)
		}
		if got, err := c.Do(t.Context(), []byte("c")); err != nil || string(got) != "did c" {
			t.Fatalf("%q %v", got, err)
		}
		_ = c.Close()
		for op, n := range s.reps.books[0].ran {
			if n != 1 {
				t.Errorf("%q ran %d times", op, n)
			}
		}
		if st := c.Status(); st.Opens != 0 {
			t.Error("opened another session")
		}
	})
}

func TestASessionFileThatCannotBeWrittenSendsNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s := newService(t)
		sent := 0
		s.mute = func(Frame) bool { sent++; return false }
		c := open(t, s, func(c *Config) { c.SessionFile = filepath.Join(dir, "session") })
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Do(t.Context(), []byte("a")); !errors.Is(err, ErrNotExecuted) || !strings.Contains(err.Error(), "session file") {
			t.Error(err)
		}
		if err := c.Close(); err == nil {
			t.Error("Close hides the failure")
		}
		if sent != 0 {
			t.Error("sent", sent)
		}
	})
}

package client

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/quorum"
)

func keep(c *CoreConfig) { c.Keep = true }

func resumed(t *testing.T, save *SessionState) *script {
	t.Helper()
	state, err := DecodeSessionState(save.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	s := newScript(t, quorum.Byzantine, 4, keep, func(c *CoreConfig) { c.Resume = state })
	s.now = s.now.Add(time.Hour)
	return s
}

func TestARestartSendsPendingBundlesAgainAndReusesNoNumber(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4, keep)
	s.submit("a", "b")
	if s.save == nil || s.save.Nonce == 0 {
		t.Fatal("the nonce is not kept before the open leaves")
	}
	s.opened(firstSession)
	s.submit("c")
	s.submit("d") // waits, unsigned
	old := s.bundles()
	s.all(3, firstSession, 1, smr.OutcomeExecuted, "A")

	r := resumed(t, s.save)
	calls, ops := r.core.Recovered()
	if len(calls) != 3 || string(bytes.Join(ops, nil)) != "abc" {
		t.Fatalf("recovered %q", ops)
	}
	fresh := r.submit("e")[0]
	bs := r.bundles()
	if len(bs) != 2 || bs[0].ID != old[1].ID || bs[1].ID != old[2].ID {
		t.Fatal("not the same bundles")
	}
	r.all(3, firstSession, 1, smr.OutcomeExecuted, "A")
	r.all(3, firstSession, 2, smr.OutcomeExecuted, "B")
	r.mustEnd(calls[0], "A", nil)
	r.mustEnd(calls[1], "B", nil)
	bs = r.bundles()
	if len(bs) != 1 || bs[0].First != 4 || bs[0].Session != firstSession || bs[0].Acked != 3 {
		t.Fatalf("the new op: %+v", bs)
	}
	r.all(3, firstSession, 4, smr.OutcomeExecuted, "E")
	r.mustEnd(fresh, "E", nil)
	r.all(3, firstSession, 3, smr.OutcomeExecuted, "C")
	r.mustEnd(calls[2], "C", nil)
	if p := r.core.State().Pending; len(p) != 0 {
		t.Error("answered bundles stay pending")
	}
}

func TestARestartWithAnOpenInFlightAsksForTheSameSession(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4, keep)
	s.submit("a")
	nonce := s.bundles()[0].Nonce
	r := resumed(t, s.save)
	r.flush()
	if bs := r.bundles(); len(bs) != 1 || bs[0].Kind != smr.BundleOpen || bs[0].Nonce != nonce {
		t.Fatalf("%+v", bs)
	}
	for id := range smr.NodeID(3) { // it was opened, and evicted since
		r.openReply(id+1, smr.OutcomeNoSession, 0)
	}
	r.submit("b")
	if bs := r.bundles(); len(bs) != 1 || bs[0].Nonce <= nonce {
		t.Fatalf("%+v", bs)
	}
}

func TestSplitBundlesResumeToo(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4, keep)
	s.submit("a", "b")
	s.opened(firstSession)
	s.submit("c")
	first := s.core.flights[0].bundle
	for id := range smr.NodeID(2) {
		_ = s.receive(id+1, 14, adviceFrame(2, first, "no", 0))
	}
	if len(s.core.flights) != 3 {
		t.Fatal("not split")
	}
	_, ops := resumed(t, s.save).core.Recovered()
	if string(bytes.Join(ops, nil)) != "abc" {
		t.Fatalf("recovered %q", ops)
	}
}

func TestDamagedForeignAndLockedSessionFilesAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "session")
	cluster := smr.ClusterID{1}
	f, state, err := openSessionFile(path, cluster, self)
	if err != nil || state != nil {
		t.Fatal(state, err)
	}
	if _, _, err := openSessionFile(path, cluster, self); !errors.Is(err, ErrSessionInUse) {
		t.Fatal(err)
	}
	want := SessionState{Cluster: cluster, Client: self, Nonce: 5, Session: firstSession, Next: 9}
	if err := f.store(&want); err != nil {
		t.Fatal(err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	f, state, err = openSessionFile(path, cluster, self)
	if err != nil || state.Next != 9 || state.Session != firstSession || state.Nonce != 5 {
		t.Fatal(state, err)
	}
	_ = f.close()
	if _, _, err := openSessionFile(path, cluster, self+1); !errors.Is(err, ErrSessionState) || !strings.Contains(err.Error(), "belongs to client 7") {
		t.Error(err)
	}
	raw, _ := os.ReadFile(path)
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if _, err := DecodeSessionState(bad); !errors.Is(err, ErrSessionState) {
			t.Fatalf("byte %d flipped: %v", i, err)
		}
		if _, err := DecodeSessionState(raw[:i]); !errors.Is(err, ErrSessionState) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

func TestReconnectingSendsWhatWaits(t *testing.T) {
	s := newScript(t, quorum.Byzantine, 4)
	s.submit("a")
	s.opened(firstSession)
	s.query("q", Level{})
	s.sent = nil
	var out Output
	s.core.Connected(3, &out)
	if len(out.Send) != 2 || out.Send[0].To != 3 || out.Send[1].To != 3 {
		t.Fatalf("%+v", out.Send)
	}
	s.answer(3, 1, "v", 0, 5)
	out.Reset()
	s.core.Connected(3, &out)
	if len(out.Send) != 1 {
		t.Fatal("asked again what was answered")
	}
}

package storage

import (
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// A decision mark that no vote follows becomes durable all the same.
func TestADecisionMarkAloneBecomesDurable(t *testing.T) {
	dir := t.TempDir()
	id := Identity{Node: 1}
	if err := Init(dir, id); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir, id, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := s.Recover(); err != nil {
		t.Fatal(err)
	}
	wait := func(token uint64) {
		t.Helper()
		limit := time.After(10 * time.Second)
		for s.DurableToken() < token {
			select {
			case <-s.Durable():
			case <-limit:
				t.Fatalf("token %d is not durable", token)
			}
		}
	}
	mark := func(seq smr.SeqNo) []protocol.Record {
		return []protocol.Record{{Kind: protocol.RecordDecision, Epoch: 1, Seq: seq, Digest: smr.Digest{byte(seq)}}}
	}
	before := s.Stats().Commits
	s.Append(1, mark(1), make([][]*smr.Bundle, 1))
	wait(1)
	if n := s.Stats().Commits - before; n != 1 {
		t.Fatalf("%d commits of one mark", n)
	}
}

// Without a writer, so that nothing depends on time: the mark waits, the vote does not, and both
// leave in one group.
func TestADecisionMarkLeavesInTheGroupOfTheNextVote(t *testing.T) {
	s := &Store{opts: Options{MaxQueueBytes: 1 << 20}}
	s.work.L, s.room.L = &s.mu, &s.mu
	s.patient = time.AfterFunc(time.Hour, func() {})
	defer s.patient.Stop()
	s.Append(1, []protocol.Record{{Kind: protocol.RecordDecision, Epoch: 1, Seq: 1}}, make([][]*smr.Bundle, 1))
	if s.urgent != 0 {
		t.Fatal("a decision mark hurries the writer")
	}
	s.Append(2, []protocol.Record{{Kind: protocol.RecordState, Name: 1, Epoch: 1}}, make([][]*smr.Bundle, 1))
	if s.urgent == 0 {
		t.Fatal("a vote waits")
	}
	if group, ok := s.take(nil); !ok || len(group) != 2 {
		t.Fatalf("a group of %d", len(group))
	}
}

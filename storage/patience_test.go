package storage

import (
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// A decision mark alone causes no sync of its own while a vote follows soon, and is written all the
// same if none does.
func TestADecisionMarkSharesTheSyncOfTheNextVote(t *testing.T) {
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
	start := time.Now()
	s.Append(2, mark(2), make([][]*smr.Bundle, 1))
	s.Append(3, []protocol.Record{{Kind: protocol.RecordState, Name: 1, Epoch: 1}}, make([][]*smr.Bundle, 1))
	wait(3)
	if n := s.Stats().Commits - before; n > 2 && time.Since(start) < patience {
		t.Fatalf("%d commits: the mark did not wait for the vote", n)
	}
}

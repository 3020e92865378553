package storage

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// maxGroupBytes bounds one group commit, so that the first of a long queue need not wait for all.
const maxGroupBytes = 4 << 20

// job is something for the writer: exactly one of records, truncate and cert.
type job struct {
	token    uint64
	records  []protocol.Record
	bundles  [][]*smr.Bundle
	truncate smr.SeqNo
	certSeq  smr.SeqNo
	cert     []byte
	bytes    int
	patient  bool // may wait for others to share its sync with
}

// patience is how long decision marks wait for a vote or a proposal to share their sync with. No
// message waits for them: a decision is proven by votes that are durable elsewhere, so at most what
// happens to follow them is late by this much.
const patience = 5 * time.Millisecond

// Append implements [Disk]. It waits only while more than Options.MaxQueueBytes are queued; after a
// failure it drops what it is given.
func (s *Store) Append(token uint64, records []protocol.Record, bundles [][]*smr.Bundle) {
	checkRecords(records, bundles)
	s.enqueue(job{token: token, records: records, bundles: bundles, bytes: size(records, bundles), patient: onlyDecisions(records)})
}

func onlyDecisions(records []protocol.Record) bool {
	for i := range records {
		if records[i].Kind != protocol.RecordDecision {
			return false
		}
	}
	return len(records) > 0
}

// Truncate implements [Disk]. The deletion is written behind what was appended; a crash may undo it.
func (s *Store) Truncate(upto smr.SeqNo) { s.enqueue(job{truncate: upto, bytes: 64}) }

// SetCheckpointCert implements [Disk]. cert is kept and must not change.
func (s *Store) SetCheckpointCert(seq smr.SeqNo, cert []byte) {
	s.enqueue(job{certSeq: seq, cert: cert, bytes: 64 + len(cert)})
}

func (s *Store) enqueue(j job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.queued > s.opts.MaxQueueBytes && s.err == nil && !s.closing {
		s.room.Wait()
	}
	if s.err != nil || s.closing {
		return
	}
	s.queue = append(s.queue, j)
	s.queued += j.bytes
	if !j.patient {
		s.urgent++
		s.work.Signal()
	} else if len(s.queue) == 1 {
		s.patient.Reset(patience)
	}
}

// hurry ends the patience of what waits. It runs on a timer.
func (s *Store) hurry() {
	s.mu.Lock()
	s.urgent++
	s.work.Signal()
	s.mu.Unlock()
}

// take waits for work and returns up to maxGroupBytes of it; false when the store closes or failed.
func (s *Store) take(group []job) ([]job, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for (len(s.queue) == 0 || s.urgent == 0) && !s.closing && s.err == nil {
		s.urgent = 0
		s.work.Wait()
	}
	if len(s.queue) == 0 || s.err != nil {
		return nil, false
	}
	n, bytes := 0, 0
	for n < len(s.queue) && (n == 0 || bytes+s.queue[n].bytes <= maxGroupBytes) {
		bytes += s.queue[n].bytes
		n++
	}
	group = append(group[:0], s.queue[:n]...)
	rest := copy(s.queue, s.queue[n:])
	clear(s.queue[rest:])
	if s.queue = s.queue[:rest]; rest == 0 {
		s.urgent = 0
	}
	s.queued -= bytes
	s.stats.Since = time.Now()
	s.room.Broadcast()
	return group, true
}

// writer is the store's goroutine. While one commit syncs, Append gathers the next.
func (s *Store) writer() {
	defer close(s.done)
	var group []job
	for {
		var ok bool
		if group, ok = s.take(group); !ok {
			return
		}
		if err := s.commit(group); err != nil {
			s.fail(err)
			return
		}
		clear(group)
	}
}

// commit writes a group as one batch and publishes its token.
func (s *Store) commit(group []job) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.mu.Lock()
			s.stuck = true
			s.mu.Unlock()
			if cause, ok := p.(error); ok {
				err = explain("write", s.dir, cause)
			} else {
				err = fmt.Errorf("write %s: %v", s.dir, p)
			}
		}
	}()
	start := time.Now()
	room, records := 0, 0
	for i := range group {
		room += group[i].bytes + 64
		records += len(group[i].records)
	}
	b := s.db.NewBatchWithSize(room)
	t := pebbleBatch{b}
	token, needSync := uint64(0), false
	for i := range group {
		j := &group[i]
		switch {
		case j.truncate != 0:
			if upto := min(j.truncate, s.ckpt.covered()); upto > 0 {
				err = truncateTo(t, upto)
			}
		case j.certSeq != 0:
			err, needSync = writeCert(t, j.certSeq, j.cert), true
		default:
			err, needSync, token = write(t, j.records, j.bundles), true, j.token
		}
		if err != nil {
			return err
		}
	}
	how := pebble.NoSync
	if needSync && s.opts.Mode == Strict {
		how = pebble.Sync
	}
	if !b.Empty() {
		if err := b.Commit(how); err != nil {
			return explain("write", s.dir, err)
		}
	}
	bytes := b.Len()
	if err := b.Close(); err != nil {
		return explain("write", s.dir, err)
	}
	// A failed sync reaches Pebble's logger, not the result of Commit.
	if err := s.Err(); err != nil {
		return err
	}
	s.publish(token, start, records, bytes)
	return nil
}

func (s *Store) publish(token uint64, start time.Time, records, bytes int) {
	took := time.Since(start)
	s.mu.Lock()
	s.stats.Commits++
	s.stats.Records += uint64(records)
	s.stats.Bytes += uint64(bytes)
	s.stats.CommitTime += took
	s.stats.LastCommit = took
	s.stats.Since = time.Time{}
	failed := s.err != nil
	if token > 0 && !failed {
		s.durable.Store(token)
	}
	s.mu.Unlock()
	if token == 0 || failed {
		return
	}
	select {
	case s.notify <- struct{}{}:
	default:
	}
}

func appendUint64(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

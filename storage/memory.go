package storage

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// Memory is a log in memory that can crash: for the simulator and tests. It belongs to one
// goroutine; nothing becomes durable but in SyncNow, and a crash loses the rest, or keeps the part
// of it that the caller chooses. It survives its crashes, so one Memory is one disk.
type Memory struct {
	mode    Mode
	durable sorted // as of the last sync
	now     sorted // with everything appended since
	pending []pendingWrite
	token   uint64 // durable
	err     error
	run     run
	ckpts   []memoryCheckpoint // ascending
	staged  *memoryStaging     // nil: nothing
	writing bool
	closed  bool
}

type pendingWrite struct {
	token uint64
	apply func(t tables) error
	bytes int
}

type memoryCheckpoint struct {
	seq   smr.SeqNo
	image []byte
}

// NewMemory returns an empty disk.
func NewMemory(mode Mode) *Memory { return &Memory{mode: mode, run: run{mode: mode}} }

// Append implements [Disk]: it queues until SyncNow, visible at once.
func (m *Memory) Append(token uint64, records []protocol.Record, bundles [][]*smr.Bundle) {
	checkRecords(records, bundles)
	m.push(pendingWrite{
		token: token, bytes: size(records, bundles),
		apply: func(t tables) error { return write(t, records, bundles) },
	})
	if m.mode != Strict && m.err == nil && !m.closed {
		m.token = token
	}
}

// Truncate implements [Disk].
func (m *Memory) Truncate(upto smr.SeqNo) {
	upto = min(upto, m.covered())
	if upto == 0 {
		return
	}
	m.push(pendingWrite{apply: func(t tables) error { return truncateTo(t, upto) }})
}

func (m *Memory) covered() smr.SeqNo {
	seqs := make([]smr.SeqNo, len(m.ckpts))
	for i := range m.ckpts {
		seqs[i] = m.ckpts[i].seq
	}
	return covered(seqs)
}

// SetCheckpointCert implements [Disk].
func (m *Memory) SetCheckpointCert(seq smr.SeqNo, cert []byte) {
	m.push(pendingWrite{apply: func(t tables) error { return writeCert(t, seq, cert) }, bytes: len(cert)})
}

func (m *Memory) push(w pendingWrite) {
	if m.err != nil || m.closed {
		return
	}
	if err := w.apply(&m.now); err != nil {
		m.err = err
		return
	}
	m.pending = append(m.pending, w)
}

// Pending returns how many writes wait for a sync, and their bytes.
func (m *Memory) Pending() (writes, bytes int) {
	for i := range m.pending {
		bytes += m.pending[i].bytes
	}
	return len(m.pending), bytes
}

// SyncNow makes everything appended durable and returns the durable token.
func (m *Memory) SyncNow() uint64 { return m.Sync(len(m.pending)) }

// Sync makes the oldest n pending writes durable and returns the durable token. A caller that models
// a sync that takes time takes n from Pending when it starts.
func (m *Memory) Sync(n int) uint64 {
	if m.err != nil {
		return m.token
	}
	for i := range m.pending[:n] {
		w := &m.pending[i]
		if err := w.apply(&m.durable); err != nil {
			m.err = err
			return m.token
		}
		m.token = max(m.token, w.token)
	}
	m.pending = slices.Delete(m.pending, 0, n)
	return m.token
}

// Crash ends the run without a clean stop: of the pending writes, the oldest keep(len) stay, as a
// log that is written in order may keep them; nil keeps none. A failure that was injected is gone,
// too. The disk can be used again at once, from Recover on; tokens start over.
func (m *Memory) Crash(keep func(pending int) int) {
	if keep != nil {
		m.err = nil
		m.Sync(keep(len(m.pending)))
	}
	m.restart(m.run.forgot())
}

// Close implements [Disk]: a clean stop. The disk can be used again from Reopen on.
func (m *Memory) Close() error {
	if m.err == nil {
		m.SyncNow()
		m.run.clean = m.mode == Relaxed
	}
	m.closed = true
	return m.err
}

// Reopen starts the next run after Close.
func (m *Memory) Reopen() { m.restart(m.run.forgot()) }

func (m *Memory) restart(amnesic bool) {
	if m.mode == MemoryOnly {
		m.durable, m.ckpts, m.staged = sorted{}, nil, nil
	}
	m.pending, m.token, m.err, m.closed, m.writing = nil, 0, nil, false, false
	m.now = m.durable.clone()
	m.run = run{mode: m.mode, amnesic: amnesic}
}

// Fail injects a failed write: from now on nothing becomes durable, as after ENOSPC or EIO.
func (m *Memory) Fail(err error) { m.err = err }

// Rot flips a bit in the stored value of the decided proposal at seq, or of the newest checkpoint for
// seq 0; false when there is none.
func (m *Memory) Rot(seq smr.SeqNo) bool {
	if seq == 0 {
		if len(m.ckpts) == 0 {
			return false
		}
		c := &m.ckpts[len(m.ckpts)-1]
		c.image = bytes.Clone(c.image)
		c.image[len(c.image)/2] ^= 1
		return true
	}
	hit := false
	for _, t := range []*sorted{&m.durable, &m.now} {
		from, to := string(seqKey(tableProposal, seq)), string(seqKey(tableProposal, seq+1))
		for i, _ := slices.BinarySearchFunc(t.rows, from, compareRow); i < len(t.rows) && t.rows[i].key < to; i++ {
			v := bytes.Clone(t.rows[i].value)
			v[len(v)/2] ^= 1
			t.rows[i].value, hit = v, true
		}
	}
	return hit
}

// RotRecord flips a bit in one durable value of the log, the one that pick chooses of rows, and
// names it; empty if there is none. What waits for a sync is lost to the damage.
func (m *Memory) RotRecord(pick func(rows int) int) string {
	if len(m.durable.rows) == 0 {
		return ""
	}
	r := &m.durable.rows[pick(len(m.durable.rows))]
	r.value = bytes.Clone(r.value)
	r.value[len(r.value)/2] ^= 1
	m.pending, m.now = nil, m.durable.clone()
	return keyName([]byte(r.key))
}

// Tear cuts the newest checkpoint short, as a crash leaves one whose name was durable before its
// bytes; keep chooses how many of its bytes stay.
func (m *Memory) Tear(keep func(bytes int) int) {
	if n := len(m.ckpts); n > 0 {
		c := &m.ckpts[n-1]
		c.image = bytes.Clone(c.image[:keep(len(c.image))])
	}
}

// DurableToken implements [Disk].
func (m *Memory) DurableToken() uint64 { return m.token }

// Err implements [Disk].
func (m *Memory) Err() error { return m.err }

// Recover implements [Disk].
func (m *Memory) Recover() (Recovered, error) {
	r, err := m.LatestCheckpoint()
	if err != nil {
		return Recovered{}, err
	}
	base := protocol.HeaderInfo{}
	if r != nil {
		base = r.HeaderInfo()
	}
	rec, err := recoverLog(&m.now, base)
	if r != nil {
		rec.Checkpoint, rec.Certificate = r.Descriptor, r.Certificate
	}
	rec.Amnesic = m.run.amnesic
	return rec, err
}

// ReadDecisions implements [Disk].
func (m *Memory) ReadDecisions(after, upto smr.SeqNo, maxBytes int) ([]Entry, smr.SeqNo, error) {
	return readDecisions(&m.now, after, upto, maxBytes)
}

// BeginCheckpoint implements [Disk]. A committed checkpoint is durable at once.
func (m *Memory) BeginCheckpoint(seq smr.SeqNo) (*CheckpointWriter, error) {
	if m.err != nil {
		return nil, m.err
	}
	if m.writing {
		return nil, errors.New("another checkpoint is being written")
	}
	m.writing = true
	return newCheckpointWriter(seq, &memorySink{m: m})
}

type memorySink struct {
	bytes.Buffer
	m *Memory
}

func (s *memorySink) abort() { s.m.writing = false }

func (s *memorySink) commit(d *Descriptor) error {
	m := s.m
	m.writing = false
	if m.err != nil {
		return m.err
	}
	m.publish(d.Seq, s.Bytes())
	return nil
}

// LatestCheckpoint implements [Disk].
func (m *Memory) LatestCheckpoint() (*CheckpointReader, error) {
	for len(m.ckpts) > 0 {
		c := m.ckpts[len(m.ckpts)-1]
		r, err := openCheckpoint(checkpointName(c.seq), bytes.NewReader(c.image), int64(len(c.image)), func() error { return nil })
		if err == nil {
			err = r.verify()
		}
		if err == nil {
			r.Certificate, err = readCert(&m.now, c.seq)
			return r, err
		}
		if !errors.Is(err, ErrCorrupt) {
			return nil, err
		}
		m.ckpts = m.ckpts[:len(m.ckpts)-1]
	}
	return nil, nil
}

// sorted is a small ordered map. Appending at the end of a table is what mostly happens to it.
type sorted struct{ rows []row }

type row struct {
	key   string
	value []byte
}

func compareRow(r row, key string) int { return strings.Compare(r.key, key) }

func (t *sorted) set(key, value []byte) error {
	i, found := slices.BinarySearchFunc(t.rows, string(key), compareRow)
	if found {
		t.rows[i].value = value
	} else {
		t.rows = slices.Insert(t.rows, i, row{string(key), value})
	}
	return nil
}

func (t *sorted) delete(key []byte) error {
	if i, found := slices.BinarySearchFunc(t.rows, string(key), compareRow); found {
		t.rows = slices.Delete(t.rows, i, i+1)
	}
	return nil
}

func (t *sorted) deleteRange(from, to []byte) error {
	i, _ := slices.BinarySearchFunc(t.rows, string(from), compareRow)
	j, _ := slices.BinarySearchFunc(t.rows, string(to), compareRow)
	t.rows = slices.Delete(t.rows, i, max(i, j))
	return nil
}

func (t *sorted) get(key []byte) ([]byte, error) {
	if i, found := slices.BinarySearchFunc(t.rows, string(key), compareRow); found {
		return t.rows[i].value, nil
	}
	return nil, nil
}

func (t *sorted) scan(from, to []byte, f func(key, value []byte) (bool, error)) error {
	i, _ := slices.BinarySearchFunc(t.rows, string(from), compareRow)
	for ; i < len(t.rows) && t.rows[i].key < string(to); i++ {
		if more, err := f([]byte(t.rows[i].key), t.rows[i].value); err != nil || !more {
			return err
		}
	}
	return nil
}

func (t *sorted) clone() sorted { return sorted{slices.Clone(t.rows)} }

var _ io.Writer = (*memorySink)(nil)

package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/atlas-smr/smr"
)

func partKey(table byte, id smr.PartID) []byte {
	return binary.BigEndian.AppendUint64([]byte{table}, uint64(id))
}

// touched writes the record of a part that is new, changed or has new bounds. What the digest record
// says of an older version does not count any more.
func (m *Pebble) touched(p *part) {
	row := binary.BigEndian.AppendUint64(nil, p.gen)
	row = appendField(appendField(row, p.low), p.high)
	if err := m.batch.Set(partKey('p', p.id), row, nil); err != nil {
		m.fail(err)
	}
	if err := m.batch.Set(keyNext, binary.BigEndian.AppendUint64(nil, uint64(m.parts.next)), nil); err != nil {
		m.fail(err)
	}
}

// dropped deletes the records of a part that is gone.
func (m *Pebble) dropped(p *part) {
	for _, table := range []byte{'p', 'd'} {
		if err := m.batch.Delete(partKey(table, p.id), nil); err != nil {
			m.fail(err)
		}
	}
}

// saveDigest keeps the digest of a version of a part. It is called beside execution.
func (m *Pebble) saveDigest(p *part, digest smr.Digest) error {
	return m.db.Set(partKey('d', p.id), digestRow(p, digest), pebble.NoSync)
}

const digestRowBytes = 8 + 8 + 8 + 32

func digestRow(p *part, digest smr.Digest) []byte {
	row := make([]byte, 0, digestRowBytes)
	for _, v := range []uint64{p.gen, uint64(p.pairs), uint64(p.bytes)} {
		row = binary.BigEndian.AppendUint64(row, v)
	}
	return append(row, digest[:]...)
}

var errRecord = errors.New("damaged: malformed record")

// load reads the parts. Those whose size is not recorded for their newest version are counted: they
// changed after the last capture before the end of the process.
func (m *Pebble) load() error {
	half, err := m.get(keyHalf)
	if err != nil {
		return err
	}
	if m.half = half != nil; m.half {
		return nil
	}
	next, err := m.get(keyNext)
	if err != nil {
		return err
	}
	if next == nil {
		return m.Reset()
	}
	if len(next) != 8 {
		return errRecord
	}
	if m.meta, err = m.get(keyMeta); err != nil {
		return err
	}
	list, gen, err := m.loadParts()
	if err != nil {
		return err
	}
	r := &restoring{next: smr.PartID(binary.BigEndian.Uint64(next)), parts: make(map[smr.PartID]*part)}
	for _, p := range list {
		r.parts[p.id] = p
		m.count += p.pairs
	}
	if list, err = r.finish(); err != nil {
		return err
	}
	m.parts.gen = gen
	m.parts.install(list, r.next)
	return nil
}

// loadParts reads the records of parts, and the highest version in any record.
func (m *Pebble) loadParts() (list []*part, gen uint64, err error) {
	err = m.records('p', func(key, row []byte) error {
		p, err := decodeRow(key, row)
		if err != nil {
			return err
		}
		list = append(list, p)
		gen = max(gen, p.gen)
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	measured := make(map[smr.PartID]bool, len(list))
	at := 0
	err = m.records('d', func(key, row []byte) error {
		if len(key) != 9 || len(row) != digestRowBytes {
			return errRecord
		}
		id, version := smr.PartID(binary.BigEndian.Uint64(key[1:])), binary.BigEndian.Uint64(row)
		gen = max(gen, version) // no part may get this version again
		for at < len(list) && list[at].id < id {
			at++
		}
		if at < len(list) && list[at].id == id && list[at].gen == version {
			p := list[at]
			p.pairs, p.bytes = int(binary.BigEndian.Uint64(row[8:])), int(binary.BigEndian.Uint64(row[16:]))
			p.sum.set(smr.Digest(row[24:]))
			measured[id] = true
		}
		return nil
	})
	for i := 0; err == nil && i < len(list); i++ {
		if !measured[list[i].id] {
			err = m.measure(list[i])
		}
	}
	return list, gen, err
}

// records calls fn for the records of a table, in order of their keys.
func (m *Pebble) records(table byte, fn func(key, row []byte) error) error {
	it, err := m.db.NewIter(&pebble.IterOptions{LowerBound: []byte{table}, UpperBound: []byte{table + 1}})
	if err != nil {
		return err
	}
	for ok := it.First(); ok && err == nil; ok = it.Next() {
		err = fn(it.Key(), it.Value())
	}
	return errors.Join(err, it.Close())
}

func decodeRow(key, row []byte) (*part, error) {
	if len(key) != 9 || len(row) < 8 {
		return nil, errRecord
	}
	r := partReader{b: row[8:]}
	p := &part{gen: binary.BigEndian.Uint64(row), id: smr.PartID(binary.BigEndian.Uint64(key[1:])), sum: new(sum)}
	p.low, p.high = string(r.field(MaxKeyBytes)), string(r.field(MaxKeyBytes))
	if r.bad || len(r.b) > 0 {
		return nil, errRecord
	}
	return p, nil
}

// measure counts the pairs of a part.
func (m *Pebble) measure(p *part) error {
	return m.live().scan(p.low, p.high, func(key string, value []byte) bool {
		p.pairs++
		p.bytes += pairSize(key, value)
		return true
	})
}

// Reset implements smr.Divisible.
func (m *Pebble) Reset() error {
	m.half, m.count, m.meta = false, 0, nil
	m.batch = m.db.NewBatch()
	if err := m.batch.DeleteRange([]byte{0}, []byte{0xff}, nil); err != nil {
		return err
	}
	m.parts.reset()
	_, first, _ := m.parts.parts.Floor("")
	m.touched(first)
	if err := m.commit(); err != nil {
		return err
	}
	return m.usable()
}

// pebbleWriter changes the database in place, marked as half restored from the first Put on. Only
// one part is in memory at a time.
type pebbleWriter struct {
	*restoring
	m       *Pebble
	gen     uint64
	started bool
	err     error // sticky
}

// Begin implements smr.Divisible.
func (m *Pebble) Begin() smr.PartWriter {
	if m.half { // nothing of what is here can be kept
		if err := m.Reset(); err != nil {
			return &pebbleWriter{m: m, err: err, restoring: newRestoring(&m.parts, nil)}
		}
	}
	m.parts.gen++
	return &pebbleWriter{m: m, gen: m.parts.gen, restoring: newRestoring(&m.parts, m.meta)}
}

// start marks the state as half restored, before its first change.
func (w *pebbleWriter) start() error {
	if w.err == nil && !w.started {
		w.started, w.m.half = true, true
		w.err = w.m.db.Set(keyHalf, nil, pebble.NoSync)
	}
	return w.err
}

// Put implements smr.PartWriter.
func (w *pebbleWriter) Put(info smr.PartInfo, data []byte) error {
	if info.ID == headerPart {
		return w.putHeader(data)
	}
	if err := w.start(); err != nil {
		return err
	}
	b := w.m.db.NewBatchWithSize(len(data) + len(data)/4 + 1024)
	p, err := decodePart(info.ID, data, func(key, value []byte) error {
		op := b.SetDeferred(1+len(key), len(value))
		op.Key[0] = 'k'
		copy(op.Key[1:], key)
		copy(op.Value, value)
		return op.Finish()
	})
	if err == nil {
		err = w.clear(p)
	}
	if err == nil {
		p.gen = w.gen
		w.m.batch = b
		w.m.touched(p)
		err = errors.Join(b.Set(partKey('d', p.id), digestRow(p, info.Digest), nil), b.Commit(pebble.NoSync))
	}
	if err = errors.Join(err, b.Close()); err != nil {
		w.err = err
		return err
	}
	return w.put(p, info.Digest)
}

// clear deletes whatever lies in the range of p.
func (w *pebbleWriter) clear(p *part) error {
	lower, upper := pairBounds(p.low, p.high)
	it, err := w.m.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	some := it.First()
	if err := it.Close(); err != nil || !some {
		return err
	}
	return w.m.db.DeleteRange(lower, upper, pebble.NoSync)
}

// Delete implements smr.PartWriter. The keys of the part are those of others by the time of Commit.
func (w *pebbleWriter) Delete(id smr.PartID) error {
	p := w.parts[id]
	if err := w.restoring.Delete(id); err != nil {
		return err
	}
	if err := w.start(); err != nil {
		return err
	}
	w.m.batch = w.m.db.NewBatch()
	w.m.dropped(p)
	w.err = w.m.commit()
	return w.err
}

// Commit implements smr.PartWriter.
func (w *pebbleWriter) Commit() error {
	if w.err != nil {
		return fmt.Errorf("%w: %w", ErrIncomplete, w.err)
	}
	list, err := w.finish()
	if err != nil {
		return err
	}
	m := w.m
	m.parts.install(list, w.next)
	m.batch, m.meta, m.count = m.db.NewBatch(), w.meta, 0
	for _, p := range list {
		m.count += p.pairs
	}
	err = errors.Join(
		m.batch.Set(keyNext, binary.BigEndian.AppendUint64(nil, uint64(w.next)), nil),
		m.batch.Set(keyMeta, w.meta, nil), m.batch.Delete(keyHalf, nil), m.commit())
	if err != nil {
		m.half = true
		return err
	}
	m.half = false
	return m.usable()
}

// Abort implements smr.PartWriter. Once a part was put or deleted, the map is of no use before
// another Begin.
func (w *pebbleWriter) Abort() {}

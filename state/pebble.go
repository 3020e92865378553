package state

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/atlas-smr/smr"
)

// Pebble is a [Map] on disk. In memory it holds about 150 bytes and two keys a part, and a cache.
//
// The directory belongs to the map. What a crash leaves there is a state from before it, not
// necessarily the newest: durable are the checkpoints of the replica, from which the framework
// restores what differs. So nothing is written twice and nothing is synced here. The records:
//
//	'd' part id(8)   digest of the part, and the version it is the digest of
//	'i'              a replacement of parts is under way: what is here is no state
//	'k' key          value
//	'm'              the application's own bytes
//	'n'              next part id
//	'p' part id(8)   the part's version and bounds
//
// A part's record is written with the first change of the part after a capture. Pebble checks every
// block it reads; damage is an error.
type Pebble struct {
	smr.DivisibleState
	db    *pebble.DB
	cache *pebble.Cache
	parts partition
	batch *pebble.Batch // of the change that is being made
	count int
	meta  []byte
	half  bool // a replacement of parts was begun and not committed

	mu     sync.Mutex
	broken error // what Pebble's own goroutines reported
}

// PebbleOptions tune a Pebble map. The zero value will do.
type PebbleOptions struct {
	FS         vfs.FS // nil: the operating system's
	CacheBytes int64  // of blocks read; 0 means 128 MiB
	Logger     *slog.Logger
}

// ErrIncomplete is returned by a map whose parts were being replaced when the process ended or an
// error came in between. Only Begin and Reset help.
var ErrIncomplete = errors.New("the map is half restored")

var (
	keyHalf = []byte("i")
	keyMeta = []byte("m")
	keyNext = []byte("n")
)

// OpenPebble opens the map in dir, which is made if it is not there. It holds what an earlier run
// left; a replica resets or restores it before it executes anything.
func OpenPebble(dir string, o PebbleOptions) (*Pebble, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 128 << 20
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	m := &Pebble{cache: pebble.NewCache(o.CacheBytes)}
	db, err := openPebble(dir, m.options(o))
	if err != nil {
		m.cache.Unref()
		return nil, fmt.Errorf("state %s: %w", dir, err)
	}
	m.db = db
	m.parts.bounds = defaultBounds
	m.parts.touched, m.parts.dropped = m.touched, m.dropped
	if err := m.load(); err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("state %s: %w", dir, err)
	}
	return m, nil
}

func (m *Pebble) options(o PebbleOptions) *pebble.Options {
	po := &pebble.Options{
		FS: o.FS, Cache: m.cache, DisableWAL: true,
		FormatMajorVersion:          pebble.FormatWALSyncChunks,
		MemTableSize:                32 << 20,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		LBaseMaxBytes:               256 << 20,
		MaxOpenFiles:                512,
		Logger:                      quiet{o.Logger, m},
		EventListener: &pebble.EventListener{
			BackgroundError: m.background,
			DataCorruption:  func(i pebble.DataCorruptionInfo) { m.fail(errors.New(i.String())) },
		},
	}
	po.TargetFileSizes[0] = 16 << 20 // fewer filters and indexes to hold
	po.CompactionConcurrencyRange = func() (int, int) { return 1, 2 }
	po.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	for i := range po.Levels {
		po.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return po
}

// openPebble turns a panic of Pebble at open, which damaged files can cause, into an error.
func openPebble(dir string, o *pebble.Options) (db *pebble.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, fmt.Errorf("damaged: %v", p)
		}
	}()
	return pebble.Open(dir, o)
}

// quiet is Pebble's logger. It keeps the process alive where Pebble would end it.
type quiet struct {
	log *slog.Logger
	m   *Pebble
}

func (l quiet) Infof(format string, args ...any) {
	l.log.Debug(fmt.Sprintf(format, args...), "part", "state")
}

func (l quiet) Errorf(format string, args ...any) {
	l.log.Error(fmt.Sprintf(format, args...), "part", "state")
}

func (l quiet) Fatalf(format string, args ...any) { l.m.fail(fmt.Errorf(format, args...)) }

func (m *Pebble) background(err error) {
	if !errors.Is(err, pebble.ErrClosed) && !errors.Is(err, pebble.ErrCancelledCompaction) {
		m.fail(err)
	}
}

// fail keeps the first error, which every later call reports.
func (m *Pebble) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.broken == nil {
		m.broken = fmt.Errorf("state on disk: %w", err)
	}
}

func (m *Pebble) usable() error {
	m.mu.Lock()
	err := m.broken
	m.mu.Unlock()
	if err == nil && m.half {
		err = ErrIncomplete
	}
	return err
}

// Close writes out what is in memory, which the next run need not restore then, and closes the
// database. Captures must have been released.
func (m *Pebble) Close() error {
	err := m.usable()
	if err == nil || errors.Is(err, ErrIncomplete) {
		err = m.db.Flush()
	}
	err = errors.Join(err, m.db.Close())
	m.cache.Unref()
	return err
}

func pairKey(key string) []byte { return append(append(make([]byte, 0, 1+len(key)), 'k'), key...) }

// pairBounds returns the bounds of the records of the pairs with from <= key < to.
func pairBounds(from, to string) (lower, upper []byte) {
	if to == "" {
		return pairKey(from), []byte("l")
	}
	return pairKey(from), pairKey(to)
}

// get returns a copy of the value under a record's key; nil for none.
func (m *Pebble) get(key []byte) ([]byte, error) {
	v, closer, err := m.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v = append(make([]byte, 0, len(v)), v...) // never nil
	return v, closer.Close()
}

// Get implements Map.
func (m *Pebble) Get(key string) ([]byte, bool, error) {
	if err := m.usable(); err != nil {
		return nil, false, err
	}
	v, err := m.get(pairKey(key))
	return v, v != nil, err
}

// size returns the length of the value under a record's key.
func (m *Pebble) size(key []byte) (n int, ok bool, err error) {
	v, closer, err := m.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return len(v), true, closer.Close()
}

// Set implements Map. It copies value.
func (m *Pebble) Set(key string, value []byte) error {
	if err := checkPair(key, value); err != nil {
		return err
	}
	if err := m.usable(); err != nil {
		return err
	}
	record := pairKey(key)
	old, had, err := m.size(record)
	if err != nil {
		return err
	}
	pairs, size := 1, pairSize(key, value)
	if had {
		pairs, size = 0, fieldSize(len(value))-fieldSize(old)
	}
	return m.change(key, pairs, size, func(b *pebble.Batch) error { return b.Set(record, value, nil) })
}

// Delete implements Map.
func (m *Pebble) Delete(key string) (bool, error) {
	if err := m.usable(); err != nil {
		return false, err
	}
	record := pairKey(key)
	old, had, err := m.size(record)
	if err != nil || !had {
		return false, err
	}
	return true, m.change(key, -1, -fieldSize(len(key))-fieldSize(old), func(b *pebble.Batch) error { return b.Delete(record, nil) })
}

// change makes a change of key with the records of its part that go with it, then lets the parts
// split or join.
func (m *Pebble) change(key string, pairs, size int, do func(*pebble.Batch) error) error {
	m.batch = m.db.NewBatch()
	p := m.parts.announce(key)
	if err := do(m.batch); err != nil {
		return errors.Join(err, m.batch.Close())
	}
	if err := m.commit(); err != nil {
		return err
	}
	m.count += pairs
	m.batch = m.db.NewBatch()
	if err := m.parts.change(m.live(), p, pairs, size); err != nil {
		return errors.Join(err, m.batch.Close())
	}
	if m.batch.Empty() {
		return m.batch.Close()
	}
	return m.commit()
}

func (m *Pebble) commit() error {
	err := m.batch.Commit(pebble.NoSync)
	return errors.Join(err, m.batch.Close())
}

// Scan implements Map.
func (m *Pebble) Scan(from, to string, fn func(key string, value []byte) bool) error {
	if err := m.usable(); err != nil {
		return err
	}
	return m.live().scan(from, to, fn)
}

// Len implements Map.
func (m *Pebble) Len() int { return m.count }

// Meta implements Map.
func (m *Pebble) Meta() []byte { return m.meta }

// SetMeta implements Map.
func (m *Pebble) SetMeta(meta []byte) error {
	if len(meta) > MaxMetaBytes {
		return fmt.Errorf("%w: meta of %d bytes, at most %d", ErrLimit, len(meta), MaxMetaBytes)
	}
	if err := m.usable(); err != nil {
		return err
	}
	if bytes.Equal(meta, m.meta) {
		return nil
	}
	m.meta = meta
	return m.db.Set(keyMeta, meta, pebble.NoSync)
}

// Freeze implements smr.Divisible: a snapshot of the database, which takes constant time.
func (m *Pebble) Freeze() smr.FrozenParts {
	if err := m.usable(); err != nil {
		return unusable{err}
	}
	snap := m.db.NewSnapshot()
	return &frozen{
		tree: m.parts.capture(), header: appendHeader(nil, m.parts.next, m.meta),
		src: pebbleSource{snap}, hashed: m.saveDigest, release: snap.Close,
	}
}

// unusable is the capture of a map that has no state.
type unusable struct{ err error }

func (u unusable) Parts() ([]smr.PartInfo, error)                    { return nil, u.err }
func (u unusable) ReadPart(dst []byte, _ smr.PartID) ([]byte, error) { return dst, u.err }
func (u unusable) Release()                                          {}

// pebbleSource is a database or a snapshot of it as a source.
type pebbleSource struct{ r pebble.Reader }

func (m *Pebble) live() source { return pebbleSource{m.db} }

func (s pebbleSource) scan(from, to string, fn func(key string, value []byte) bool) error {
	lower, upper := pairBounds(from, to)
	it, err := s.r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return err
	}
	more := true
	for ok := it.First(); ok && more && err == nil; ok = it.Next() {
		var value []byte
		if value, err = it.ValueAndErr(); err == nil {
			more = fn(string(it.Key()[1:]), value)
		}
	}
	return errors.Join(err, it.Close()) // Close reports what stopped the iteration
}

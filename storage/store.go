package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// Options tune a Store. The zero value is what a replica runs with.
type Options struct {
	Mode   Mode
	FS     vfs.FS       // nil: the operating system's
	Logger *slog.Logger // nil: silent
	// OnFatal is called at most once, from any goroutine, when nothing will become durable any more.
	// It must not call back into the store. The replica stops voting and says why.
	OnFatal func(error)
	// MaxQueueBytes bounds what Append queues; 0 means 64 MiB. Append waits while it is exceeded.
	MaxQueueBytes int
}

// Store is the ordering log, checkpoints and identity of one replica in one directory.
//
// Append, Truncate and SetCheckpointCert are called by one goroutine; everything else is safe beside
// them. One goroutine of the store's own writes; it ends in Close.
type Store struct {
	dir  string
	id   Identity
	opts Options
	fs   vfs.FS // holds log and checkpoints; memory in MemoryOnly
	home vfs.FS // holds identity, lock and run
	lock interface{ Close() error }
	db   *pebble.DB
	ckpt *checkpointFiles

	run     run
	fresh   bool // the once-only leave to start empty was taken by this Open
	durable atomic.Uint64
	notify  chan struct{}
	done    chan struct{} // closed when the writer has ended

	mu      sync.Mutex
	work    sync.Cond // the queue is not empty, or closing
	room    sync.Cond // the queue has room, or err
	queue   []job
	queued  int
	urgent  int         // what the writer must not let wait; counted from 0 when the queue empties
	patient *time.Timer // ends the patience of decision marks
	closing bool
	err     error // sticky
	stuck   bool  // Pebble panicked: it cannot be closed any more
	stats   Stats
	closed  sync.Once
	closeEr error
}

// Stats count what the writer did since Open.
type Stats struct {
	Commits    uint64        // group commits
	Records    uint64        // records in them
	Bytes      uint64        // of their batches
	CommitTime time.Duration // spent in commits, syncs included
	LastCommit time.Duration
	Queued     int       // bytes waiting now
	Since      time.Time // start of the commit that is under way; zero for none
}

// Open opens the data directory of id that Init prepared. Errors: ErrWiped, ErrOtherCluster,
// ErrOtherNode, ErrLocked, ErrFormat, ErrCorrupt, ErrDiskFull, ErrReadOnly; each says what to do.
func Open(dir string, id Identity, opts Options) (*Store, error) {
	if opts.FS == nil {
		opts.FS = vfs.Default
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.MaxQueueBytes == 0 {
		opts.MaxQueueBytes = 64 << 20
	}
	s := &Store{
		dir: dir, id: id, opts: opts, fs: opts.FS, home: opts.FS,
		notify: make(chan struct{}, 1), done: make(chan struct{}),
	}
	s.work.L, s.room.L = &s.mu, &s.mu
	s.patient = time.AfterFunc(time.Hour, s.hurry)
	s.patient.Stop()
	if opts.Mode == MemoryOnly {
		s.fs = vfs.NewMem()
	}
	if err := s.open(); err != nil {
		if s.db != nil {
			_ = s.db.Close()
		}
		if s.ckpt != nil {
			_ = s.ckpt.parts.close()
		}
		if s.lock != nil {
			_ = s.lock.Close()
		}
		return nil, err
	}
	go s.writer()
	return s, nil
}

func (s *Store) open() error {
	if err := checkIdentity(s.home, s.dir, s.id); err != nil {
		return err
	}
	lock := s.home.PathJoin(s.dir, lockFile)
	var err error
	if s.lock, err = s.home.Lock(lock); err != nil {
		s.lock = nil
		if lockTaken(err) {
			return fmt.Errorf("%w: %s; stop the other process, two of one node endanger the cluster", ErrLocked, s.dir)
		}
		return explain("lock", lock, err)
	}
	if err := s.openRun(); err != nil {
		return err
	}
	if s.ckpt, err = openCheckpointFiles(s.fs, s.fs.PathJoin(s.dir, "checkpoints")); err != nil {
		return err
	}
	if err := s.openLog(); err != nil {
		return err
	}
	if err := s.checkStoredIdentity(); err != nil {
		return err
	}
	if err := writeFile(s.home, s.dir, runFile, s.run.text()); err != nil {
		return err
	}
	return s.takeLeave()
}

// openRun judges the run before this one.
func (s *Store) openRun() error {
	_, err := s.home.Stat(s.home.PathJoin(s.dir, firstRunFile))
	s.fresh = err == nil
	last, ran, err := readRun(s.home, s.dir)
	if err != nil {
		return err
	}
	_, err = s.home.Stat(s.home.PathJoin(s.dir, "log"))
	switch {
	case s.fresh:
	case !ran && err != nil:
		return wiped(s.dir, s.id)
	case !ran:
		return corrupt("%s is missing", s.home.PathJoin(s.dir, runFile))
	}
	s.run = run{mode: s.opts.Mode, amnesic: ran && last.forgot()}
	if s.opts.Mode == MemoryOnly && !s.fresh {
		s.run.amnesic = true
	}
	// After a run in memory there may be no log on disk yet.
	s.fresh = s.fresh || last.mode == MemoryOnly
	return nil
}

// takeLeave consumes the once-only leave to start empty: the log exists now.
func (s *Store) takeLeave() error {
	path := s.home.PathJoin(s.dir, firstRunFile)
	if _, err := s.home.Stat(path); err != nil {
		return nil
	}
	if err := s.home.Remove(path); err != nil {
		return explain("remove", path, err)
	}
	return syncDir(s.home, s.dir)
}

func (s *Store) openLog() error {
	dir := s.fs.PathJoin(s.dir, "log")
	o := &pebble.Options{
		FS:                          s.fs,
		ErrorIfNotExists:            !s.fresh && s.opts.Mode != MemoryOnly,
		FormatMajorVersion:          pebble.FormatWALSyncChunks,
		CacheSize:                   8 << 20,
		MemTableSize:                16 << 20,
		MemTableStopWritesThreshold: 3,
		L0CompactionThreshold:       8, // most of the log is truncated before it is worth rewriting
		L0StopWritesThreshold:       40,
		LBaseMaxBytes:               256 << 20,
		MaxOpenFiles:                256,
		WALBytesPerSync:             1 << 20,
		FlushDelayDeleteRange:       time.Minute,
		Logger:                      pebbleLogger{s},
		EventListener: &pebble.EventListener{
			BackgroundError: s.background,
			DataCorruption:  func(i pebble.DataCorruptionInfo) { s.fail(corrupt("%s", i.String())) },
		},
	}
	o.CompactionConcurrencyRange = func() (int, int) { return 1, 1 }
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionNone })
	var err error
	if s.db, err = openPebble(dir, o); err != nil {
		s.db = nil
		if errors.Is(err, pebble.ErrDBDoesNotExist) {
			return wiped(s.dir, s.id)
		}
		if strings.Contains(err.Error(), "format major version") {
			return fmt.Errorf("%w: %s: %w; use the build that wrote it", ErrFormat, dir, err)
		}
		return explain("open", dir, err)
	}
	return s.Err()
}

// openPebble turns a panic of Pebble at open, which damaged files can cause, into an error.
func openPebble(dir string, o *pebble.Options) (db *pebble.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			db, err = nil, corrupt("%s: %v", dir, p)
		}
	}()
	return pebble.Open(dir, o)
}

// checkStoredIdentity compares the identity inside the log: a log copied between directories is
// noticed. A new log gets its identity here.
func (s *Store) checkStoredIdentity() error {
	v := pebbleView{s.db}
	value, err := v.get(keyIdentity)
	if err != nil {
		return explain("read", s.dir, err)
	}
	if value == nil {
		if !s.fresh && s.opts.Mode != MemoryOnly {
			return corrupt("%s: the log names no node", s.dir)
		}
		body := append(newBody(40), s.id.Cluster[:]...)
		body = appendUint64(body, uint64(s.id.Node))
		return explain("write", s.dir, s.db.Set(keyIdentity, seal(keyIdentity, body), pebble.Sync))
	}
	body, err := open(keyIdentity, value)
	if err != nil {
		return err
	}
	d := decoder{rest: body}
	var have Identity
	copy(have.Cluster[:], d.take(32))
	have.Node = smr.NodeID(d.uint64())
	if err := d.end(); err != nil {
		return corrupt("%s: identity in the log", s.dir)
	}
	return compareIdentity(s.dir, have, s.id)
}

// background judges an error of Pebble's own goroutines. Reading on would be possible, but a log
// that cannot be flushed grows until it cannot be written either.
func (s *Store) background(err error) {
	if errors.Is(err, pebble.ErrClosed) || errors.Is(err, pebble.ErrCancelledCompaction) {
		return
	}
	s.fail(explain("write", s.dir, err))
}

// fail makes err sticky: no token becomes durable any more. The first error counts.
func (s *Store) fail(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
	}
	s.queue, s.queued = nil, 0
	s.work.Broadcast()
	s.room.Broadcast()
	s.mu.Unlock()
	if !first {
		return
	}
	s.opts.Logger.Error("storage stops: nothing becomes durable any more", "err", err)
	if s.opts.OnFatal != nil {
		s.opts.OnFatal(err)
	}
}

// Err returns why nothing becomes durable any more; nil while all is well.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Durable is signalled when DurableToken rose. It holds one signal: the newest value counts.
func (s *Store) Durable() <-chan struct{} { return s.notify }

// DurableToken returns the highest token up to which everything is durable.
func (s *Store) DurableToken() uint64 { return s.durable.Load() }

// Stats returns what the writer did.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.Queued = s.queued
	return st
}

// Recover reads the log above the newest valid checkpoint. Call it once, before the first Append.
func (s *Store) Recover() (Recovered, error) {
	base, cert, err := s.newestCheckpoint()
	if err != nil {
		return Recovered{}, err
	}
	at := protocol.HeaderInfo{}
	if base != nil {
		at = base.HeaderInfo()
	}
	rec, err := recoverLog(pebbleView{s.db}, at)
	if err != nil {
		return rec, explain("read", s.dir, err)
	}
	rec.Checkpoint, rec.Certificate, rec.Amnesic = base, cert, s.run.amnesic
	return rec, nil
}

func (s *Store) newestCheckpoint() (*Descriptor, []byte, error) {
	r, err := s.LatestCheckpoint()
	if err != nil || r == nil {
		return nil, nil, err
	}
	return r.Descriptor, r.Certificate, r.Close()
}

// ReadDecisions implements [Disk]. It is safe beside everything else.
func (s *Store) ReadDecisions(after, upto smr.SeqNo, maxBytes int) ([]Entry, smr.SeqNo, error) {
	snap := s.db.NewSnapshot()
	out, first, err := readDecisions(pebbleView{snap}, after, upto, maxBytes)
	if cerr := snap.Close(); err == nil {
		err = cerr
	}
	return out, first, explain("read", s.dir, err)
}

// BeginCheckpoint starts writing the checkpoint at seq. A failed write is the writer's error;
// the log is not touched by it.
func (s *Store) BeginCheckpoint(seq smr.SeqNo) (*CheckpointWriter, error) {
	return s.ckpt.begin(seq, false)
}

// BeginDivisible is BeginCheckpoint for divisible state: parts that an earlier checkpoint has are
// kept, not written again. The descriptor and the parts become a checkpoint together.
func (s *Store) BeginDivisible(seq smr.SeqNo) (*CheckpointWriter, error) {
	return s.ckpt.begin(seq, true)
}

// LatestCheckpoint opens the newest valid checkpoint; nil for none. Damaged ones are set aside as
// N.ckpt.damaged and logged. Close the reader.
func (s *Store) LatestCheckpoint() (*CheckpointReader, error) {
	r, err := s.ckpt.latest(func(err error) {
		s.opts.Logger.Error("checkpoint is damaged: falling back to the one before", "err", err)
	})
	if err != nil || r == nil {
		return nil, err
	}
	if r.Certificate, err = readCert(pebbleView{s.db}, r.Seq); err != nil {
		_ = r.Close()
		return nil, err
	}
	return r, nil
}

// ForgiveAmnesia says that the epoch in which this replica may have voted is over. It takes effect at
// the next Open.
func (s *Store) ForgiveAmnesia() error {
	s.mu.Lock()
	s.run.amnesic = false
	r := s.run
	s.mu.Unlock()
	return writeFile(s.home, s.dir, runFile, r.text())
}

// Close makes what was appended durable, marks the stop as clean and releases the directory. It
// returns Err when the store had failed. Closing twice is harmless.
func (s *Store) Close() error {
	s.closed.Do(func() { s.closeEr = s.close() })
	return s.closeEr
}

func (s *Store) close() error {
	s.patient.Stop()
	s.mu.Lock()
	s.closing = true
	s.work.Broadcast()
	s.room.Broadcast()
	s.mu.Unlock()
	<-s.done
	err := s.Err()
	if err == nil && s.opts.Mode == Relaxed {
		err = explain("sync", s.dir, s.db.LogData(nil, pebble.Sync))
	}
	if cerr := s.ckpt.parts.close(); err == nil {
		err = cerr
	}
	if cerr := s.closePebble(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.Err()
	}
	if err == nil && s.opts.Mode == Relaxed {
		s.run.clean = true
		err = writeFile(s.home, s.dir, runFile, s.run.text())
	}
	if cerr := s.lock.Close(); err == nil {
		err = cerr
	}
	return err
}

// closePebble closes the log, unless Pebble broke off in the middle of a commit: its locks are held
// for good then, and only the end of the process frees what it holds.
func (s *Store) closePebble() (err error) {
	s.mu.Lock()
	stuck := s.stuck
	s.mu.Unlock()
	if stuck {
		return nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("close %s: %v", s.dir, p)
		}
	}()
	return explain("close", s.dir, s.db.Close())
}

package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// failing wraps fs so that once armed, the given kinds of operation fail with err.
func failing(fs vfs.FS, armed *atomic.Bool, err error, kinds ...errorfs.OpKind) vfs.FS {
	return errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		for _, k := range kinds {
			if op.Kind == k && armed.Load() {
				return err
			}
		}
		return nil
	}))
}

func TestFailedWriteOrSyncStopsDurability(t *testing.T) {
	for name, c := range map[string]struct {
		kind  errorfs.OpKind
		cause error
		want  error
	}{
		"sync EIO":     {errorfs.OpFileSyncData, syscall.EIO, syscall.EIO},
		"write ENOSPC": {errorfs.OpFileWrite, syscall.ENOSPC, ErrDiskFull},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			must(t, initDir(mem, "data", testID))
			var armed atomic.Bool
			fatal := make(chan error, 10)
			s := openTest(t, failing(mem, &armed, c.cause, c.kind), Options{OnFatal: func(err error) { fatal <- err }})
			appendDecided(t, s, 1, 1)
			waitDurable(t, s, 1)
			armed.Store(true)
			appendDecided(t, s, 2, 2)
			if err := <-fatal; !errors.Is(err, c.want) {
				t.Fatalf("fatal: %v", err)
			}
			armed.Store(false) // the disk is well again; the store must not be
			appendDecided(t, s, 3, 3)
			clone := mem.CrashClone(vfs.CrashCloneCfg{})
			if err := s.Close(); !errors.Is(err, c.want) {
				t.Fatalf("close: %v", err)
			}
			if s.DurableToken() != 1 || len(fatal) != 0 {
				t.Fatalf("token %d, %d more fatal calls", s.DurableToken(), len(fatal))
			}
			s = openTest(t, clone, Options{})
			rec, err := s.Recover()
			must(t, err)
			must(t, s.Close())
			if len(rec.Decisions) < 1 {
				t.Fatal("what was durable is gone")
			}
		})
	}
}

func TestCrashAtRandomMomentsKeepsAPrefixWithEverythingDurable(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		fs := vfs.NewCrashableMem()
		must(t, initDir(fs, "data", testID))
		s := openTest(t, fs, Options{})
		n := 1 + rng.IntN(40)
		for seq := 1; seq <= n; seq++ {
			appendDecided(t, s, uint64(seq), smr.SeqNo(seq))
			if rng.IntN(4) == 0 {
				waitDurable(t, s, uint64(seq))
			}
		}
		durable := s.DurableToken()
		clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		must(t, s.Close())
		s = openTest(t, clone, Options{})
		rec, err := s.Recover()
		must(t, s.Close())
		if err != nil || uint64(len(rec.Decisions)) < durable {
			t.Fatalf("seed %d: %d decisions, %d were durable: %v", seed, len(rec.Decisions), durable, err)
		}
	}
}

// filledDir makes a real directory with n decisions, stopped cleanly.
func filledDir(t *testing.T, n int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	must(t, Init(dir, testID))
	s, err := Open(dir, testID, Options{})
	must(t, err)
	for seq := 1; seq <= n; seq++ {
		appendDecided(t, s, uint64(seq), smr.SeqNo(seq))
		waitDurable(t, s, uint64(seq))
	}
	must(t, s.Close())
	return dir
}

func TestFlippedBitIsReportedAsDamage(t *testing.T) {
	for _, where := range []float64{0.1, 0.35, 0.5, 0.65} {
		t.Run(fmt.Sprint(where), func(t *testing.T) {
			dir := filledDir(t, 500) // many blocks of 32 KiB: within the last one, rot reads as a torn tail
			logs, err := filepath.Glob(filepath.Join(dir, "log", "*.log"))
			must(t, err)
			if len(logs) == 0 {
				t.Fatal("no log file")
			}
			file := logs[len(logs)-1]
			b, err := os.ReadFile(file)
			must(t, err)
			end := len(strings.TrimRight(string(b), "\x00"))
			b[int(float64(end)*where)] ^= 0x10
			must(t, os.WriteFile(file, b, 0o600))
			s, err := Open(dir, testID, Options{})
			if err == nil {
				_, err = s.Recover()
				_ = s.Close()
			}
			if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "new node id") {
				t.Fatalf("damage in the middle passed: %v", err)
			}
		})
	}
}

func TestRotUnderTheChecksumOfPebbleIsFoundByOurs(t *testing.T) {
	m := NewMemory(Strict)
	appendDecided(t, m, 1, 1)
	m.SyncNow()
	if !m.Rot(1) {
		t.Fatal("nothing to rot")
	}
	if _, err := m.Recover(); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "proposal 1 of view 0") {
		t.Fatalf("%v", err)
	}
	if _, _, err := m.ReadDecisions(0, 1, 1<<20); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("%v", err)
	}
}

func TestGapInTheLogIsDamage(t *testing.T) {
	m := NewMemory(Strict)
	for _, seq := range []smr.SeqNo{1, 2, 4} {
		appendDecided(t, m, uint64(seq), seq)
	}
	if _, err := m.Recover(); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "decision 4 but not decision 3") {
		t.Fatalf("%v", err)
	}
}

func TestDamagedCheckpointFallsBackToTheOneBefore(t *testing.T) {
	dir := filledDir(t, 30)
	s, err := Open(dir, testID, Options{})
	must(t, err)
	checkpoint(t, s, 10, 3*partBytes)
	checkpoint(t, s, 20, 3*partBytes)
	s.Truncate(20)
	must(t, s.Close())
	path := filepath.Join(dir, "checkpoints", checkpointName(20))
	b, err := os.ReadFile(path)
	must(t, err)
	b[partBytes+77] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
	s, err = Open(dir, testID, Options{})
	must(t, err)
	rec, err := s.Recover()
	must(t, err)
	must(t, s.Close())
	if rec.Base.Seq != 10 || len(rec.Decisions) != 20 {
		t.Fatalf("base %d, %d decisions: the log from the older checkpoint on must be there", rec.Base.Seq, len(rec.Decisions))
	}
	if _, err := os.Stat(path + damagedSuffix); err != nil {
		t.Fatal(err)
	}
}

func TestCheckpointWritesThatFailLeaveTheOldOne(t *testing.T) {
	mem := vfs.NewCrashableMem()
	must(t, initDir(mem, "data", testID))
	var armed atomic.Bool
	s := openTest(t, failing(mem, &armed, syscall.ENOSPC, errorfs.OpFileWrite), Options{})
	defer s.Close()
	checkpoint(t, s, 1, 100)
	w, err := s.BeginCheckpoint(2)
	must(t, err)
	armed.Store(true)
	err = w.Part(transfer.Part{Bytes: 100}, make([]byte, 100))
	armed.Store(false)
	if !errors.Is(err, ErrDiskFull) {
		t.Fatalf("%v", err)
	}
	if _, err := w.Commit(transfer.Meta{Seq: 2}); !errors.Is(err, ErrDiskFull) {
		t.Fatalf("%v", err)
	}
	r, err := s.LatestCheckpoint()
	must(t, err)
	if r.Seq != 1 {
		t.Fatalf("latest is %d", r.Seq)
	}
	must(t, r.Close())
}

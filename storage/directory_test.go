package storage

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestWrongDirectoriesAreRefusedWithARemedy(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	must(t, Init(dir, testID))
	s, err := Open(dir, testID, Options{})
	must(t, err)
	must(t, s.Close())

	other := testID
	other.Cluster[0]++
	node := testID
	node.Node++
	wiped := filepath.Join(t.TempDir(), "data")
	must(t, Init(wiped, testID))
	s, err = Open(wiped, testID, Options{})
	must(t, err)
	must(t, s.Close())
	must(t, os.RemoveAll(filepath.Join(wiped, "log")))

	for _, c := range []struct {
		name, dir string
		id        Identity
		want      error
		text      string
	}{
		{"other cluster", dir, other, ErrOtherCluster, "genesis"},
		{"other node", dir, node, ErrOtherNode, "node id"},
		{"empty", t.TempDir(), testID, ErrWiped, "smr init"},
		{"absent", filepath.Join(t.TempDir(), "no"), testID, ErrWiped, "smr init"},
		{"log deleted", wiped, testID, ErrWiped, "new node id"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Open(c.dir, c.id, Options{})
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Fatalf("%v", err)
			}
		})
	}
	if err := Init(dir, testID); !errors.Is(err, ErrExists) {
		t.Fatalf("initialised twice: %v", err)
	}
	s, err = Open(dir, testID, Options{}) // and nothing was harmed
	must(t, err)
	must(t, s.Close())
}

func TestLeaveToStartEmptyIsTakenOnce(t *testing.T) {
	fs := vfs.NewCrashableMem()
	must(t, initDir(fs, "data", testID))
	must(t, openTest(t, fs, Options{}).Close())
	must(t, fs.RemoveAll("data/log"))
	must(t, fs.RemoveAll("data/RUN"))
	if _, err := Open("data", testID, Options{FS: fs}); !errors.Is(err, ErrWiped) {
		t.Fatalf("a wiped log was started again: %v", err)
	}
}

func TestLogCopiedFromAnotherNodeIsNoticed(t *testing.T) {
	fs := vfs.NewMem()
	other := testID
	other.Node = 4
	for dir, id := range map[string]Identity{"a": testID, "b": other} {
		must(t, initDir(fs, dir, id))
		s, err := Open(dir, id, Options{FS: fs})
		must(t, err)
		must(t, s.Close())
	}
	must(t, fs.RemoveAll("a/log"))
	must(t, fs.Rename("b/log", "a/log"))
	if _, err := Open("a", testID, Options{FS: fs}); !errors.Is(err, ErrOtherNode) {
		t.Fatalf("%v", err)
	}
}

func TestChangedModeDoesNotHideAmnesia(t *testing.T) {
	fs := vfs.NewMem()
	must(t, initDir(fs, "data", testID))
	must(t, openTest(t, fs, Options{}).Close())
	must(t, openTest(t, fs, Options{Mode: MemoryOnly}).Close())
	s := openTest(t, fs, Options{})
	rec, err := s.Recover()
	must(t, err)
	if !rec.Amnesic {
		t.Fatal("votes of the run in memory are gone, and the start does not know")
	}
	must(t, s.ForgiveAmnesia())
	must(t, s.Close())
	s = openTest(t, fs, Options{})
	rec, err = s.Recover()
	must(t, err)
	must(t, s.Close())
	if rec.Amnesic {
		t.Fatal("forgiven, and still amnesic")
	}
}

const lockChild = "ATLAS_STORAGE_LOCK_DIR"

func TestSecondOpenIsLockedOut(t *testing.T) {
	if dir := os.Getenv(lockChild); dir != "" {
		_, err := Open(dir, testID, Options{})
		if !errors.Is(err, ErrLocked) {
			t.Fatalf("child: %v", err)
		}
		return
	}
	dir := filepath.Join(t.TempDir(), "data")
	must(t, Init(dir, testID))
	s, err := Open(dir, testID, Options{})
	must(t, err)
	defer s.Close()
	if _, err := Open(dir, testID, Options{}); !errors.Is(err, ErrLocked) {
		t.Fatalf("same process: %v", err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestSecondOpenIsLockedOut$")
	child.Env = append(os.Environ(), lockChild+"="+dir)
	if out, err := child.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func TestRunFileSurvivesACrashAtOpen(t *testing.T) {
	fs := vfs.NewCrashableMem()
	must(t, initDir(fs, "data", testID))
	s := openTest(t, fs, Options{})
	clone := fs.CrashClone(vfs.CrashCloneCfg{})
	must(t, s.Close())
	s = openTest(t, clone, Options{})
	rec, err := s.Recover()
	must(t, err)
	must(t, s.Close())
	if !rec.Fresh || rec.Amnesic {
		t.Fatalf("%+v", rec)
	}
}

package storage

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/atlas-smr/smr"
)

// directoryFormat is the format of the directory as a whole.
const directoryFormat = 1

const (
	identityFile = "IDENTITY"
	firstRunFile = "FIRST-RUN"
	runFile      = "RUN"
	lockFile     = "LOCK"
)

// Init prepares dir for its first Open: it writes who the data belongs to and the once-only leave to
// start with an empty log. A directory that was initialised before is ErrExists; nothing in it is
// touched.
func Init(dir string, id Identity) error { return initDir(vfs.Default, dir, id) }

func initDir(fsys vfs.FS, dir string, id Identity) error {
	if id.Node == 0 {
		return errors.New("node id 0")
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return explain("make", dir, err)
	}
	names, err := fsys.List(dir)
	if err != nil {
		return explain("list", dir, err)
	}
	if len(names) != 0 {
		return fmt.Errorf("%w: %s is not empty; choose another directory", ErrExists, dir)
	}
	// The identity is written last: without it nothing here counts.
	text := "An empty log may be started here, once. The first run deletes this file.\n"
	if err := writeFile(fsys, dir, firstRunFile, []byte(text)); err != nil {
		return err
	}
	if err := writeFile(fsys, dir, identityFile, identityText(id)); err != nil {
		return err
	}
	return syncDir(fsys, fsys.PathDir(dir))
}

func identityText(id Identity) []byte {
	return sumText(fmt.Sprintf("atlas-smr data directory\nformat %d\ncluster %s\nnode %d\n", directoryFormat, smr.Digest(id.Cluster).Hex(), id.Node))
}

// sumText appends a checksum line to a small text file.
func sumText(text string) []byte {
	return fmt.Appendf(nil, "%scrc32c %08x\n", text, crc32.Checksum([]byte(text), castagnoli))
}

// checkText returns the text before its checksum line.
func checkText(path string, b []byte) (string, error) {
	i := bytes.LastIndex(b, []byte("crc32c "))
	if i < 0 || !bytes.Equal(b, sumText(string(b[:i]))) {
		return "", corrupt("%s: checksum mismatch", path)
	}
	return string(b[:i]), nil
}

// checkIdentity reads IDENTITY and compares it with id.
func checkIdentity(fsys vfs.FS, dir string, id Identity) error {
	path := fsys.PathJoin(dir, identityFile)
	b, err := readFile(fsys, path)
	if errors.Is(err, fs.ErrNotExist) {
		return wiped(dir, id)
	}
	if err != nil {
		return explain("read", path, err)
	}
	text, err := checkText(path, b)
	if err != nil {
		return err
	}
	var format, node uint64
	var cluster string
	if _, err := fmt.Sscanf(text, "atlas-smr data directory\nformat %d\ncluster %s\nnode %d\n", &format, &cluster, &node); err != nil {
		return fmt.Errorf("%w: %s cannot be read (%w); use the build that wrote it", ErrFormat, path, err)
	}
	if format != directoryFormat {
		return fmt.Errorf("%w: %s has format %d, this build reads %d; use the build that wrote it", ErrFormat, dir, format, directoryFormat)
	}
	var have Identity
	raw, err := hex.DecodeString(cluster)
	if err != nil || len(raw) != len(have.Cluster) {
		return corrupt("%s: cluster id %q", path, cluster)
	}
	copy(have.Cluster[:], raw)
	have.Node = smr.NodeID(node)
	return compareIdentity(dir, have, id)
}

func compareIdentity(dir string, have, want Identity) error {
	if have.Cluster != want.Cluster {
		return fmt.Errorf("%w: %s holds data of cluster %v, the configuration names %v; correct the data path or the genesis file", ErrOtherCluster, dir, have.Cluster, want.Cluster)
	}
	if have.Node != want.Node {
		return fmt.Errorf("%w: %s holds data of node %d, the configuration names %d; correct the data path or the node id", ErrOtherNode, dir, have.Node, want.Node)
	}
	return nil
}

func wiped(dir string, id Identity) error {
	return fmt.Errorf("%w: %s. If node %d has run before, its disk is lost and it must not start empty, since it would forget its votes: "+
		"replace it by a replica with a new node id. If it has never run, prepare the directory with smr init", ErrWiped, dir, id.Node)
}

// run is what RUN says about the current or last run.
type run struct {
	mode    Mode
	clean   bool // it ended with everything on disk
	amnesic bool // votes of some earlier run are missing
}

func (r run) text() []byte {
	return sumText(fmt.Sprintf("mode %s\nclean %t\namnesic %t\n", r.mode, r.clean, r.amnesic))
}

// forgot tells whether a start after this run must count as amnesic.
func (r run) forgot() bool { return r.amnesic || (r.mode != Strict && !r.clean) }

// readRun returns false for a directory that never ran.
func readRun(fsys vfs.FS, dir string) (run, bool, error) {
	path := fsys.PathJoin(dir, runFile)
	b, err := readFile(fsys, path)
	if errors.Is(err, fs.ErrNotExist) {
		return run{}, false, nil
	}
	if err != nil {
		return run{}, false, explain("read", path, err)
	}
	text, err := checkText(path, b)
	if err != nil {
		return run{}, false, err
	}
	var r run
	var mode string
	if _, err := fmt.Sscanf(text, "mode %s\nclean %t\namnesic %t\n", &mode, &r.clean, &r.amnesic); err != nil {
		return run{}, false, corrupt("%s: %v", path, err)
	}
	for _, m := range []Mode{Strict, Relaxed, MemoryOnly} {
		if m.String() == mode {
			r.mode = m
			return r, true, nil
		}
	}
	return run{}, false, corrupt("%s: mode %q", path, strings.TrimSpace(mode))
}

func readFile(fsys vfs.FS, path string) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 1<<16))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return b, err
}

// writeFile replaces a small file so that a crash leaves the old or the new one.
func writeFile(fsys vfs.FS, dir, name string, data []byte) error {
	path := fsys.PathJoin(dir, name)
	f, err := fsys.Create(path+tempSuffix, vfs.WriteCategoryUnspecified)
	if err != nil {
		return explain("create", path, err)
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = fsys.Rename(path+tempSuffix, path)
	}
	if err != nil {
		return explain("write", path, err)
	}
	return syncDir(fsys, dir)
}

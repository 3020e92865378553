package client

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/atlas-smr/smr"
)

// ErrSessionInUse is returned when another process holds the session file.
var ErrSessionInUse = errors.New("session file is in use by another process")

// maxSessionFile bounds what is read back: a full window in bundles.
const maxSessionFile = 512 << 20

// sessionFile holds a SessionState at path. The lock is on path.lock, which stays: the file itself
// is replaced by every store.
type sessionFile struct {
	path string
	lock *os.File
	buf  []byte
}

// openSessionFile locks path and reads what it holds; nil if there is no such file yet. A file of
// another cluster or client is refused, and a damaged one: deleting it gives up the ops it holds.
func openSessionFile(path string, cluster smr.ClusterID, client smr.ClientID) (*sessionFile, *SessionState, error) {
	f := &sessionFile{path: path}
	var err error
	if f.lock, err = lockFile(path + ".lock"); err != nil {
		return nil, nil, fmt.Errorf("client: %s: %w", path, err)
	}
	state, err := f.load(cluster, client)
	if err != nil {
		_ = f.close()
		return nil, nil, fmt.Errorf("client: %s: %w", path, err)
	}
	return f, state, nil
}

func (f *sessionFile) load(cluster smr.ClusterID, client smr.ClientID) (*SessionState, error) {
	info, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if info.Size() > maxSessionFile {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrSessionState, info.Size(), maxSessionFile)
	}
	b, err := os.ReadFile(f.path)
	if err != nil {
		return nil, err
	}
	s, err := DecodeSessionState(b)
	if err != nil {
		return nil, err
	}
	if s.Cluster != cluster || s.Client != client {
		return nil, fmt.Errorf("%w: belongs to client %d of cluster %s", ErrSessionState, s.Client, s.Cluster)
	}
	return s, nil
}

// store replaces the file atomically; it is durable when store returns.
func (f *sessionFile) store(s *SessionState) error {
	f.buf = s.Append(f.buf[:0])
	tmp := f.path + ".tmp"
	if err := writeSynced(tmp, f.buf); err != nil {
		return err
	}
	if err := os.Rename(tmp, f.path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(f.path))
}

func writeSynced(path string, b []byte) error {
	w, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = w.Write(b); err == nil {
		err = w.Sync()
	}
	return errors.Join(err, w.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (f *sessionFile) close() error { return f.lock.Close() }

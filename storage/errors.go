package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
)

// The ways a data directory is refused. Every error that wraps one of these says what to do.
var (
	ErrLocked       = errors.New("data directory is in use by another process")
	ErrOtherCluster = errors.New("data directory belongs to another cluster")
	ErrOtherNode    = errors.New("data directory belongs to another node")
	ErrWiped        = errors.New("data directory holds no log")
	ErrExists       = errors.New("data directory is already initialised")
	ErrFormat       = errors.New("data directory has an unknown format")
	ErrCorrupt      = errors.New("stored data is damaged")
	ErrDiskFull     = errors.New("disk is full")
	ErrReadOnly     = errors.New("data directory cannot be written")
	ErrClosed       = errors.New("storage is closed")
)

// remedyCorrupt is what to do when the log is damaged: guessing would be Byzantine.
const remedyCorrupt = "do not repair it by deleting files: a replica that forgot its votes endangers the cluster. " +
	"Restore the directory from the disk it was copied from, or replace this replica by one with a new node id"

func corrupt(what string, args ...any) error {
	return fmt.Errorf("%w: %s; %s", ErrCorrupt, fmt.Sprintf(what, args...), remedyCorrupt)
}

// explain gives an operating error its name and remedy. It keeps err in the chain.
func explain(what, path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrCorrupt), errors.Is(err, ErrDiskFull), errors.Is(err, ErrReadOnly):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s %s: %w: free space and start again, nothing acknowledged is lost: %w", what, path, ErrDiskFull, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s %s: %w: mount it writable and give it to the user the replica runs as: %w", what, path, ErrReadOnly, err)
	case pebble.IsCorruptionError(err):
		return fmt.Errorf("%s %s: %w: %w; %s", what, path, ErrCorrupt, err, remedyCorrupt)
	}
	return fmt.Errorf("%s %s: %w", what, path, err)
}

// lockTaken tells a lock held elsewhere from a lock file that cannot be made.
func lockTaken(err error) bool {
	return errors.Is(err, syscall.EAGAIN) || strings.Contains(err.Error(), "held by current process") ||
		strings.Contains(err.Error(), "lock already held")
}

package itest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ErrNoDisks says that this machine does not let us mount: filling disks must be left out.
var ErrNoDisks = errors.New("no right to mount a file system here")

// Disk is a small file system of its own in memory, mounted over a directory.
type Disk struct {
	dir  string
	size int64
}

const mountFlags = syscall.MS_NODEV | syscall.MS_NOSUID | syscall.MS_NOEXEC

// MountDisk puts a file system of size bytes over dir, with what was in dir. ErrNoDisks where that is
// not allowed.
func MountDisk(dir string, size int64) (*Disk, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	content := map[string][]byte{}
	for _, e := range entries {
		if content[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	err = syscall.Mount("smr-itest", dir, "tmpfs", mountFlags, fmt.Sprintf("size=%d,mode=0700", size))
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		return nil, fmt.Errorf("%w: %w", ErrNoDisks, err)
	} else if err != nil {
		return nil, fmt.Errorf("mount on %s: %w", dir, err)
	}
	d := &Disk{dir: dir, size: size}
	for name, b := range content { // order-free: files of different names
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return nil, errors.Join(err, d.Close())
		}
	}
	return d, nil
}

// Fill leaves no free byte on the disk: it shrinks it to what is in use.
func (d *Disk) Fill() error {
	var s syscall.Statfs_t
	// The process may write while this looks: then the size is too small, and the next try is right.
	for range 100 {
		if err := syscall.Statfs(d.dir, &s); err != nil {
			return err
		}
		used := int64(s.Blocks-s.Bfree) * s.Bsize
		err := d.resize(used)
		if err == nil || !errors.Is(err, syscall.EINVAL) {
			return err
		}
	}
	return fmt.Errorf("%s grows faster than it can be filled", d.dir)
}

// Free gives the disk its size back.
func (d *Disk) Free() error { return d.resize(d.size) }

func (d *Disk) resize(size int64) error {
	return syscall.Mount("smr-itest", d.dir, "tmpfs", mountFlags|syscall.MS_REMOUNT, fmt.Sprintf("size=%d", size))
}

// Close takes the file system away, with all that is on it.
func (d *Disk) Close() error { return syscall.Unmount(d.dir, syscall.MNT_DETACH) }

//go:build !linux

package itest

import "errors"

// ErrNoDisks says that this machine does not let us mount: filling disks must be left out.
var ErrNoDisks = errors.New("no small file systems on this system")

// Disk is a small file system of its own; on this system there is none.
type Disk struct{}

// MountDisk returns ErrNoDisks.
func MountDisk(string, int64) (*Disk, error) { return nil, ErrNoDisks }

// Fill does nothing.
func (*Disk) Fill() error { return ErrNoDisks }

// Free does nothing.
func (*Disk) Free() error { return ErrNoDisks }

// Close does nothing.
func (*Disk) Close() error { return nil }

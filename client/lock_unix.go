//go:build unix

package client

import (
	"errors"
	"os"
	"syscall"
)

// lockFile opens path and locks it until it is closed.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrSessionInUse
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

//go:build !unix

package client

import (
	"errors"
	"os"
)

// lockFile refuses: without a lock two processes could use one op number twice.
func lockFile(string) (*os.File, error) {
	return nil, errors.New("session files need a system with flock")
}

package replica

import (
	stded25519 "crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/atlas-smr/smr/auth"
)

// ErrKey is wrapped by every error of a key file that cannot be used.
var ErrKey = errors.New("invalid key file")

const keyBlock = "PRIVATE KEY"

// maxKeyBytes bounds a key file.
const maxKeyBytes = 16 << 10

// WriteKey writes a key pair to a new file that only its owner may read: PKCS #8 in PEM. An existing
// file is not overwritten (fs.ErrExist).
func WriteKey(path string, key *auth.KeyPair) error {
	der, err := x509.MarshalPKCS8PrivateKey(stded25519.PrivateKey(key.PrivateKey()))
	if err != nil {
		return err
	}
	return writeNew(path, pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), 0o600)
}

// ReadKey reads a key pair. A file that others may read or write is refused.
func ReadKey(path string) (*auth.KeyPair, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s may be read by others (mode %04o): run chmod 600 %s", ErrKey, path, info.Mode().Perm(), path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyBytes))
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != keyBlock {
		return nil, fmt.Errorf("%w: %s holds no PEM block of type %q", ErrKey, path, keyBlock)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKey, path, err)
	}
	private, ok := parsed.(stded25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%w: %s holds a key of another kind than Ed25519", ErrKey, path)
	}
	return auth.KeyFromSeed(private.Seed())
}

// writeNew writes a file that must not exist yet, and syncs it.
func writeNew(path string, b []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

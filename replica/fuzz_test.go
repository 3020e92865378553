package replica

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/atlas-smr/smr/auth"
)

// A key file is read or refused, and a key that was read is written and read as the same.
func FuzzKeyFile(f *testing.F) {
	key, err := auth.KeyFromSeed(make([]byte, auth.SeedBytes))
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir()
	path := filepath.Join(dir, "seed.key")
	if err := WriteKey(path, key); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n"))
	in, again := filepath.Join(dir, "in.key"), filepath.Join(dir, "again.key")
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(in, b, 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := ReadKey(in)
		if err != nil {
			if !errors.Is(err, ErrKey) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		_ = os.Remove(again)
		if err := WriteKey(again, key); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadKey(again); err != nil || !bytes.Equal(got.PrivateKey(), key.PrivateKey()) {
			t.Fatalf("a key changes when it is written: %v", err)
		}
	})
}

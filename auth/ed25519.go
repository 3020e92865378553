package auth

import (
	"crypto/rand"
	"errors"
	"io"

	"github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
	"github.com/oasisprotocol/curve25519-voi/primitives/ed25519/extra/cache"

	"github.com/atlas-smr/smr"
)

// zip215 is the one rule of this module: cofactored verification, permissive about encodings in
// exactly the way ZIP-215 fixes, so that single and batched verification agree on every input.
var zip215 = &ed25519.Options{Verify: ed25519.VerifyOptionsZIP_215}

// SeedBytes is the length of a private key's seed.
const SeedBytes = ed25519.SeedSize

// KeyPair is an Ed25519 key pair. It is a Signer.
type KeyPair struct {
	private ed25519.PrivateKey
	public  smr.PublicKey
}

// GenerateKey draws a key pair from random.
func GenerateKey(random io.Reader) (*KeyPair, error) {
	seed := make([]byte, SeedBytes)
	if _, err := io.ReadFull(random, seed); err != nil {
		return nil, err
	}
	return KeyFromSeed(seed)
}

// KeyFromSeed returns the key pair of a seed of SeedBytes bytes.
func KeyFromSeed(seed []byte) (*KeyPair, error) {
	if len(seed) != SeedBytes {
		return nil, errors.New("an Ed25519 seed has 32 bytes")
	}
	k := &KeyPair{private: ed25519.NewKeyFromSeed(seed)}
	copy(k.public[:], k.private[32:])
	return k, nil
}

// Public implements Signer.
func (k *KeyPair) Public() smr.PublicKey { return k.public }

// Sign implements Signer.
func (k *KeyPair) Sign(msg []byte) []byte { return ed25519.Sign(k.private, msg) }

// Seed returns the secret seed, to be stored.
func (k *KeyPair) Seed() []byte { return k.private.Seed() }

// PrivateKey returns the 64-byte private key in the standard library's form, for TLS.
func (k *KeyPair) PrivateKey() []byte { return append([]byte(nil), k.private...) }

// Ed25519 is the scheme of real clusters. Expanded keys are cached.
type Ed25519 struct{ v *cache.Verifier }

// cachedKeys bounds the cache of expanded public keys, about 1.5 KiB each.
const cachedKeys = 4096

// NewEd25519 returns the scheme.
func NewEd25519() *Ed25519 {
	return &Ed25519{v: cache.NewVerifier(cache.NewLRUCache(cachedKeys))}
}

// Verify implements Scheme.
func (s *Ed25519) Verify(key smr.PublicKey, msg, sig []byte) bool {
	return len(sig) == SignatureBytes && s.v.VerifyWithOptions(key[:], msg, sig, zip215)
}

// VerifyBatch implements Scheme. Batch coefficients are drawn from crypto/rand; the result does
// not depend on them but with negligible probability.
func (s *Ed25519) VerifyBatch(items []Item) []bool {
	if len(items) == 0 {
		return nil
	}
	if len(items) == 1 {
		if s.Verify(items[0].Key, items[0].Msg, items[0].Sig) {
			return nil
		}
		return []bool{false}
	}
	b := ed25519.NewBatchVerifierWithCapacity(len(items))
	for i := range items {
		s.v.AddWithOptions(b, items[i].Key[:], items[i].Msg, items[i].Sig, zip215)
	}
	ok, each := b.Verify(rand.Reader)
	if ok {
		return nil
	}
	return each
}

// Package auth holds keys, signatures and what is made of them: statements with domain separation,
// votes, and certificates. Signing and verifying are functions of their inputs; only key generation
// and the coefficients of batch verification draw random bytes.
//
// One signature rule holds everywhere, single and batched, replica and client: cofactored Ed25519
// as ZIP-215 defines it. The standard library's Verify follows another rule, and mixing the two
// would let a crafted signature split correct replicas.
//
// A [Vote] and a [Certificate] are values that only a [Verifier] can make: holding one is the proof
// that its signatures were checked.
package auth

import "github.com/atlas-smr/smr"

// SignatureBytes is the length of a signature under every scheme.
const SignatureBytes = 64

// Signer signs for one key.
type Signer interface {
	Public() smr.PublicKey
	// Sign returns a signature of msg, SignatureBytes long, owned by the caller.
	Sign(msg []byte) []byte
}

// Scheme verifies signatures. Implementations are safe for concurrent use, and single and batched
// verification agree on every input.
type Scheme interface {
	Verify(key smr.PublicKey, msg, sig []byte) bool
	// VerifyBatch checks all items at once and returns whether each is valid; nil means all are.
	VerifyBatch(items []Item) []bool
}

// Item is one signature to check.
type Item struct {
	Key smr.PublicKey
	Msg []byte
	Sig []byte
}

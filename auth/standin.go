package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"github.com/atlas-smr/smr"
)

// StandIn is a fast scheme for simulations: a signature is a keyed digest under a secret that only
// the StandIn knows, so that simulated adversaries, which get signers for their own keys alone,
// cannot forge. It proves nothing outside the process that made it.
type StandIn struct{ secret [32]byte }

// NewStandIn returns a scheme whose secrets derive from seed.
func NewStandIn(seed uint64) *StandIn {
	s := &StandIn{}
	binary.BigEndian.PutUint64(s.secret[:], seed)
	s.secret = sha256.Sum256(s.secret[:])
	return s
}

// Signer returns the signer of the key derived from id.
func (s *StandIn) Signer(id uint64) Signer {
	b := binary.BigEndian.AppendUint64(append([]byte("key"), s.secret[:]...), id)
	return &standInSigner{scheme: s, key: smr.PublicKey(sha256.Sum256(b))}
}

func (s *StandIn) mac(key smr.PublicKey, msg []byte) [SignatureBytes]byte {
	h := sha256.New()
	h.Write(s.secret[:])
	h.Write(key[:])
	h.Write(msg)
	var out [SignatureBytes]byte
	h.Sum(out[:0])
	return out
}

// Verify implements Scheme.
func (s *StandIn) Verify(key smr.PublicKey, msg, sig []byte) bool {
	m := s.mac(key, msg)
	return hmac.Equal(m[:], sig)
}

// VerifyBatch implements Scheme.
func (s *StandIn) VerifyBatch(items []Item) []bool {
	var each []bool
	for i := range items {
		if !s.Verify(items[i].Key, items[i].Msg, items[i].Sig) {
			if each == nil {
				each = make([]bool, len(items))
				for j := range i {
					each[j] = true
				}
			}
		} else if each != nil {
			each[i] = true
		}
	}
	return each
}

type standInSigner struct {
	scheme *StandIn
	key    smr.PublicKey
}

func (s *standInSigner) Public() smr.PublicKey { return s.key }

func (s *standInSigner) Sign(msg []byte) []byte {
	m := s.scheme.mac(s.key, msg)
	return m[:]
}

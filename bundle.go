package smr

// PublicKey is an Ed25519 public key.
type PublicKey [32]byte

// BundleKind says what a bundle asks for.
type BundleKind uint8

// The kinds of bundle.
const (
	// BundleOps carries consecutive ops of an open session.
	BundleOps BundleKind = 1
	// BundleOpen opens a session; it carries a nonce and no ops.
	BundleOpen BundleKind = 2
)

// Bundle is one signed message of a client: consecutive ops of one session, or the open of a
// session. It is the unit of dissemination, verification and ordering. A Bundle is immutable; its
// slices alias Raw.
type Bundle struct {
	ID     BundleID
	Kind   BundleKind
	Client ClientID
	// Key is the client's public key. It travels in the bundle so that the signature's validity
	// depends on the bundle's bytes alone; whether the key is admitted is decided at execution.
	Key     PublicKey
	Session SessionID // zero for BundleOpen
	First   OpNumber  // number of Ops[0]; op i is First+i. Zero for BundleOpen
	Acked   OpNumber  // the client has the replies of every op below it; at most First
	Nonce   uint64    // BundleOpen: per client increasing
	Ops     [][]byte  // opaque to everything but the application
	Raw     []byte    // the exact signed encoding
}

// Ref returns the reference by which a proposal names b.
func (b *Bundle) Ref() BundleRef { return BundleRef{ID: b.ID, Bytes: uint32(len(b.Raw))} }

// BundleRef names a bundle inside a proposal: its id and the length of its encoding in bytes.
type BundleRef struct {
	ID    BundleID
	Bytes uint32
}

// Batch is what the engine offers the ordering for one sequence number: references in proposal
// order, and which of them should travel inside the proposal because some replica is expected not
// to hold them.
type Batch struct {
	Refs   []BundleRef
	Inline []BundleID
	// Time is the proposing replica's clock in nanoseconds since the Unix epoch; the ordering
	// clamps it to be monotone along the chain.
	Time int64
}

// Bytes is the sum of the referenced encodings.
func (b Batch) Bytes() int {
	n := 0
	for _, r := range b.Refs {
		n += int(r.Bytes)
	}
	return n
}

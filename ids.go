package smr

import (
	"encoding/hex"
	"fmt"
)

// Epoch is the version of the membership. The genesis membership is epoch 1; each membership
// change opens the next. Zero is no epoch.
type Epoch uint64

// View is one attempt at leadership inside an epoch. Each epoch starts at view 0.
type View uint64

// SeqNo is the position of a batch in the order. The first decided batch is 1; zero is "nothing
// yet" (the genesis state). It runs on across epochs.
type SeqNo uint64

// OpNumber numbers the ops of one session, from 1.
type OpNumber uint64

// NodeID names a replica or an observer of the cluster, from 1. It is never reused: a node that
// lost its disk comes back under a new id.
type NodeID uint32

// ClientID names an admitted client key, from 1.
type ClientID uint64

// sessionPositionBits is the share of a SessionID that holds the position inside the batch.
const sessionPositionBits = 20

// MaxBatchOpens is the number of session opens one batch can hold, and so the bound on positions.
const MaxBatchOpens = 1 << sessionPositionBits

// SessionID identifies a session: the sequence number and the position at which its open was
// executed. The pair never recurs, so an evicted id cannot come back and an old bundle cannot run
// again. Zero is no session (the session of a bundle that opens one).
type SessionID uint64

// NewSessionID returns the id of the session opened as the pos-th open of batch seq. pos is below
// [MaxBatchOpens]; seq below 2^44.
func NewSessionID(seq SeqNo, pos int) SessionID {
	return SessionID(uint64(seq)<<sessionPositionBits | uint64(pos))
}

// Opened returns the sequence number at which the session was opened.
func (s SessionID) Opened() SeqNo { return SeqNo(s >> sessionPositionBits) }

// Position returns the position of the open inside its batch.
func (s SessionID) Position() int { return int(s & (MaxBatchOpens - 1)) }

// String renders the pair, as "42.0".
func (s SessionID) String() string { return fmt.Sprintf("%d.%d", s.Opened(), s.Position()) }

// Digest is a SHA-256 digest.
type Digest [32]byte

// IsZero reports whether d is the zero digest, which stands for "none".
func (d Digest) IsZero() bool { return d == Digest{} }

// String renders the first eight bytes in hex: enough to tell digests apart in a log.
func (d Digest) String() string { return hex.EncodeToString(d[:8]) }

// Hex renders all of d.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// BundleID identifies a bundle: the SHA-256 of its exact encoding, signature included, so that
// validity is a property of the id.
type BundleID Digest

// String renders the first eight bytes in hex.
func (b BundleID) String() string { return Digest(b).String() }

// ClusterID identifies a cluster: the digest of its genesis.
type ClusterID Digest

// String renders the first eight bytes in hex.
func (c ClusterID) String() string { return Digest(c).String() }

package auth

import (
	"encoding/binary"

	"github.com/atlas-smr/smr"
)

// Kind is what a statement states. Each kind is a domain of its own: a signature under one kind is
// worthless under another.
type Kind uint8

// The kinds of statement. Values are part of what is signed: never reuse one.
const (
	KindPrepare   Kind = 1
	KindCommit    Kind = 2
	KindComplaint Kind = 3
	KindTimeout   Kind = 4
	KindRoot      Kind = 5
	KindProposal  Kind = 6
	KindBundle    Kind = 7
	KindHandshake Kind = 8
	KindMessage   Kind = 9
)

// Statement is what a replica signs: fixed layout, rebuilt by the verifier from the fields, without
// the signer's id. Voters whose statements are equal sign equal bytes, so a quorum of signatures
// over one statement is a certificate.
type Statement struct {
	Cluster    smr.ClusterID
	Membership smr.Digest // digest of the epoch's membership
	Epoch      smr.Epoch
	Kind       Kind
	View       smr.View
	Seq        smr.SeqNo
	Digest     smr.Digest
}

// statementDomain separates statements from everything else a key might sign.
const statementDomain = "atlas-smr statement v1\x00"

// StatementBytes is the length of a statement's encoding.
const StatementBytes = len(statementDomain) + 32 + 32 + 8 + 1 + 8 + 8 + 32

// Append appends the bytes that are signed to dst.
func (s Statement) Append(dst []byte) []byte {
	dst = append(dst, statementDomain...)
	dst = append(dst, s.Cluster[:]...)
	dst = append(dst, s.Membership[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Epoch))
	dst = append(dst, byte(s.Kind))
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.View))
	dst = binary.BigEndian.AppendUint64(dst, uint64(s.Seq))
	return append(dst, s.Digest[:]...)
}

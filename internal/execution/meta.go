package execution

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/atlas-smr/smr"
)

// Meta is what a checkpoint says about itself beside its bytes. Its digest is the first leaf of the
// root, so all of it is certified.
type Meta struct {
	Seq        smr.SeqNo
	Chain      smr.Digest // chain digest at Seq
	Epoch      smr.Epoch  // of the batch at Seq
	View       smr.View   // in its decided header
	Time       int64      // agreed time at Seq, nanoseconds since the Unix epoch
	Membership smr.Digest
	Table      uint64 // bytes of the session table, the first section
	Bytes      uint64 // of all sections; what follows the table is the application's
}

const metaDomain = "atlas-smr checkpoint v1\x00"

// MetaBytes is the length of an encoded Meta.
const MetaBytes = 8 + 32 + 8 + 8 + 8 + 32 + 8 + 8

// Append appends the fixed-layout encoding of m to dst.
func (m Meta) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Seq))
	dst = append(dst, m.Chain[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Epoch))
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.View))
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Time))
	dst = append(dst, m.Membership[:]...)
	dst = binary.BigEndian.AppendUint64(dst, m.Table)
	return binary.BigEndian.AppendUint64(dst, m.Bytes)
}

// Digest returns the leaf that stands for m in the root.
func (m Meta) Digest() smr.Digest {
	return sha256.Sum256(m.Append([]byte(metaDomain)))
}

// DecodeMeta reads what Append wrote.
func DecodeMeta(b []byte) (Meta, error) {
	if len(b) != MetaBytes {
		return Meta{}, errors.New("checkpoint meta of wrong length")
	}
	u := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	m := Meta{
		Seq: smr.SeqNo(u(0)), Epoch: smr.Epoch(u(40)), View: smr.View(u(48)), Time: int64(u(56)),
		Table: u(96), Bytes: u(104),
	}
	copy(m.Chain[:], b[8:])
	copy(m.Membership[:], b[64:])
	if m.Table > m.Bytes {
		return Meta{}, errors.New("checkpoint meta: session table larger than all")
	}
	return m, nil
}

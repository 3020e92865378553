package transfer

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// The bounds on parts.
const (
	// MaxPartBytes bounds one part.
	MaxPartBytes = smr.MaxPartBytes
	// StreamPartBytes is the length at which a stream is cut into parts.
	StreamPartBytes = 1 << 20
	// MaxParts bounds the parts of a checkpoint: a stream of 16 TiB.
	MaxParts = smr.MaxParts
)

// StateKind says who cut a checkpoint's application section into parts.
type StateKind uint8

// The kinds of application state.
const (
	StateNone       StateKind = 0
	StateMonolithic StateKind = 1 // a stream, cut by the framework
	StateDivisible  StateKind = 2 // parts of the application
)

// Section is one of the runs of parts of a checkpoint, in this order.
type Section uint8

// The sections.
const (
	SectionTable       Section = 1 // the session table, a stream
	SectionApplication Section = 2
)

// Meta is what a checkpoint says about itself beside its parts. Its digest is the first leaf of the
// root, so all of it is certified.
type Meta struct {
	Seq        smr.SeqNo
	Chain      smr.Digest // chain digest at Seq
	Epoch      smr.Epoch  // of the batch at Seq
	View       smr.View   // in its decided header
	Time       int64      // agreed time at Seq, nanoseconds since the Unix epoch
	Membership smr.Digest
	Kind       StateKind
	TableParts uint64 // parts of the session table, the first section
	Parts      uint64 // of all sections
	Table      uint64 // bytes of the session table
	Bytes      uint64 // of all sections
}

const metaDomain = "atlas-smr checkpoint v2\x00"

// MetaBytes is the length of an encoded Meta.
const MetaBytes = 8 + 32 + 8 + 8 + 8 + 32 + 1 + 4*8

// Append appends the fixed-layout encoding of m to dst.
func (m Meta) Append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Seq))
	dst = append(dst, m.Chain[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Epoch))
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.View))
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.Time))
	dst = append(dst, m.Membership[:]...)
	dst = append(dst, byte(m.Kind))
	for _, v := range []uint64{m.TableParts, m.Parts, m.Table, m.Bytes} {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	return dst
}

// Digest returns the leaf that stands for m in the root.
func (m Meta) Digest() smr.Digest {
	return sha256.Sum256(m.Append([]byte(metaDomain)))
}

// HeaderInfo returns the position as an ordering takes it at recovery and Install.
func (m Meta) HeaderInfo() protocol.HeaderInfo {
	return protocol.HeaderInfo{Seq: m.Seq, Epoch: m.Epoch, View: m.View, Time: m.Time, Digest: m.Chain}
}

// ErrShape is wrapped by every refusal of a meta or of parts that no checkpoint can have.
var ErrShape = errors.New("impossible checkpoint")

// DecodeMeta reads what Append wrote, for a checkpoint that can exist.
func DecodeMeta(b []byte) (Meta, error) {
	if len(b) != MetaBytes {
		return Meta{}, fmt.Errorf("%w: meta of %d bytes", ErrShape, len(b))
	}
	u := func(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }
	m := Meta{
		Seq: smr.SeqNo(u(0)), Epoch: smr.Epoch(u(40)), View: smr.View(u(48)), Time: int64(u(56)), Kind: StateKind(b[96]),
		TableParts: u(97), Parts: u(105), Table: u(113), Bytes: u(121),
	}
	copy(m.Chain[:], b[8:])
	copy(m.Membership[:], b[64:])
	return m, m.check()
}

// streamParts returns how many parts a stream of n bytes is cut into.
func streamParts(n uint64) uint64 { return n/StreamPartBytes + min(1, n%StreamPartBytes) }

func (m Meta) check() error {
	app, bytes := m.Parts-m.TableParts, m.Bytes-m.Table
	switch {
	case m.Parts > MaxParts || m.TableParts > m.Parts || m.Table > m.Bytes || m.Bytes > MaxParts*MaxPartBytes:
	case m.TableParts != streamParts(m.Table):
	case m.Kind == StateNone && (app != 0 || bytes != 0):
	case m.Kind == StateMonolithic && app != streamParts(bytes):
	case m.Kind > StateDivisible || bytes < app || bytes > app*MaxPartBytes:
	default:
		return nil
	}
	return fmt.Errorf("%w: kind %d, %d parts and %d bytes, the session table %d and %d", ErrShape, m.Kind, m.Parts, m.Bytes, m.TableParts, m.Table)
}

// Part describes one part of a checkpoint.
type Part struct {
	Section Section
	ID      smr.PartID // in a stream: 0, 1, ...
	Bytes   uint32     // 1 to MaxPartBytes
	Digest  smr.Digest // SHA-256 of the part's bytes
}

// PartBytes is the length of an encoded Part.
const PartBytes = 1 + 8 + 4 + 32

// Append appends the fixed-layout encoding of p to dst.
func (p Part) Append(dst []byte) []byte {
	dst = append(dst, byte(p.Section))
	dst = binary.BigEndian.AppendUint64(dst, uint64(p.ID))
	dst = binary.BigEndian.AppendUint32(dst, p.Bytes)
	return append(dst, p.Digest[:]...)
}

// DecodePart reads the PartBytes that Append wrote.
func DecodePart(b []byte) Part {
	p := Part{Section: Section(b[0]), ID: smr.PartID(binary.BigEndian.Uint64(b[1:])), Bytes: binary.BigEndian.Uint32(b[9:])}
	copy(p.Digest[:], b[13:PartBytes])
	return p
}

const partDomain = "atlas-smr part v1\x00"

// Leaf returns what stands for p in the root.
func (p Part) Leaf() smr.Digest {
	return sha256.Sum256(p.Append(append(make([]byte, 0, len(partDomain)+PartBytes), partDomain...)))
}

// Less orders parts as checkpoints do.
func (p Part) Less(q Part) bool {
	return p.Section < q.Section || p.Section == q.Section && p.ID < q.ID
}

// Leaves returns the leaves of a checkpoint's root.
func Leaves(m Meta, parts []Part) []smr.Digest {
	leaves := make([]smr.Digest, 1, 1+len(parts))
	leaves[0] = m.Digest()
	for i := range parts {
		leaves = append(leaves, parts[i].Leaf())
	}
	return leaves
}

// Root returns the root of a checkpoint.
func Root(m Meta, parts []Part) smr.Digest { return protocol.MerkleRoot(Leaves(m, parts)) }

// Shape checks, part by part, that a checkpoint's parts are such as its meta says.
type Shape struct {
	meta  Meta
	next  uint64
	last  Part
	table uint64 // bytes so far
	bytes uint64
}

// NewShape begins the check of the parts of a checkpoint.
func NewShape(m Meta) *Shape { return &Shape{meta: m} }

// Next takes the next part.
func (s *Shape) Next(p Part) error {
	m := s.meta
	bad := func(what string) error { return fmt.Errorf("%w: part %d: %s", ErrShape, s.next, what) }
	section, stream, id, left := SectionApplication, m.Kind == StateMonolithic, s.next-m.TableParts, m.Bytes-m.Table-(s.bytes-s.table)
	if s.next < m.TableParts {
		section, stream, id, left = SectionTable, true, s.next, m.Table-s.table
	}
	switch {
	case s.next >= m.Parts:
		return bad("too many")
	case p.Section != section:
		return bad("section")
	case p.Bytes == 0 || p.Bytes > MaxPartBytes || uint64(p.Bytes) > left:
		return bad("length")
	case stream && (uint64(p.ID) != id || uint64(p.Bytes) != min(left, StreamPartBytes)):
		return bad("not the next of a stream")
	case s.next > 0 && !s.last.Less(p):
		return bad("order")
	}
	s.next, s.last = s.next+1, p
	s.bytes += uint64(p.Bytes)
	if section == SectionTable {
		s.table = s.bytes
	}
	return nil
}

// End checks that nothing is lacking.
func (s *Shape) End() error {
	if s.next != s.meta.Parts || s.bytes != s.meta.Bytes || s.table != s.meta.Table {
		return fmt.Errorf("%w: %d of %d parts, %d of %d bytes", ErrShape, s.next, s.meta.Parts, s.bytes, s.meta.Bytes)
	}
	return nil
}

// CheckShape checks all parts of a checkpoint.
func CheckShape(m Meta, parts []Part) error {
	if err := m.check(); err != nil {
		return err
	}
	s := NewShape(m)
	for i := range parts {
		if err := s.Next(parts[i]); err != nil {
			return err
		}
	}
	return s.End()
}

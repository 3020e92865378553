package pbft

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

// Header is a proposal's header. It is immutable.
//
// Canonical encoding, integers big endian. The chain digest is the SHA-256 of a domain and the
// core; the core names the references through the batch digest, so a certificate or a lock need
// carry no more than the core:
//
//	offset  bytes
//	0       1     version, 1
//	1       32    cluster
//	33      32    membership digest
//	65      8     epoch
//	73      8     view
//	81      8     sequence number
//	89      32    parent: chain digest of the proposal before, zero at genesis
//	121     8     time, nanoseconds since the Unix epoch
//	129     1     flags
//	130     32    digest of the next membership, zero unless the epoch closes
//	162     32    batch digest: SHA-256 of a domain and everything below
//	194           end of the core
//	194     4     number of references
//	198     36 each: bundle id (32), length of its encoding (4)
type Header struct {
	Epoch  smr.Epoch
	View   smr.View
	Seq    smr.SeqNo
	Parent smr.Digest
	Time   int64
	Flags  uint8
	Next   smr.Digest
	Batch  smr.Digest
	Digest smr.Digest      // chain digest
	Refs   []smr.BundleRef // empty for a core

	full bool
	raw  []byte
}

// Flags of a header.
const (
	flagTermClosing  uint8 = 1 // hand-over: no child in its own view
	flagEpochClosing uint8 = 2 // reserved for membership changes: refused until they exist
)

const (
	headerVersion = 1
	coreBytes     = 194
	refBytes      = 36
	headerDomain  = "atlas-smr pbft header v1\x00"
	batchDomain   = "atlas-smr pbft batch v1\x00"
	// maxPosition bounds views and sequence numbers on the wire, so that arithmetic on them never
	// overflows.
	maxPosition = 1 << 62
)

// ErrHeader is wrapped by every refusal of a header.
var ErrHeader = errors.New("bad header")

// newHeader completes h, of which Epoch, View, Seq, Parent, Time, Flags and Refs are set.
func newHeader(m *quorum.Membership, h Header) *Header {
	refs := binary.BigEndian.AppendUint32(make([]byte, 0, 4+refBytes*len(h.Refs)), uint32(len(h.Refs)))
	for _, r := range h.Refs {
		refs = append(refs, r.ID[:]...)
		refs = binary.BigEndian.AppendUint32(refs, r.Bytes)
	}
	h.Batch = batchDigest(refs)
	cluster, membership := m.Cluster(), m.Digest()
	b := make([]byte, 0, coreBytes+len(refs))
	b = append(b, headerVersion)
	b = append(b, cluster[:]...)
	b = append(b, membership[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(h.View))
	b = binary.BigEndian.AppendUint64(b, uint64(h.Seq))
	b = append(b, h.Parent[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(h.Time))
	b = append(b, h.Flags)
	b = append(b, h.Next[:]...)
	b = append(b, h.Batch[:]...)
	h.Digest = chainDigest(b)
	h.raw, h.full = append(b, refs...), true
	return &h
}

func chainDigest(core []byte) smr.Digest {
	b := append(make([]byte, 0, len(headerDomain)+coreBytes), headerDomain...)
	return sha256.Sum256(append(b, core...))
}

func batchDigest(refs []byte) smr.Digest {
	s := sha256.New()
	s.Write([]byte(batchDomain))
	s.Write(refs)
	return smr.Digest(s.Sum(nil))
}

// parseCore reads the first coreBytes of raw and keeps raw. It checks the shape alone.
func parseCore(raw []byte) (*Header, error) {
	if len(raw) < coreBytes || raw[0] != headerVersion {
		return nil, fmt.Errorf("%w: %d bytes or unknown version", ErrHeader, len(raw))
	}
	h := &Header{
		Epoch: smr.Epoch(binary.BigEndian.Uint64(raw[65:])),
		View:  smr.View(binary.BigEndian.Uint64(raw[73:])),
		Seq:   smr.SeqNo(binary.BigEndian.Uint64(raw[81:])),
		Time:  int64(binary.BigEndian.Uint64(raw[121:])),
		Flags: raw[129], raw: raw,
	}
	copy(h.Parent[:], raw[89:])
	copy(h.Next[:], raw[130:])
	copy(h.Batch[:], raw[162:])
	h.Digest = chainDigest(raw[:coreBytes])
	switch {
	case h.Seq == 0 || h.Seq > maxPosition || h.View > maxPosition || h.Epoch == 0:
		return nil, fmt.Errorf("%w: position %d/%d/%d", ErrHeader, h.Epoch, h.View, h.Seq)
	case h.Time < 0:
		return nil, fmt.Errorf("%w: time before 1970", ErrHeader)
	case h.Flags&^flagTermClosing != 0 || !h.Next.IsZero():
		return nil, fmt.Errorf("%w: unknown flags %#x", ErrHeader, h.Flags)
	}
	return h, nil
}

// parseHeader reads a whole header and keeps raw. It checks everything that a header alone can say.
func parseHeader(raw []byte) (*Header, error) {
	h, err := parseCore(raw)
	if err != nil {
		return nil, err
	}
	refs := raw[coreBytes:]
	if len(refs) < 4 {
		return nil, fmt.Errorf("%w: no references", ErrHeader)
	}
	n := binary.BigEndian.Uint32(refs)
	if n > smr.MaxBatchBundles || len(refs) != 4+int(n)*refBytes {
		return nil, fmt.Errorf("%w: %d references in %d bytes", ErrHeader, n, len(refs))
	}
	if batchDigest(refs) != h.Batch {
		return nil, fmt.Errorf("%w: references do not match the batch digest", ErrHeader)
	}
	h.Refs = make([]smr.BundleRef, n)
	seen := make(map[smr.BundleID]struct{}, n)
	total := 0
	for i := range h.Refs {
		at := refs[4+i*refBytes:]
		r := &h.Refs[i]
		copy(r.ID[:], at)
		r.Bytes = binary.BigEndian.Uint32(at[32:])
		if r.Bytes == 0 || r.Bytes > smr.MaxBundleBytes {
			return nil, fmt.Errorf("%w: bundle of %d bytes", ErrHeader, r.Bytes)
		}
		if _, twice := seen[r.ID]; twice {
			return nil, fmt.Errorf("%w: a bundle named twice", ErrHeader)
		}
		seen[r.ID] = struct{}{}
		total += int(r.Bytes)
	}
	if total > smr.MaxBatchBytes {
		return nil, fmt.Errorf("%w: batch of %d bytes, at most %d", ErrHeader, total, smr.MaxBatchBytes)
	}
	h.full = true
	return h, nil
}

// belongs reports whether the header is bound to m.
func (h *Header) belongs(m *quorum.Membership) bool {
	cluster, membership := m.Cluster(), m.Digest()
	return h.Epoch == m.Epoch() && smr.Digest(h.raw[1:33]) == smr.Digest(cluster) && smr.Digest(h.raw[33:65]) == membership
}

// core returns the header's core; do not change it.
func (h *Header) core() []byte { return h.raw[:coreBytes:coreBytes] }

// closesTerm reports whether the header may have no child in its own view.
func (h *Header) closesTerm() bool { return h.Flags&flagTermClosing != 0 }

// info returns what every ordering's header says.
func (h *Header) info() protocol.HeaderInfo {
	return protocol.HeaderInfo{Epoch: h.Epoch, View: h.View, Seq: h.Seq, Digest: h.Digest, Parent: h.Parent, Time: h.Time, Refs: h.Refs}
}

// mark returns the header's position.
func (h *Header) mark() protocol.Mark { return protocol.Mark{Epoch: h.Epoch, View: h.View, Seq: h.Seq} }

package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// PartBytes is the length at which a checkpoint's stream is cut into parts.
const PartBytes = 1 << 20

// maxParts bounds a descriptor: a state of 16 TiB.
const maxParts = 1 << 24

// checkpointsKept is how many checkpoints stay: the newest, and one to fall back to.
const checkpointsKept = 2

// CheckpointMeta says where in the order a checkpoint stands.
type CheckpointMeta struct {
	Seq        smr.SeqNo
	Epoch      smr.Epoch
	View       smr.View
	Time       int64      // agreed time at Seq, nanoseconds since the Unix epoch
	Chain      smr.Digest // chain digest at Seq
	Membership smr.Digest
}

// HeaderInfo returns the position as recovery hands it to the ordering.
func (m CheckpointMeta) HeaderInfo() protocol.HeaderInfo {
	return protocol.HeaderInfo{Seq: m.Seq, Epoch: m.Epoch, View: m.View, Time: m.Time, Digest: m.Chain}
}

// Part is one part of a checkpoint.
type Part struct {
	Bytes  uint32
	Digest smr.Digest // SHA-256 of the part's bytes
}

// Descriptor describes a complete checkpoint.
type Descriptor struct {
	CheckpointMeta
	Head  smr.Digest // first leaf of the root: what the writer says about the checkpoint as a whole
	Note  []byte     // opaque; what the writer needs to read it again, at most 64 KiB
	Root  smr.Digest // protocol.MerkleRoot of Head and the digests of Parts
	Parts []Part
}

// Bytes is the sum of the parts.
func (d *Descriptor) Bytes() int64 {
	n := int64(0)
	for i := range d.Parts {
		n += int64(d.Parts[i].Bytes)
	}
	return n
}

// Root returns the root of a checkpoint: the Merkle root over head and the parts' digests.
func Root(head smr.Digest, parts []Part) smr.Digest {
	leaves := make([]smr.Digest, 0, 1+len(parts))
	leaves = append(leaves, head)
	for i := range parts {
		leaves = append(leaves, parts[i].Digest)
	}
	return protocol.MerkleRoot(leaves)
}

// A checkpoint file:
//
//	magic       8    "ATLASCP1"
//	parts       n    one after the other
//	descriptor  m
//	length      8    of the descriptor, big endian
//	checksum    4    CRC-32C of descriptor and length, little endian
//	magic       8
const (
	checkpointMagic  = "ATLASCP1"
	checkpointFooter = 8 + 4 + 8
	maxNoteBytes     = 64 << 10
)

func appendDescriptor(dst []byte, d *Descriptor) []byte {
	for _, v := range []uint64{uint64(d.Seq), uint64(d.Epoch), uint64(d.View), uint64(d.Time)} {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	for _, g := range []smr.Digest{d.Chain, d.Membership, d.Head, d.Root} {
		dst = append(dst, g[:]...)
	}
	dst = appendBytes(dst, d.Note)
	dst = binary.AppendUvarint(dst, uint64(len(d.Parts)))
	for i := range d.Parts {
		dst = binary.BigEndian.AppendUint32(dst, d.Parts[i].Bytes)
		dst = append(dst, d.Parts[i].Digest[:]...)
	}
	return dst
}

func decodeDescriptor(b []byte) (*Descriptor, error) {
	d, in := &Descriptor{}, decoder{rest: b}
	d.Seq, d.Epoch, d.View, d.Time = smr.SeqNo(in.uint64()), smr.Epoch(in.uint64()), smr.View(in.uint64()), int64(in.uint64())
	for _, g := range []*smr.Digest{&d.Chain, &d.Membership, &d.Head, &d.Root} {
		copy(g[:], in.take(32))
	}
	d.Note = bytes.Clone(in.bytes())
	n := in.uvarint()
	if in.bad || n > maxParts || n*36 != uint64(len(in.rest)) || len(d.Note) > maxNoteBytes {
		return nil, errValue
	}
	d.Parts = make([]Part, n)
	for i := range d.Parts {
		d.Parts[i].Bytes = binary.BigEndian.Uint32(in.take(4))
		copy(d.Parts[i].Digest[:], in.take(32))
		if d.Parts[i].Bytes > PartBytes || d.Parts[i].Bytes == 0 {
			return nil, errValue
		}
	}
	if err := in.end(); err != nil {
		return nil, err
	}
	if Root(d.Head, d.Parts) != d.Root {
		return nil, errValue
	}
	return d, nil
}

// sink takes a checkpoint's file image.
type sink interface {
	io.Writer
	// commit makes the image durable and visible.
	commit(d *Descriptor) error
	abort()
}

// CheckpointWriter writes one checkpoint. It belongs to one goroutine. Commit or Abort ends it.
type CheckpointWriter struct {
	to    sink
	d     Descriptor
	part  hash.Hash
	fill  int
	err   error
	ended bool
}

func newCheckpointWriter(meta CheckpointMeta, to sink) (*CheckpointWriter, error) {
	w := &CheckpointWriter{to: to, d: Descriptor{CheckpointMeta: meta}, part: sha256.New()}
	if meta.Seq == 0 {
		to.abort()
		return nil, errors.New("checkpoint at sequence number 0")
	}
	if _, err := to.Write([]byte(checkpointMagic)); err != nil {
		to.abort()
		return nil, err
	}
	return w, nil
}

// Write adds to the stream, cutting it into parts of PartBytes. Errors stick.
func (w *CheckpointWriter) Write(p []byte) (int, error) {
	done := 0
	for len(p) > 0 && w.err == nil {
		n := min(len(p), PartBytes-w.fill)
		if _, err := w.to.Write(p[:n]); err != nil {
			w.err = err
			break
		}
		w.part.Write(p[:n])
		if w.fill += n; w.fill == PartBytes {
			w.Cut()
		}
		p, done = p[n:], done+n
	}
	return done, w.err
}

// Cut ends the current part, unless it is empty: what follows starts a part of its own.
func (w *CheckpointWriter) Cut() {
	if w.fill == 0 {
		return
	}
	p := Part{Bytes: uint32(w.fill)}
	w.part.Sum(p.Digest[:0])
	w.part.Reset()
	w.fill = 0
	w.d.Parts = append(w.d.Parts, p)
	if len(w.d.Parts) > maxParts && w.err == nil {
		w.err = fmt.Errorf("checkpoint of more than %d parts", maxParts)
	}
}

// Parts ends the current part and returns all so far; do not change them.
func (w *CheckpointWriter) Parts() []Part {
	w.Cut()
	return w.d.Parts
}

// Commit makes the checkpoint durable and returns its descriptor. head is the first leaf of the
// root; note is kept beside it. Earlier checkpoints beyond those kept are deleted.
func (w *CheckpointWriter) Commit(head smr.Digest, note []byte) (*Descriptor, error) {
	if w.ended {
		return nil, errors.New("checkpoint writer was ended before")
	}
	w.Cut()
	if w.err == nil && len(note) > maxNoteBytes {
		w.err = fmt.Errorf("checkpoint note of %d bytes, at most %d", len(note), maxNoteBytes)
	}
	w.d.Head, w.d.Note, w.d.Root = head, bytes.Clone(note), Root(head, w.d.Parts)
	if w.err == nil {
		tail := appendDescriptor(nil, &w.d)
		tail = binary.BigEndian.AppendUint64(tail, uint64(len(tail)))
		tail = binary.LittleEndian.AppendUint32(tail, crc32.Checksum(tail, castagnoli))
		_, w.err = w.to.Write(append(tail, checkpointMagic...))
	}
	if w.err != nil {
		w.Abort()
		return nil, w.err
	}
	w.ended = true
	if err := w.to.commit(&w.d); err != nil {
		w.err = err
		return nil, err
	}
	return &w.d, nil
}

// Abort gives the checkpoint up; nothing of it stays. After Commit it does nothing.
func (w *CheckpointWriter) Abort() {
	if !w.ended {
		w.ended = true
		w.to.abort()
	}
}

// CheckpointReader reads a checkpoint, checking every part before it hands out a byte of it. It
// belongs to one goroutine.
type CheckpointReader struct {
	*Descriptor
	Certificate []byte // encoded; nil while there is none

	from    io.ReaderAt
	close   func() error
	name    string
	offsets []int64
	next    int
	buf     []byte
	rest    []byte
}

// openCheckpoint reads the descriptor of an image of size bytes. Damage is ErrCorrupt.
func openCheckpoint(name string, from io.ReaderAt, size int64, close func() error) (*CheckpointReader, error) {
	bad := func(what string) (*CheckpointReader, error) {
		return nil, fmt.Errorf("%w: checkpoint %s: %s", ErrCorrupt, name, what)
	}
	if size < int64(len(checkpointMagic))+checkpointFooter {
		return bad("too short")
	}
	foot := make([]byte, checkpointFooter)
	if err := readAt(from, foot, size-checkpointFooter); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint64(foot)
	room := uint64(size) - uint64(len(checkpointMagic)) - checkpointFooter
	if string(foot[12:]) != checkpointMagic || length > room || length > maxParts*36+maxNoteBytes+256 {
		return bad("damaged end")
	}
	tail := make([]byte, length+8)
	if err := readAt(from, tail, size-checkpointFooter-int64(length)); err != nil {
		return nil, err
	}
	if crc32.Checksum(tail, castagnoli) != binary.LittleEndian.Uint32(foot[8:]) {
		return bad("descriptor checksum mismatch")
	}
	d, err := decodeDescriptor(tail[:length])
	if err != nil {
		return bad("malformed descriptor")
	}
	if d.Bytes() != int64(room-length) {
		return bad("parts and file length disagree")
	}
	r := &CheckpointReader{Descriptor: d, from: from, close: close, name: name, offsets: make([]int64, len(d.Parts))}
	at := int64(len(checkpointMagic))
	for i := range d.Parts {
		r.offsets[i] = at
		at += int64(d.Parts[i].Bytes)
	}
	return r, nil
}

func readAt(from io.ReaderAt, p []byte, off int64) error {
	n, err := from.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	return err
}

// ReadPart appends the bytes of part i to dst. A part that does not match its digest is ErrCorrupt.
func (r *CheckpointReader) ReadPart(dst []byte, i int) ([]byte, error) {
	at := len(dst)
	dst = append(dst, make([]byte, r.Parts[i].Bytes)...)
	if err := readAt(r.from, dst[at:], r.offsets[i]); err != nil {
		return dst[:at], explain("read checkpoint", r.name, err)
	}
	if sha256.Sum256(dst[at:]) != r.Parts[i].Digest {
		return dst[:at], fmt.Errorf("%w: checkpoint %s: part %d does not match its digest", ErrCorrupt, r.name, i)
	}
	return dst, nil
}

// Read reads the stream: all parts, one after the other.
func (r *CheckpointReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.next == len(r.Parts) {
			return 0, io.EOF
		}
		var err error
		if r.buf, err = r.ReadPart(r.buf[:0], r.next); err != nil {
			return 0, err
		}
		r.next, r.rest = r.next+1, r.buf
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// verify reads all parts.
func (r *CheckpointReader) verify() error {
	for i := range r.Parts {
		var err error
		if r.buf, err = r.ReadPart(r.buf[:0], i); err != nil {
			return err
		}
	}
	return nil
}

// Close ends reading.
func (r *CheckpointReader) Close() error { return r.close() }

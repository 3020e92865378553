package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// checkpointsKept is how many checkpoints stay: the newest, and one to fall back to.
const checkpointsKept = 2

// Descriptor describes a complete checkpoint.
type Descriptor struct {
	transfer.Meta
	Root  smr.Digest // transfer.Root of Meta and Parts
	Parts []transfer.Part
}

// A checkpoint file:
//
//	magic       8    "ATLASCP2"
//	parts       n    one after the other; none here if they are in packs
//	descriptor  m
//	length      8    of the descriptor, big endian
//	checksum    4    CRC-32C of descriptor and length, little endian
//	magic       8
const (
	checkpointMagic  = "ATLASCP2"
	checkpointFooter = 8 + 4 + 8
)

func appendDescriptor(dst []byte, d *Descriptor) []byte {
	dst = d.Meta.Append(dst)
	dst = append(dst, d.Root[:]...)
	for i := range d.Parts {
		dst = d.Parts[i].Append(dst)
	}
	return dst
}

func decodeDescriptor(b []byte) (*Descriptor, error) {
	in := decoder{rest: b}
	meta, err := transfer.DecodeMeta(in.take(transfer.MetaBytes))
	if err != nil {
		return nil, err
	}
	d := &Descriptor{Meta: meta}
	copy(d.Root[:], in.take(32))
	if in.bad || meta.Parts*transfer.PartBytes != uint64(len(in.rest)) {
		return nil, errValue
	}
	d.Parts = make([]transfer.Part, meta.Parts)
	for i := range d.Parts {
		d.Parts[i] = transfer.DecodePart(in.take(transfer.PartBytes))
	}
	if err := transfer.CheckShape(meta, d.Parts); err != nil {
		return nil, err
	}
	if transfer.Root(meta, d.Parts) != d.Root {
		return nil, errValue
	}
	return d, nil
}

// sink takes a checkpoint's file image. One that is a partSink, too, takes the parts elsewhere.
type sink interface {
	io.Writer
	// commit makes the image durable and visible.
	commit(d *Descriptor) error
	abort()
}

// partSink keeps parts by digest, each once.
type partSink interface {
	has(digest smr.Digest) bool
	put(digest smr.Digest, data []byte) error
}

// CheckpointWriter writes one checkpoint. It belongs to one goroutine. Commit or Abort ends it.
type CheckpointWriter struct {
	to    sink
	parts []transfer.Part
	err   error
	ended bool
}

func newCheckpointWriter(seq smr.SeqNo, to sink) (*CheckpointWriter, error) {
	w := &CheckpointWriter{to: to}
	if seq == 0 {
		to.abort()
		return nil, errors.New("checkpoint at sequence number 0")
	}
	if _, err := to.Write([]byte(checkpointMagic)); err != nil {
		to.abort()
		return nil, err
	}
	return w, nil
}

// Part adds the next part. p describes data, which may be reused afterwards. Errors stick.
func (w *CheckpointWriter) Part(p transfer.Part, data []byte) error {
	if w.err == nil && int(p.Bytes) != len(data) {
		w.err = fmt.Errorf("part of %d bytes announced as %d", len(data), p.Bytes)
	}
	if w.err == nil {
		if to, ok := w.to.(partSink); ok {
			w.err = to.put(p.Digest, data)
		} else {
			_, w.err = w.to.Write(data)
		}
	}
	w.parts = append(w.parts, p)
	return w.err
}

// Keep adds the next part if its bytes are here already, of an earlier checkpoint, and reports whether
// they are; if not, give them to Part.
func (w *CheckpointWriter) Keep(p transfer.Part) bool {
	to, ok := w.to.(partSink)
	if !ok || w.err != nil || !to.has(p.Digest) {
		return false
	}
	w.parts = append(w.parts, p)
	return true
}

// Commit makes the checkpoint durable and returns its descriptor. Earlier checkpoints beyond those
// kept are deleted.
func (w *CheckpointWriter) Commit(meta transfer.Meta) (*Descriptor, error) {
	if w.ended {
		return nil, errors.New("checkpoint writer was ended before")
	}
	if w.err == nil {
		w.err = transfer.CheckShape(meta, w.parts)
	}
	d := &Descriptor{Meta: meta, Root: transfer.Root(meta, w.parts), Parts: w.parts}
	if w.err == nil {
		_, w.err = w.to.Write(appendTail(nil, d))
	}
	if w.err != nil {
		w.Abort()
		return nil, w.err
	}
	w.ended = true
	if err := w.to.commit(d); err != nil {
		w.err = err
		return nil, err
	}
	return d, nil
}

// appendTail appends what follows the parts in a checkpoint file.
func appendTail(dst []byte, d *Descriptor) []byte {
	at := len(dst)
	dst = appendDescriptor(dst, d)
	dst = binary.BigEndian.AppendUint64(dst, uint64(len(dst)-at))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[at:], castagnoli))
	return append(dst, checkpointMagic...)
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
	offsets []int64      // of the parts in from
	pinned  *pinnedParts // or where they are instead
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
	head := make([]byte, len(checkpointMagic))
	if err := readAt(from, head, 0); err != nil {
		return nil, err
	}
	if string(head) != checkpointMagic {
		return bad("damaged start")
	}
	foot := make([]byte, checkpointFooter)
	if err := readAt(from, foot, size-checkpointFooter); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint64(foot)
	room := uint64(size) - uint64(len(checkpointMagic)) - checkpointFooter
	if string(foot[12:]) != checkpointMagic || length > room || length > transfer.MetaBytes+32+transfer.MaxParts*transfer.PartBytes {
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
	r := &CheckpointReader{Descriptor: d, from: from, close: close, name: name}
	if d.external(room - length) {
		return r, nil
	}
	if d.Bytes != room-length {
		return bad("parts and file length disagree")
	}
	r.offsets = make([]int64, len(d.Parts))
	at := int64(len(checkpointMagic))
	for i := range d.Parts {
		r.offsets[i] = at
		at += int64(d.Parts[i].Bytes)
	}
	return r, nil
}

// external tells from the bytes of parts in a checkpoint's file whether they are in packs.
func (d *Descriptor) external(here uint64) bool {
	return d.Kind == transfer.StateDivisible && here == 0 && d.Bytes > 0
}

// PartList returns the parts in order; do not change them.
func (r *CheckpointReader) PartList() []transfer.Part { return r.Parts }

func readAt(from io.ReaderAt, p []byte, off int64) error {
	n, err := from.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	return err
}

// ReadPart appends the bytes of part i to dst. A part that does not match its digest is ErrCorrupt.
func (r *CheckpointReader) ReadPart(dst []byte, i int) ([]byte, error) {
	if r.pinned != nil {
		return r.pinned.read(dst, i, r.Parts[i].Digest)
	}
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
func (r *CheckpointReader) Close() error {
	err := r.close()
	if r.pinned != nil {
		err = errors.Join(err, r.pinned.release())
	}
	return err
}

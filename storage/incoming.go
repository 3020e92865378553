package storage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// Incoming is a checkpoint that is being received. It belongs to one goroutine.
type Incoming interface {
	// Stage takes the descriptions of the parts from first on, pages in order, and says of each whether
	// its bytes are here: left by an interrupted transfer of this checkpoint, or found elsewhere on
	// this disk by length and digest. What it calls held was verified by reading it.
	Stage(first uint64, parts []transfer.Part) ([]transfer.Holding, error)
	// Put stores the bytes of a staged part, which the caller verified. They survive the end of the
	// process; power loss may cost the newest of them.
	Put(i uint64, data []byte) error
	// Adopt makes the checkpoint one like those written here, atomically and durably. All parts must
	// be staged and held. The Incoming is closed.
	Adopt() (*Descriptor, error)
	// Close ends receiving and keeps what is held for the next BeginIncoming.
	Close() error
	// Drop ends receiving and deletes what is staged.
	Drop() error
}

const incomingSuffix = ".incoming"

// syncEvery is how many bytes of parts power loss may cost.
const syncEvery = 32 << 20

// staging is a file of parts at their final offsets.
type staging interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

// incoming receives a checkpoint into the image of its file.
type incoming struct {
	meta    transfer.Meta
	root    smr.Digest
	to      staging
	left    bool          // the staging file was there
	others  []io.ReaderAt // older staging files: parts at equal offsets may be equal
	have    map[smr.Digest]partAt
	parts   []transfer.Part
	offsets []int64
	held    []bool // by part
	end     int64
	dirty   int
	adopt   func(d *Descriptor) error // closes and names the file
	remove  func() error
	close   func() error
	buf     []byte
}

// partAt is a part of a checkpoint that is here.
type partAt struct {
	r *CheckpointReader
	i int
}

// index adds the parts of a local checkpoint to those that need not be moved.
func (in *incoming) index(r *CheckpointReader) {
	for i, p := range r.Parts {
		in.have[p.Digest] = partAt{r, i}
	}
}

// Stage implements Incoming.
func (in *incoming) Stage(first uint64, parts []transfer.Part) ([]transfer.Holding, error) {
	if first != uint64(len(in.parts)) {
		return nil, fmt.Errorf("parts from %d staged after %d", first, len(in.parts))
	}
	held := make([]transfer.Holding, len(parts))
	for i, p := range parts {
		at := in.end
		in.parts, in.offsets, in.end = append(in.parts, p), append(in.offsets, at), at+int64(p.Bytes)
		in.held = append(in.held, false)
		if in.left && in.reads(in.to, at, p) {
			held[i], in.held[len(in.held)-1] = transfer.Left, true
			continue
		}
		if !in.find(at, p) {
			continue
		}
		if err := in.write(at, in.buf); err != nil {
			return nil, err
		}
		held[i], in.held[len(in.held)-1] = transfer.Found, true
	}
	return held, nil
}

// find reads the bytes of p from somewhere on this disk into buf.
func (in *incoming) find(at int64, p transfer.Part) bool {
	if w, ok := in.have[p.Digest]; ok {
		b, err := w.r.ReadPart(in.buf[:0], w.i)
		if in.buf = b; err == nil && len(b) == int(p.Bytes) {
			return true
		}
	}
	for _, o := range in.others {
		if in.reads(o, at, p) {
			return true
		}
	}
	return false
}

// reads reports whether the bytes of p are at an offset, and leaves them in buf.
func (in *incoming) reads(from io.ReaderAt, at int64, p transfer.Part) bool {
	if cap(in.buf) < int(p.Bytes) {
		in.buf = make([]byte, p.Bytes)
	}
	in.buf = in.buf[:p.Bytes]
	return readAt(from, in.buf, at) == nil && sha256.Sum256(in.buf) == p.Digest
}

func (in *incoming) write(at int64, data []byte) error {
	if _, err := in.to.WriteAt(data, at); err != nil {
		return explain("write", "incoming checkpoint", err)
	}
	if in.dirty += len(data); in.dirty < syncEvery {
		return nil
	}
	in.dirty = 0
	return explain("sync", "incoming checkpoint", in.to.Sync())
}

// Put implements Incoming.
func (in *incoming) Put(i uint64, data []byte) error {
	if i >= uint64(len(in.parts)) || int(in.parts[i].Bytes) != len(data) {
		return fmt.Errorf("part %d of %d bytes was not staged", i, len(data))
	}
	err := in.write(in.offsets[i], data)
	in.held[i] = in.held[i] || err == nil
	return err
}

// Adopt implements Incoming.
func (in *incoming) Adopt() (*Descriptor, error) {
	d, err := complete(in.meta, in.root, in.parts, in.held)
	if err != nil {
		return nil, err
	}
	if _, err := in.to.WriteAt(appendTail(nil, d), in.end); err != nil {
		return nil, explain("write", "incoming checkpoint", err)
	}
	if err := in.to.Sync(); err != nil {
		return nil, explain("sync", "incoming checkpoint", err)
	}
	return d, in.adopt(d)
}

// Close implements Incoming.
func (in *incoming) Close() error { return in.close() }

// Drop implements Incoming.
func (in *incoming) Drop() error { return errors.Join(in.close(), in.remove()) }

func incomingName(seq smr.SeqNo, root smr.Digest) string {
	return fmt.Sprintf("%020d-%x%s", uint64(seq), root[:8], incomingSuffix)
}

// beginIncoming opens the staging file of a checkpoint, beside the newest older one.
func (c *checkpointFiles) beginIncoming(meta transfer.Meta, root smr.Digest) (Incoming, error) {
	names, err := c.fs.List(c.dir)
	if err != nil {
		return nil, explain("list", c.dir, err)
	}
	name := incomingName(meta.Seq, root)
	path := c.fs.PathJoin(c.dir, name)
	in := &incoming{meta: meta, root: root, have: map[smr.Digest]partAt{}, end: int64(len(checkpointMagic))}
	var open []io.Closer
	in.close = func() error {
		var errs []error
		for _, f := range open {
			errs = append(errs, f.Close())
		}
		open = nil
		return errors.Join(errs...)
	}
	older := ""
	for _, n := range names {
		if n == name {
			in.left = true
		} else if strings.HasSuffix(n, incomingSuffix) && n > older {
			older = n
		}
	}
	for _, n := range names {
		if strings.HasSuffix(n, incomingSuffix) && n != name && n != older {
			if err := c.fs.Remove(c.fs.PathJoin(c.dir, n)); err != nil {
				return nil, explain("remove", n, err)
			}
		}
	}
	if older != "" {
		if f, err := c.fs.Open(c.fs.PathJoin(c.dir, older)); err == nil {
			open, in.others = append(open, f), append(in.others, f)
		}
	}
	c.mu.Lock()
	seqs := append([]smr.SeqNo(nil), c.seqs...)
	c.mu.Unlock()
	for _, seq := range seqs {
		if r, err := c.open(seq); err == nil {
			open = append(open, r)
			in.index(r)
		}
	}
	f, err := c.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, errors.Join(explain("open", path, err), in.close())
	}
	open = append(open, f)
	in.to = stagingFile{f}
	if _, err := in.to.WriteAt([]byte(checkpointMagic), 0); err != nil {
		return nil, errors.Join(explain("write", path, err), in.close())
	}
	in.remove = func() error { return explain("remove", path, c.fs.Remove(path)) }
	in.adopt = func(d *Descriptor) error {
		if err := in.close(); err != nil {
			return explain("close", path, err)
		}
		if older != "" {
			_ = c.fs.Remove(c.fs.PathJoin(c.dir, older)) // removed by the next transfer otherwise
		}
		return c.publish(path, d)
	}
	return in, nil
}

// stagingFile keeps what it is given from being changed: a file of package vfs may do so.
type stagingFile struct{ vfs.File }

// WriteAt implements io.WriterAt.
func (f stagingFile) WriteAt(p []byte, at int64) (int, error) {
	return f.File.WriteAt(bytes.Clone(p), at)
}

// BeginIncoming implements [Disk].
func (s *Store) BeginIncoming(meta transfer.Meta, root smr.Digest) (Incoming, error) {
	if meta.Kind == transfer.StateDivisible {
		return s.ckpt.beginParts(meta, root)
	}
	return s.ckpt.beginIncoming(meta, root)
}

// OpenCheckpoint implements [Disk].
func (s *Store) OpenCheckpoint(seq smr.SeqNo) (*CheckpointReader, error) {
	s.ckpt.mu.Lock()
	held := false
	for _, have := range s.ckpt.seqs {
		held = held || have == seq
	}
	s.ckpt.mu.Unlock()
	if !held {
		return nil, nil
	}
	return s.ckpt.open(seq)
}

package storage

import (
	"bytes"
	"errors"
	"io"
	"slices"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// memoryStaging is the staging area of a Memory: one image. What is put there is durable at once.
type memoryStaging struct {
	seq   smr.SeqNo
	root  smr.Digest
	image []byte
}

// ReadAt implements io.ReaderAt.
func (s *memoryStaging) ReadAt(p []byte, at int64) (int, error) {
	if at > int64(len(s.image)) {
		return 0, io.EOF
	}
	n := copy(p, s.image[at:])
	if n < len(p) {
		return n, io.ErrUnexpectedEOF
	}
	return n, nil
}

// WriteAt implements io.WriterAt.
func (s *memoryStaging) WriteAt(p []byte, at int64) (int, error) {
	if end := int(at) + len(p); end > len(s.image) {
		s.image = append(s.image, make([]byte, end-len(s.image))...)
	}
	return copy(s.image[at:], p), nil
}

// Sync implements staging.
func (s *memoryStaging) Sync() error { return nil }

// Close implements staging.
func (s *memoryStaging) Close() error { return nil }

// BeginIncoming implements [Disk].
func (m *Memory) BeginIncoming(meta transfer.Meta, root smr.Digest) (Incoming, error) {
	if m.err != nil {
		return nil, m.err
	}
	in := &incoming{meta: meta, root: root, have: map[smr.Digest]partAt{}, end: int64(len(checkpointMagic))}
	for _, c := range m.ckpts {
		if r, err := openCheckpoint(checkpointName(c.seq), bytes.NewReader(c.image), int64(len(c.image)), func() error { return nil }); err == nil {
			in.index(r)
		}
	}
	old := m.staged
	switch {
	case old != nil && old.seq == meta.Seq && old.root == root:
		in.left = true
	case old != nil:
		in.others = append(in.others, old)
		m.staged = nil
	}
	if m.staged == nil {
		m.staged = &memoryStaging{seq: meta.Seq, root: root, image: []byte(checkpointMagic)}
	}
	to := m.staged
	in.to = to
	in.close = func() error { return nil }
	in.remove = func() error { m.staged = nil; return nil }
	in.adopt = func(d *Descriptor) error {
		if m.err != nil {
			return m.err
		}
		m.staged = nil
		m.publish(d.Seq, to.image)
		return nil
	}
	return in, nil
}

// publish makes an image a checkpoint.
func (m *Memory) publish(seq smr.SeqNo, image []byte) {
	c := memoryCheckpoint{seq: seq, image: image}
	i, found := slices.BinarySearchFunc(m.ckpts, seq, func(c memoryCheckpoint, seq smr.SeqNo) int {
		return int(min(1, max(-1, int64(c.seq)-int64(seq))))
	})
	if found {
		m.ckpts[i] = c
	} else {
		m.ckpts = slices.Insert(m.ckpts, i, c)
	}
	if extra := len(m.ckpts) - checkpointsKept; extra > 0 {
		m.ckpts = slices.Delete(m.ckpts, 0, extra)
	}
}

// OpenCheckpoint implements [Disk].
func (m *Memory) OpenCheckpoint(seq smr.SeqNo) (*CheckpointReader, error) {
	if m.err != nil {
		return nil, m.err
	}
	for _, c := range m.ckpts {
		if c.seq == seq {
			return openCheckpoint(checkpointName(seq), bytes.NewReader(c.image), int64(len(c.image)), func() error { return nil })
		}
	}
	return nil, nil
}

var errNoIncoming = errors.New("no checkpoint is being received")

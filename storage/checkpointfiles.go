package storage

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol/transfer"
)

const (
	checkpointSuffix = ".ckpt"
	tempSuffix       = ".tmp"
	damagedSuffix    = ".damaged"
)

// checkpointFiles keeps checkpoints as files of one directory. A checkpoint is complete once it has
// its name; whatever else lies there is left over from a crash.
type checkpointFiles struct {
	fs    vfs.FS
	dir   string
	parts *partLog // the parts of checkpoints of divisible state

	mu sync.Mutex
	// seqs lists the complete checkpoints, ascending. Those that turned out damaged are gone from it.
	seqs    []smr.SeqNo
	checked map[smr.SeqNo]bool // read through and found whole since open
	writing bool
	// divided holds the parts of the checkpoints in seqs whose parts are in packs, once they are known.
	divided map[smr.SeqNo][]transfer.Part
	// staged are parts in packs that belong to no checkpoint yet and stay.
	staged map[smr.Digest]bool
	// staging are those of them that the checkpoint being received, or received last, names.
	staging map[smr.Digest]bool
}

func openCheckpointFiles(fs vfs.FS, dir string) (*checkpointFiles, error) {
	c := &checkpointFiles{fs: fs, dir: dir, checked: make(map[smr.SeqNo]bool), divided: make(map[smr.SeqNo][]transfer.Part)}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, explain("make", dir, err)
	}
	names, err := fs.List(dir)
	if err != nil {
		return nil, explain("list", dir, err)
	}
	for _, name := range names {
		var seq uint64
		if strings.HasSuffix(name, tempSuffix) {
			if err := fs.Remove(fs.PathJoin(dir, name)); err != nil {
				return nil, explain("remove", name, err)
			}
			continue
		}
		if _, err := fmt.Sscanf(name, "%d"+checkpointSuffix, &seq); err == nil && name == checkpointName(smr.SeqNo(seq)) {
			c.seqs = append(c.seqs, smr.SeqNo(seq))
		}
	}
	slices.Sort(c.seqs)
	if c.parts, err = openPartLog(fs, fs.PathJoin(dir, "parts")); err != nil {
		return nil, err
	}
	return c, nil
}

func checkpointName(seq smr.SeqNo) string {
	return fmt.Sprintf("%020d%s", uint64(seq), checkpointSuffix)
}

func (c *checkpointFiles) path(seq smr.SeqNo) string {
	return c.fs.PathJoin(c.dir, checkpointName(seq))
}

// covered returns up to where the log may go: the oldest of the checkpoints kept, once there are as
// many as are kept.
func (c *checkpointFiles) covered() smr.SeqNo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return covered(c.seqs)
}

func covered(seqs []smr.SeqNo) smr.SeqNo {
	if len(seqs) < checkpointsKept {
		return 0
	}
	return seqs[len(seqs)-checkpointsKept]
}

// begin starts a file, for the parts too or, divided, for the descriptor only. One checkpoint is
// written at a time.
func (c *checkpointFiles) begin(seq smr.SeqNo, divided bool) (*CheckpointWriter, error) {
	c.mu.Lock()
	busy := c.writing
	c.writing = true
	c.mu.Unlock()
	if busy {
		return nil, errors.New("another checkpoint is being written")
	}
	path := c.path(seq) + tempSuffix
	f, err := c.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		c.idle()
		return nil, explain("create", path, err)
	}
	to := &fileSink{owner: c, f: f, path: path}
	if divided {
		return newCheckpointWriter(seq, dividedSink{to, c.parts})
	}
	return newCheckpointWriter(seq, to)
}

func (c *checkpointFiles) idle() {
	c.mu.Lock()
	c.writing = false
	c.mu.Unlock()
}

// fileSink is a checkpoint file before it has its name.
type fileSink struct {
	owner *checkpointFiles
	f     vfs.File
	path  string
	buf   []byte
}

// Write writes a copy: unlike an io.Writer, a file of package vfs may change what it is given.
func (s *fileSink) Write(p []byte) (int, error) {
	s.buf = append(s.buf[:0], p...)
	n, err := s.f.Write(s.buf)
	return n, explain("write", s.path, err)
}

func (s *fileSink) abort() {
	_ = s.f.Close()
	_ = s.owner.fs.Remove(s.path) // removed at the next open otherwise
	s.owner.idle()
}

func (s *fileSink) commit(d *Descriptor) error {
	c := s.owner
	if err := s.f.Sync(); err != nil {
		s.abort()
		return explain("sync", s.path, err)
	}
	defer c.idle()
	if err := s.f.Close(); err != nil {
		return explain("close", s.path, err)
	}
	return c.publish(s.path, d)
}

// publish gives a complete file at path, which is synced, the name of the checkpoint that d describes.
func (c *checkpointFiles) publish(path string, d *Descriptor) error {
	if err := c.fs.Rename(path, c.path(d.Seq)); err != nil {
		return explain("rename", path, err)
	}
	if err := syncDir(c.fs, c.dir); err != nil {
		return err
	}
	return c.adopt(d)
}

// adopt counts a checkpoint that has its name among those kept, and lets go what that makes needless.
func (c *checkpointFiles) adopt(d *Descriptor) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i, ok := slices.BinarySearch(c.seqs, d.Seq); !ok {
		c.seqs = slices.Insert(c.seqs, i, d.Seq)
	}
	c.checked[d.Seq] = true
	if c.divided[d.Seq] = nil; d.Kind == transfer.StateDivisible {
		c.divided[d.Seq] = d.Parts
	}
	for len(c.seqs) > checkpointsKept {
		if err := c.fs.Remove(c.path(c.seqs[0])); err != nil {
			return explain("remove", c.path(c.seqs[0]), err)
		}
		delete(c.checked, c.seqs[0])
		delete(c.divided, c.seqs[0])
		c.seqs = c.seqs[1:]
	}
	if c.parts.unused() {
		return nil
	}
	// The removal must not be undone by a crash after parts of what was removed are gone.
	if err := syncDir(c.fs, c.dir); err != nil {
		return err
	}
	return c.collect()
}

// collect removes the parts that no kept checkpoint names. mu is held.
func (c *checkpointFiles) collect() error {
	live := maps.Clone(c.staged)
	if live == nil {
		live = make(map[smr.Digest]bool)
	}
	for _, seq := range c.seqs {
		parts, ok := c.divided[seq]
		if !ok {
			d, err := c.descriptor(seq)
			if errors.Is(err, ErrCorrupt) {
				continue // set aside when its turn comes
			}
			if err != nil {
				return err
			}
			parts = d
			c.divided[seq] = d
		}
		for i := range parts {
			live[parts[i].Digest] = true
		}
	}
	return c.parts.collect(live)
}

// descriptor reads which parts of a checkpoint are in packs.
func (c *checkpointFiles) descriptor(seq smr.SeqNo) ([]transfer.Part, error) {
	r, err := c.openFile(seq)
	if err != nil {
		return nil, err
	}
	if r.offsets != nil {
		return nil, r.Close()
	}
	return r.Parts, r.Close()
}

// dividedSink takes the descriptor to a file and the parts to packs.
type dividedSink struct {
	*fileSink
	*partLog
}

// commit makes the parts durable before the file gets its name.
func (s dividedSink) commit(d *Descriptor) error {
	if err := s.partLog.sync(); err != nil {
		s.abort()
		return err
	}
	return s.fileSink.commit(d)
}

// latest opens the newest checkpoint that is whole; nil for none. A damaged one is set aside under
// another name and told to the caller.
func (c *checkpointFiles) latest(damaged func(error)) (*CheckpointReader, error) {
	for {
		c.mu.Lock()
		if len(c.seqs) == 0 {
			c.mu.Unlock()
			return nil, nil
		}
		seq := c.seqs[len(c.seqs)-1]
		checked := c.checked[seq]
		c.mu.Unlock()
		r, err := c.open(seq)
		if err == nil && !checked {
			if err = r.verify(); err != nil {
				_ = r.Close()
			}
		}
		if err == nil && r.Seq != seq {
			_ = r.Close()
			err = fmt.Errorf("%w: checkpoint %s says it is of %d", ErrCorrupt, r.name, r.Seq)
		}
		if err == nil {
			c.mu.Lock()
			c.checked[seq] = true
			c.mu.Unlock()
			return r, nil
		}
		if !errors.Is(err, ErrCorrupt) {
			return nil, err
		}
		damaged(err)
		if err := c.setAside(seq); err != nil {
			return nil, err
		}
	}
}

// open opens the checkpoint at seq; its parts stay readable until the reader is closed.
func (c *checkpointFiles) open(seq smr.SeqNo) (*CheckpointReader, error) {
	c.mu.Lock() // no part goes before it is pinned
	defer c.mu.Unlock()
	r, err := c.openFile(seq)
	if err != nil || r.offsets != nil {
		return r, err
	}
	digests := make([]smr.Digest, len(r.Parts))
	for i := range r.Parts {
		digests[i] = r.Parts[i].Digest
	}
	if r.pinned, err = c.parts.pin(digests); err != nil {
		_ = r.Close()
		return nil, fmt.Errorf("checkpoint %s: %w", r.name, err)
	}
	return r, nil
}

func (c *checkpointFiles) openFile(seq smr.SeqNo) (*CheckpointReader, error) {
	path := c.path(seq)
	f, err := c.fs.Open(path)
	if err != nil {
		return nil, explain("open", path, err)
	}
	info, err := f.Stat()
	if err == nil {
		var r *CheckpointReader
		if r, err = openCheckpoint(path, f, info.Size(), f.Close); err == nil {
			return r, nil
		}
	}
	_ = f.Close()
	return nil, explain("read", path, err)
}

func (c *checkpointFiles) setAside(seq smr.SeqNo) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.fs.Rename(c.path(seq), c.path(seq)+damagedSuffix); err != nil {
		return explain("rename", c.path(seq), err)
	}
	delete(c.divided, seq)
	c.seqs = slices.DeleteFunc(c.seqs, func(s smr.SeqNo) bool { return s == seq })
	return syncDir(c.fs, c.dir)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return explain("open", dir, err)
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return explain("sync", dir, err)
}

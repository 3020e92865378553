package storage

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// incomingParts receives a checkpoint of divisible state into the log of parts: what another
// checkpoint has is neither moved nor written again.
type incomingParts struct {
	c     *checkpointFiles
	meta  transfer.Meta
	root  smr.Digest
	own   map[smr.Digest]bool // parts of checkpoints that are here
	parts []transfer.Part
	held  []bool // by part
	dirty int
}

// beginParts begins to receive a checkpoint of divisible state. Parts of the transfer before stay
// until a checkpoint is adopted.
func (c *checkpointFiles) beginParts(meta transfer.Meta, root smr.Digest) (Incoming, error) {
	in := &incomingParts{c: c, meta: meta, root: root, own: make(map[smr.Digest]bool)}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, seq := range c.seqs {
		parts, err := c.descriptor(seq)
		if err != nil && !errors.Is(err, ErrCorrupt) { // set aside when its turn comes
			return nil, err
		}
		for i := range parts {
			in.own[parts[i].Digest] = true
		}
	}
	c.staged = maps.Clone(c.staging)
	c.staging = make(map[smr.Digest]bool)
	if c.staged == nil {
		c.staged = make(map[smr.Digest]bool)
	}
	return in, nil
}

// Stage implements Incoming.
func (in *incomingParts) Stage(first uint64, parts []transfer.Part) ([]transfer.Holding, error) {
	if first != uint64(len(in.parts)) {
		return nil, fmt.Errorf("parts from %d staged after %d", first, len(in.parts))
	}
	in.c.mu.Lock() // from here on none of them goes
	for _, p := range parts {
		in.c.staged[p.Digest], in.c.staging[p.Digest] = true, true
	}
	in.c.mu.Unlock()
	held := make([]transfer.Holding, len(parts))
	for i, p := range parts {
		if in.c.parts.has(p.Digest) {
			if held[i] = transfer.Left; in.own[p.Digest] {
				held[i] = transfer.Found
			}
		}
		in.parts, in.held = append(in.parts, p), append(in.held, held[i] != transfer.Lacking)
	}
	return held, nil
}

// Put implements Incoming.
func (in *incomingParts) Put(i uint64, data []byte) error {
	if i >= uint64(len(in.parts)) || int(in.parts[i].Bytes) != len(data) {
		return fmt.Errorf("part %d of %d bytes was not staged", i, len(data))
	}
	if err := in.c.parts.put(in.parts[i].Digest, data); err != nil {
		return err
	}
	in.held[i] = true
	if in.dirty += len(data); in.dirty < syncEvery {
		return nil
	}
	in.dirty = 0
	return in.c.parts.sync()
}

// Adopt implements Incoming.
func (in *incomingParts) Adopt() (*Descriptor, error) {
	d, err := complete(in.meta, in.root, in.parts, in.held)
	if err != nil {
		return nil, err
	}
	c := in.c
	if err := c.parts.sync(); err != nil {
		return nil, err
	}
	path := c.fs.PathJoin(c.dir, incomingName(d.Seq, d.Root)+tempSuffix)
	f, err := c.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, explain("create", path, err)
	}
	_, err = f.Write(appendTail([]byte(checkpointMagic), d))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = c.publish(path, d)
	}
	c.mu.Lock()
	c.staged, c.staging = nil, nil
	c.mu.Unlock()
	return d, explain("write", path, err)
}

// Close implements Incoming: what is held stays in the log of parts.
func (in *incomingParts) Close() error { return nil }

// Drop implements Incoming: the next checkpoint lets the parts go.
func (in *incomingParts) Drop() error {
	in.c.mu.Lock()
	defer in.c.mu.Unlock()
	in.c.staged, in.c.staging = nil, nil
	return nil
}

// complete returns the descriptor of a checkpoint that was received, if nothing is lacking.
func complete(meta transfer.Meta, root smr.Digest, parts []transfer.Part, held []bool) (*Descriptor, error) {
	if i := slices.Index(held, false); i >= 0 {
		return nil, fmt.Errorf("part %d is lacking", i)
	}
	if err := transfer.CheckShape(meta, parts); err != nil {
		return nil, err
	}
	if transfer.Root(meta, parts) != root {
		return nil, errors.New("the staged parts do not make the root that is wanted")
	}
	return &Descriptor{Meta: meta, Root: root, Parts: parts}, nil
}

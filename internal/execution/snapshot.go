package execution

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// Meta is what a checkpoint says about itself.
type Meta = transfer.Meta

// Snapshot is the state after a batch, captured. Its parts are the session table, canonical, cut as
// a stream, and the application's: monolithic state is a second stream, divisible state has parts of
// its own. Its root is a pure function of the replicated state. Write and Release belong to one goroutine, which need not be the
// executor's.
type Snapshot struct {
	meta  Meta // before Write, numbers of parts and bytes are not set
	table frozenTable
	app   smr.Frozen      // of monolithic state; or
	parts smr.FrozenParts // of divisible state; neither for an application without state
}

// Written is what Write wrote.
type Written struct {
	Meta  Meta
	Root  smr.Digest
	Parts []transfer.Part
}

// PartSink takes the parts of a checkpoint, in order. data may be reused after the call.
type PartSink interface {
	Part(p transfer.Part, data []byte) error
}

// PartKeeper is a PartSink that may have parts already.
type PartKeeper interface {
	PartSink
	// Keep takes the next part without its bytes, if it has those, and reports whether it has.
	Keep(p transfer.Part) bool
}

// ToWriter writes the bytes of all parts to w, one after the other.
func ToWriter(w io.Writer) PartSink { return partWriter{w} }

type partWriter struct{ io.Writer }

// Part implements PartSink.
func (w partWriter) Part(_ transfer.Part, data []byte) error {
	_, err := w.Write(data)
	return err
}

// forRoot has every part: only the root is wanted.
type forRoot struct{}

// Part implements PartSink.
func (forRoot) Part(transfer.Part, []byte) error { return nil }

// Keep implements PartKeeper.
func (forRoot) Keep(transfer.Part) bool { return true }

// Freeze captures the state as of the newest applied batch. It is cheap: the application freezes by
// its own means, the session table is shared and copied on write. The caller must call Release. A
// panic of the application fences.
func (c *Core) Freeze() (s *Snapshot, err error) {
	if c.fenced != nil {
		return nil, c.fenced
	}
	defer func() {
		if p := recover(); p != nil {
			c.fenced = &FencedError{Seq: c.executed, Cause: fmt.Errorf("panic in Freeze: %v", p), Stack: debug.Stack()}
			s, err = nil, c.fenced
		}
	}()
	s = &Snapshot{meta: Meta{Seq: c.executed, Chain: c.chain, Epoch: c.epoch, View: c.view, Time: c.time, Membership: c.membership}}
	switch st := c.service.State().(type) {
	case nil:
	case smr.Monolithic:
		s.meta.Kind, s.app = transfer.StateMonolithic, st.Freeze()
	case smr.Divisible:
		s.meta.Kind, s.parts = transfer.StateDivisible, st.Freeze()
	}
	s.table = c.table.freeze()
	return s, nil
}

// Seq returns the sequence number after which the state was captured.
func (s *Snapshot) Seq() smr.SeqNo { return s.meta.Seq }

// Meta returns what is known of the checkpoint before it is written: all but numbers of parts and bytes.
func (s *Snapshot) Meta() Meta { return s.meta }

// Release frees what the snapshot holds; the snapshot is of no use after it.
func (s *Snapshot) Release() {
	if s.app != nil {
		s.app.Release()
	}
	if s.parts != nil {
		s.parts.Release()
	}
	*s = Snapshot{}
}

// Write hands the parts to dst and computes the root. It may be called once. Parts of divisible state
// are read only if dst is no PartKeeper, or one that has not got them.
func (s *Snapshot) Write(dst PartSink) (Written, error) {
	table := newCutter(transfer.SectionTable, dst)
	_, err := s.table.append(nil, func(b []byte) ([]byte, error) {
		_, err := table.Write(b)
		return b[:0], err
	})
	if err == nil {
		err = table.cut()
	}
	if err != nil {
		return Written{}, err
	}
	parts := table.parts
	s.meta.Table, s.meta.TableParts = table.total, uint64(len(parts))
	s.meta.Bytes = table.total
	if s.app != nil {
		app := newCutter(transfer.SectionApplication, dst)
		if _, err := s.app.WriteTo(app); err != nil {
			return Written{}, fmt.Errorf("write application state: %w", err)
		}
		if err := app.cut(); err != nil {
			return Written{}, err
		}
		parts = append(parts, app.parts...)
		s.meta.Bytes += app.total
	}
	if s.parts != nil {
		app, size, err := s.writeParts(dst)
		if err != nil {
			return Written{}, err
		}
		parts = append(parts, app...)
		s.meta.Bytes += size
	}
	s.meta.Parts = uint64(len(parts))
	return Written{Meta: s.meta, Root: transfer.Root(s.meta, parts), Parts: parts}, nil
}

// writeParts hands over the parts of divisible state and returns them with the sum of their lengths.
func (s *Snapshot) writeParts(dst PartSink) (parts []transfer.Part, size uint64, err error) {
	infos, err := s.parts.Parts()
	if err != nil {
		return nil, 0, fmt.Errorf("parts of application state: %w", err)
	}
	if len(infos) > smr.MaxParts {
		return nil, 0, fmt.Errorf("application state of %d parts, at most %d", len(infos), smr.MaxParts)
	}
	keeper, _ := dst.(PartKeeper)
	parts = make([]transfer.Part, 0, len(infos))
	var data []byte
	for i, info := range infos {
		if info.Bytes == 0 || info.Bytes > smr.MaxPartBytes || i > 0 && info.ID <= infos[i-1].ID {
			return nil, 0, fmt.Errorf("part %d of application state has %d bytes (1 to %d) or comes out of order", info.ID, info.Bytes, smr.MaxPartBytes)
		}
		p := transfer.Part{Section: transfer.SectionApplication, ID: info.ID, Bytes: uint32(info.Bytes), Digest: info.Digest}
		parts = append(parts, p)
		size += info.Bytes
		if keeper != nil && keeper.Keep(p) {
			continue
		}
		if data, err = s.parts.ReadPart(data[:0], info.ID); err != nil {
			return nil, 0, fmt.Errorf("read part %d of application state: %w", info.ID, err)
		}
		// What is stored under a digest must have it, or it is found damaged when it is needed.
		if sha256.Sum256(data) != info.Digest {
			return nil, 0, fmt.Errorf("part %d of application state does not match its digest", info.ID)
		}
		if err := dst.Part(p, data); err != nil {
			return nil, 0, err
		}
	}
	return parts, size, nil
}

// cutter cuts a stream into parts.
type cutter struct {
	section transfer.Section
	dst     PartSink
	buf     []byte
	total   uint64
	parts   []transfer.Part
}

func newCutter(s transfer.Section, dst PartSink) *cutter {
	return &cutter{section: s, dst: dst}
}

// Write implements io.Writer.
func (c *cutter) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		k := min(len(rest), transfer.StreamPartBytes-len(c.buf))
		c.buf = append(c.buf, rest[:k]...)
		rest = rest[k:]
		if len(c.buf) == transfer.StreamPartBytes {
			if err := c.cut(); err != nil {
				return 0, err
			}
		}
	}
	return len(b), nil
}

// cut ends the open part, if it holds anything.
func (c *cutter) cut() error {
	if len(c.buf) == 0 {
		return nil
	}
	p := transfer.Part{Section: c.section, ID: smr.PartID(len(c.parts)), Bytes: uint32(len(c.buf)), Digest: sha256.Sum256(c.buf)}
	c.parts = append(c.parts, p)
	c.total += uint64(len(c.buf))
	err := c.dst.Part(p, c.buf)
	c.buf = c.buf[:0]
	return err
}

// PartSource is where a checkpoint is read from: as the stream of all its parts or, after the session
// table was read off that, part by part.
type PartSource interface {
	io.Reader
	// PartList returns the parts in order.
	PartList() []transfer.Part
	// ReadPart appends the bytes of part i to dst; they match its digest.
	ReadPart(dst []byte, i int) ([]byte, error)
}

// Restore replaces all state by a checkpoint: m is its meta, r its stream, both already verified
// against a root that a quorum certified, or that this replica wrote itself. For divisible state r
// must be a PartSource, and only the parts that differ from those of the present state are read. On
// error the core is as before, except that divisible state which failed to be restored fences it.
// The read gate closes.
func (c *Core) Restore(m Meta, r io.Reader) error {
	if c.fenced != nil {
		return c.fenced
	}
	if m.Table > m.Bytes || m.Bytes > 1<<62 {
		return errors.New("checkpoint meta: impossible sizes")
	}
	var buf bytes.Buffer
	if n, err := io.CopyN(&buf, r, int64(m.Table)); err != nil {
		return fmt.Errorf("session table: %d of %d bytes: %w", n, m.Table, err)
	}
	t, err := decodeTable(buf.Bytes(), c.table.limits)
	if err != nil {
		return err
	}
	if have := kindOf(c.service.State()); have != m.Kind {
		return fmt.Errorf("the checkpoint holds application state of kind %d and the application has kind %d", m.Kind, have)
	}
	switch st := c.service.State().(type) {
	case smr.Monolithic:
		if err := st.Restore(io.LimitReader(r, int64(m.Bytes-m.Table))); err != nil {
			return fmt.Errorf("restore application state: %w", err)
		}
	case smr.Divisible:
		src, ok := r.(PartSource)
		if !ok {
			return errors.New("divisible state cannot be restored from a stream")
		}
		if err := restoreParts(m, src, st); err != nil {
			c.fenced = &FencedError{Seq: m.Seq, Cause: fmt.Errorf("restore application state: %w", err)}
			return c.fenced
		}
	}
	c.table = t
	c.executed, c.chain, c.epoch, c.view, c.time, c.membership = m.Seq, m.Chain, m.Epoch, m.View, m.Time, m.Membership
	c.SetReadGate(0, false)
	return nil
}

func kindOf(s smr.State) transfer.StateKind {
	switch s.(type) {
	case smr.Monolithic:
		return transfer.StateMonolithic
	case smr.Divisible:
		return transfer.StateDivisible
	}
	return transfer.StateNone
}

// restoreParts turns st into what src holds, by the parts that differ.
func restoreParts(m Meta, src PartSource, st smr.Divisible) error {
	have, err := presentParts(st)
	if err != nil { // left half restored by a run that was interrupted: nothing of it counts
		if err := st.Reset(); err != nil {
			return err
		}
		if have, err = presentParts(st); err != nil {
			return err
		}
	}
	w := st.Begin()
	if err := putParts(m, src, have, w); err != nil {
		w.Abort()
		return err
	}
	return w.Commit()
}

func presentParts(st smr.Divisible) ([]smr.PartInfo, error) {
	f := st.Freeze()
	defer f.Release()
	return f.Parts()
}

// putParts walks along both lists of parts, which ascend by id.
func putParts(m Meta, src PartSource, have []smr.PartInfo, w smr.PartWriter) error {
	var data []byte
	var gone []smr.PartID
	for i, p := range src.PartList() {
		if uint64(i) < m.TableParts {
			continue
		}
		for len(have) > 0 && have[0].ID < p.ID {
			gone, have = append(gone, have[0].ID), have[1:]
		}
		same := false
		if len(have) > 0 && have[0].ID == p.ID {
			same, have = have[0].Digest == p.Digest, have[1:]
		}
		if same {
			continue
		}
		var err error
		if data, err = src.ReadPart(data[:0], i); err != nil {
			return err
		}
		if err := w.Put(smr.PartInfo{ID: p.ID, Bytes: uint64(p.Bytes), Digest: p.Digest}, data); err != nil {
			return err
		}
	}
	for _, p := range have {
		gone = append(gone, p.ID)
	}
	for _, id := range gone {
		if err := w.Delete(id); err != nil {
			return err
		}
	}
	return nil
}

// Genesis makes the application's state that of a new instance, for a core that starts without a
// checkpoint: divisible state on disk may be left over from an earlier run.
func (c *Core) Genesis() error {
	if st, ok := c.service.State().(smr.Divisible); ok {
		return st.Reset()
	}
	return nil
}

// RootOf writes the state to nowhere and returns its root: what tests and the simulator compare.
func (c *Core) RootOf() (smr.Digest, error) {
	s, err := c.Freeze()
	if err != nil {
		return smr.Digest{}, err
	}
	defer s.Release()
	w, err := s.Write(forRoot{})
	return w.Root, err
}

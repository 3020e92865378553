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
// a stream, and the application's: monolithic state is a second stream. Its root is a pure function
// of the replicated state. Write and Release belong to one goroutine, which need not be the
// executor's.
type Snapshot struct {
	meta  Meta // before Write, numbers of parts and bytes are not set
	table frozenTable
	app   smr.Frozen // nil for an application without state
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

// ToWriter writes the bytes of all parts to w, one after the other.
func ToWriter(w io.Writer) PartSink { return partWriter{w} }

type partWriter struct{ io.Writer }

// Part implements PartSink.
func (w partWriter) Part(_ transfer.Part, data []byte) error {
	_, err := w.Write(data)
	return err
}

// ErrState is returned by Freeze for an application whose state cannot be captured.
var ErrState = errors.New("the application's state is not monolithic")

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
	default:
		return nil, ErrState
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
	*s = Snapshot{}
}

// Write hands the parts to dst and computes the root. It may be called once.
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
	s.meta.Parts = uint64(len(parts))
	return Written{Meta: s.meta, Root: transfer.Root(s.meta, parts), Parts: parts}, nil
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

// Restore replaces all state by a checkpoint: m is its meta, r its stream, both already verified
// against a root that a quorum certified, or that this replica wrote itself. On error the core is
// as before. The read gate closes.
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
	app := io.LimitReader(r, int64(m.Bytes-m.Table))
	switch st := c.service.State().(type) {
	case nil:
		if m.Bytes != m.Table {
			return errors.New("the checkpoint holds application state and the application has none")
		}
	case smr.Monolithic:
		if err := st.Restore(app); err != nil {
			return fmt.Errorf("restore application state: %w", err)
		}
	default:
		return ErrState
	}
	c.table = t
	c.executed, c.chain, c.epoch, c.view, c.time, c.membership = m.Seq, m.Chain, m.Epoch, m.View, m.Time, m.Membership
	c.SetReadGate(0, false)
	return nil
}

// RootOf writes the state to nowhere and returns its root: what tests and the simulator compare.
func (c *Core) RootOf() (smr.Digest, error) {
	s, err := c.Freeze()
	if err != nil {
		return smr.Digest{}, err
	}
	defer s.Release()
	w, err := s.Write(ToWriter(io.Discard))
	return w.Root, err
}

package execution

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime/debug"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// PartBytes is the size of the parts into which a checkpoint's bytes are cut, the last one shorter.
const PartBytes = 1 << 20

// Snapshot is the state after a batch, captured. Its bytes are one stream of two sections:
//
//	session table  Meta.Table bytes, canonical
//	application    the rest, as the application's Frozen wrote it
//
// and its root is protocol.MerkleRoot over (Meta digest, digest of each part of PartBytes of the
// stream): a pure function of the replicated state. Write and Release belong to one goroutine,
// which need not be the executor's.
type Snapshot struct {
	meta  Meta // Bytes and, before Write, Table are not set
	table frozenTable
	app   smr.Frozen // nil for an application without state
}

// Written is what Write wrote.
type Written struct {
	Meta  Meta
	Root  smr.Digest
	Parts []smr.Digest
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
		s.app = st.Freeze()
	default:
		return nil, ErrState
	}
	s.table = c.table.freeze()
	return s, nil
}

// Seq returns the sequence number after which the state was captured.
func (s *Snapshot) Seq() smr.SeqNo { return s.meta.Seq }

// Meta returns what is known of the checkpoint before it is written: all but Table and Bytes.
func (s *Snapshot) Meta() Meta { return s.meta }

// Release frees what the snapshot holds; the snapshot is of no use after it.
func (s *Snapshot) Release() {
	if s.app != nil {
		s.app.Release()
	}
	*s = Snapshot{}
}

// Write writes the stream to dst and computes the root. It may be called once.
func (s *Snapshot) Write(dst io.Writer) (Written, error) {
	p := &parts{dst: dst, h: sha256.New()}
	s.meta.Table = s.table.size()
	_, err := s.table.append(nil, func(b []byte) ([]byte, error) {
		_, err := p.Write(b)
		return b[:0], err
	})
	if err != nil {
		return Written{}, err
	}
	if p.total != s.meta.Table {
		return Written{}, fmt.Errorf("session table of %d bytes announced as %d", p.total, s.meta.Table)
	}
	if s.app != nil {
		if _, err := s.app.WriteTo(p); err != nil {
			return Written{}, fmt.Errorf("write application state: %w", err)
		}
	}
	p.cut()
	s.meta.Bytes = p.total
	return Written{Meta: s.meta, Root: Root(s.meta, p.digests), Parts: p.digests}, nil
}

// Root computes a checkpoint's root from its meta and the digests of its parts.
func Root(m Meta, digests []smr.Digest) smr.Digest {
	return protocol.MerkleRoot(append([]smr.Digest{m.Digest()}, digests...))
}

// parts passes a stream on and digests it in parts.
type parts struct {
	dst     io.Writer
	h       hash.Hash
	in      int // bytes of the open part
	total   uint64
	digests []smr.Digest
}

func (p *parts) Write(b []byte) (int, error) {
	n, err := p.dst.Write(b)
	if err != nil {
		return n, err
	}
	p.total += uint64(len(b))
	for rest := b; len(rest) > 0; {
		k := min(len(rest), PartBytes-p.in)
		p.h.Write(rest[:k])
		if p.in += k; p.in == PartBytes {
			p.cut()
		}
		rest = rest[k:]
	}
	return len(b), nil
}

// cut ends the open part, if it holds anything.
func (p *parts) cut() {
	if p.in == 0 {
		return
	}
	p.digests = append(p.digests, smr.Digest(p.h.Sum(nil)))
	p.h.Reset()
	p.in = 0
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
	w, err := s.Write(io.Discard)
	return w.Root, err
}

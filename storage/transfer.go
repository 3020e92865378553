package storage

import (
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// Receiver does what the receiving side of state transfer asks of a disk. It belongs to one goroutine,
// which is not the loop's. It holds one part at a time.
type Receiver struct {
	disk Disk
	in   Incoming
}

// NewReceiver returns a receiver of checkpoints onto disk.
func NewReceiver(disk Disk) *Receiver { return &Receiver{disk: disk} }

// Do performs op. An adopted checkpoint is on disk; the caller restores execution from it. answer is
// false for an operation that has no result.
func (r *Receiver) Do(op transfer.StateOp) (done transfer.StateDone, answer bool) {
	done = transfer.StateDone{Try: op.Try, Kind: op.Kind, Index: op.Index, Bytes: len(op.Data), Parts: op.Parts}
	if op.Kind == transfer.OpDrop {
		if r.in != nil {
			_ = r.in.Drop() // what stays is removed by the next transfer
			r.in = nil
		}
		return done, false
	}
	done.Err = r.do(op, &done)
	return done, true
}

func (r *Receiver) do(op transfer.StateOp, done *transfer.StateDone) (err error) {
	if op.Kind == transfer.OpBegin {
		if err = r.Close(); err != nil {
			return err
		}
		r.in, err = r.disk.BeginIncoming(op.Meta, op.Root)
		return err
	}
	if r.in == nil {
		return errNoIncoming
	}
	switch op.Kind {
	case transfer.OpStage:
		done.Held, err = r.in.Stage(op.Index, op.Parts)
	case transfer.OpPut:
		err = r.in.Put(op.Index, op.Data)
	case transfer.OpAdopt:
		var d *Descriptor
		if d, err = r.in.Adopt(); err == nil {
			done.Meta, r.in = d.Meta, nil
		}
	default:
		err = fmt.Errorf("unknown operation %d", op.Kind)
	}
	return err
}

// Close keeps what was received for a later transfer.
func (r *Receiver) Close() error {
	if r.in == nil {
		return nil
	}
	err := r.in.Close()
	r.in = nil
	return err
}

// Server answers what others ask of the checkpoints on a disk. It belongs to one goroutine, which is
// not the loop's. The checkpoint asked for last stays open, so that it can be read to the end though
// newer ones replace it; an older one that is asked for again has gone.
type Server struct {
	disk Disk
	open [2]*served // two receivers may want two
	// roots of checkpoints that were opened, so that who asks for another root there costs nothing.
	roots [4]position
	next  int // in roots
	buf   []byte
}

// position is a checkpoint's place and root.
type position struct {
	seq  smr.SeqNo
	root smr.Digest
}

// served is a checkpoint that is open.
type served struct {
	r    *CheckpointReader
	tree *protocol.MerkleTree
}

// NewServer returns a server of the checkpoints on disk.
func NewServer(disk Disk) *Server { return &Server{disk: disk} }

// Answer returns the payload that answers q. The error, which is for the log only, says why the
// answer is that the checkpoint is not here although it should be.
func (s *Server) Answer(q transfer.StateRequest) (payload []byte, err error) {
	c, err := s.find(q.Seq, q.Root)
	if c == nil {
		return transfer.EncodeGone(q), err
	}
	if q.What == transfer.WhatPage {
		return transfer.EncodePage(q, c.r.Meta, c.r.Parts, c.tree), nil
	}
	if q.Index >= uint64(len(c.r.Parts)) {
		return transfer.EncodeGone(q), nil
	}
	if s.buf, err = c.r.ReadPart(s.buf[:0], int(q.Index)); err != nil {
		return transfer.EncodeGone(q), err // a rotten part is not sent: others have it
	}
	return transfer.EncodePart(q, s.buf), nil
}

func (s *Server) find(seq smr.SeqNo, root smr.Digest) (*served, error) {
	for _, c := range s.open {
		if c != nil && c.r.Seq == seq && c.r.Root == root {
			return c, nil
		}
	}
	for _, p := range s.roots {
		if p.seq == seq && p.root != root {
			return nil, nil
		}
	}
	r, err := s.disk.OpenCheckpoint(seq)
	if err != nil || r == nil {
		return nil, err
	}
	s.roots[s.next%len(s.roots)] = position{seq, r.Root}
	s.next++
	if r.Root != root {
		return nil, r.Close()
	}
	at := 0
	if s.open[0] != nil && s.open[1] == nil || s.open[0] != nil && s.open[0].r.Seq > s.open[1].r.Seq {
		at = 1
	}
	if old := s.open[at]; old != nil {
		_ = old.r.Close() // it was only read
	}
	s.open[at] = &served{r, transfer.NewPages(r.Meta, r.Parts)}
	return s.open[at], nil
}

// Close closes what is open.
func (s *Server) Close() {
	for i, c := range s.open {
		if c != nil {
			_ = c.r.Close() // it was only read
			s.open[i] = nil
		}
	}
}

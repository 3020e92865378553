package kv

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/state"
)

// A snapshot:
//
//	magic    8 bytes
//	last     8, big endian
//	deletes  8 each, deleteBuckets of them
//	count    8
//	pairs    ascending by key: varint length, key; varint length, value; varint version
const snapshotMagic = "atlaskv1"

// frozen is a captured store.
type frozen struct {
	tree    *state.Tree[entry]
	deletes [deleteBuckets]smr.SeqNo
	last    smr.SeqNo
}

// Freeze implements smr.Monolithic, in constant time.
func (s *Store) Freeze() smr.Frozen {
	return &frozen{tree: s.tree.Clone(), deletes: s.deletes, last: s.last}
}

// Release implements smr.Frozen.
func (f *frozen) Release() { f.tree = nil }

// WriteTo implements smr.Frozen.
func (f *frozen) WriteTo(w io.Writer) (int64, error) {
	cw := &countWriter{w: w}
	bw := bufio.NewWriterSize(cw, 256<<10)
	head := append(make([]byte, 0, 24+8*deleteBuckets), snapshotMagic...)
	head = binary.BigEndian.AppendUint64(head, uint64(f.last))
	for _, v := range f.deletes {
		head = binary.BigEndian.AppendUint64(head, uint64(v))
	}
	head = binary.BigEndian.AppendUint64(head, uint64(f.tree.Len()))
	bw.Write(head)
	var buf []byte
	var err error
	f.tree.Ascend("", func(key string, e entry) bool {
		buf = binary.AppendUvarint(appendBytes(appendBytes(buf[:0], key), e.value), uint64(e.version))
		_, err = bw.Write(buf)
		return err == nil
	})
	if err == nil {
		err = bw.Flush()
	}
	return cw.n, err
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

var errSnapshot = errors.New("bad kv snapshot")

// Restore implements smr.Monolithic.
func (s *Store) Restore(r io.Reader) error {
	br := bufio.NewReaderSize(r, 256<<10)
	head := make([]byte, 8+8+8*deleteBuckets+8)
	if _, err := io.ReadFull(br, head); err != nil {
		return fmt.Errorf("%w: %w", errSnapshot, err)
	}
	if string(head[:8]) != snapshotMagic {
		return fmt.Errorf("%w: magic", errSnapshot)
	}
	n := New()
	n.last = smr.SeqNo(binary.BigEndian.Uint64(head[8:]))
	for i := range n.deletes {
		n.deletes[i] = smr.SeqNo(binary.BigEndian.Uint64(head[16+8*i:]))
	}
	prev := ""
	for k := binary.BigEndian.Uint64(head[len(head)-8:]); k > 0; k-- {
		key, err := readBytes(br, MaxKeyBytes)
		if err != nil {
			return err
		}
		value, err := readBytes(br, MaxValueBytes)
		if err != nil {
			return err
		}
		version, err := binary.ReadUvarint(br)
		if err != nil {
			return fmt.Errorf("%w: %w", errSnapshot, err)
		}
		if n.Len() > 0 && string(key) <= prev {
			return fmt.Errorf("%w: keys out of order", errSnapshot)
		}
		prev = string(key)
		n.tree.Set(prev, entry{value, smr.SeqNo(version)})
	}
	if _, err := br.ReadByte(); err != io.EOF {
		return fmt.Errorf("%w: data after the last pair", errSnapshot)
	}
	*s = *n
	return nil
}

func readBytes(br *bufio.Reader, most uint64) ([]byte, error) {
	n, err := binary.ReadUvarint(br)
	if err != nil || n > most {
		return nil, fmt.Errorf("%w: length %d, at most %d (%v)", errSnapshot, n, most, err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(br, b); err != nil {
		return nil, fmt.Errorf("%w: %w", errSnapshot, err)
	}
	return b, nil
}

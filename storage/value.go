package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// valueVersion is the version byte of every value.
const valueVersion = 1

// sealBytes is what seal adds to a body.
const sealBytes = 1 + 4

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errValue = errors.New("malformed value")

// The tables of the log.
const (
	tableCert     = 'c'
	tableDecision = 'd'
	tableMeta     = 'm'
	tableProposal = 'p'
	tableState    = 's'
)

var (
	keyFloor    = []byte("mfloor")
	keyIdentity = []byte("midentity")
)

func seqKey(table byte, seq smr.SeqNo) []byte {
	return binary.BigEndian.AppendUint64(append(make([]byte, 0, 9), table), uint64(seq))
}

const proposalKeyBytes = 1 + 8 + 8 + 32

func proposalKey(seq smr.SeqNo, view smr.View, digest smr.Digest) []byte {
	k := append(make([]byte, 0, proposalKeyBytes), tableProposal)
	k = binary.BigEndian.AppendUint64(k, uint64(seq))
	k = binary.BigEndian.AppendUint64(k, uint64(view))
	return append(k, digest[:]...)
}

func stateKey(name uint8) []byte { return []byte{tableState, name} }

// keySeq returns the sequence number in a key of the tables that have one.
func keySeq(key []byte) (smr.SeqNo, bool) {
	if len(key) < 9 {
		return 0, false
	}
	return smr.SeqNo(binary.BigEndian.Uint64(key[1:])), true
}

// keyName describes a key for a person.
func keyName(key []byte) string {
	if len(key) == 0 {
		return "(empty key)"
	}
	seq, ok := keySeq(key)
	switch {
	case key[0] == tableProposal && len(key) == proposalKeyBytes:
		return fmt.Sprintf("proposal %d of view %d (%x)", seq, binary.BigEndian.Uint64(key[9:]), key[17:25])
	case key[0] == tableDecision && ok:
		return fmt.Sprintf("decision %d", seq)
	case key[0] == tableCert && ok:
		return fmt.Sprintf("certificate of checkpoint %d", seq)
	case key[0] == tableState && len(key) == 2:
		return fmt.Sprintf("vote state %d", key[1])
	}
	return fmt.Sprintf("%q", key)
}

// seal closes a value that body, led by its version byte, makes under key.
func seal(key, body []byte) []byte {
	sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body)
	return binary.LittleEndian.AppendUint32(body, sum)
}

// open checks a value and returns its body, which aliases value.
func open(key, value []byte) ([]byte, error) {
	if len(value) < sealBytes {
		return nil, corrupt("%s: value of %d bytes", keyName(key), len(value))
	}
	body, tail := value[:len(value)-4], value[len(value)-4:]
	if sum := crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, body); sum != binary.LittleEndian.Uint32(tail) {
		return nil, corrupt("%s: checksum mismatch", keyName(key))
	}
	if body[0] != valueVersion {
		return nil, fmt.Errorf("%w: %s has value version %d, this build reads %d; use the build that wrote it", ErrFormat, keyName(key), body[0], valueVersion)
	}
	return body[1:], nil
}

// newBody starts a value of about size bytes.
func newBody(size int) []byte { return append(make([]byte, 0, size+sealBytes), valueVersion) }

// appendProposal appends a proposal's body:
//
//	epoch  8
//	header uvarint length, bytes
//	count  uvarint
//	bundle uvarint length, bytes; count times
func appendProposal(dst []byte, r *protocol.Record, bundles []*smr.Bundle) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Epoch))
	dst = appendBytes(dst, r.Data)
	dst = binary.AppendUvarint(dst, uint64(len(bundles)))
	for _, b := range bundles {
		dst = appendBytes(dst, b.Raw)
	}
	return dst
}

type proposalValue struct {
	epoch   smr.Epoch
	header  []byte
	bundles [][]byte
}

// decodeProposal reads a proposal's body; the result aliases it.
func decodeProposal(body []byte) (proposalValue, error) {
	var v proposalValue
	d := decoder{rest: body}
	v.epoch = smr.Epoch(d.uint64())
	v.header = d.bytes()
	n := d.uvarint()
	if n > uint64(len(d.rest)) { // every bundle takes a byte at least
		return v, errValue
	}
	if n > 0 {
		v.bundles = make([][]byte, n)
	}
	for i := range v.bundles {
		v.bundles[i] = d.bytes()
	}
	return v, d.end()
}

// appendDecision appends a decision's body:
//
//	epoch  8
//	view   8
//	digest 32
//	proof  uvarint length, bytes
func appendDecision(dst []byte, r *protocol.Record) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Epoch))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.View))
	dst = append(dst, r.Digest[:]...)
	return appendBytes(dst, r.Data)
}

// decodeDecision reads a decision's body; Data aliases it.
func decodeDecision(seq smr.SeqNo, body []byte) (protocol.Record, error) {
	d := decoder{rest: body}
	r := protocol.Record{Kind: protocol.RecordDecision, Seq: seq}
	r.Epoch = smr.Epoch(d.uint64())
	r.View = smr.View(d.uint64())
	copy(r.Digest[:], d.take(32))
	r.Data = d.bytes()
	return r, d.end()
}

// appendState appends a vote state's body:
//
//	epoch  8
//	view   8
//	seq    8
//	digest 32
//	data   uvarint length, bytes
func appendState(dst []byte, r *protocol.Record) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Epoch))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.View))
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.Seq))
	dst = append(dst, r.Digest[:]...)
	return appendBytes(dst, r.Data)
}

// decodeState reads a vote state's body; Data aliases it.
func decodeState(name uint8, body []byte) (protocol.Record, error) {
	d := decoder{rest: body}
	r := protocol.Record{Kind: protocol.RecordState, Name: name}
	r.Epoch = smr.Epoch(d.uint64())
	r.View = smr.View(d.uint64())
	r.Seq = smr.SeqNo(d.uint64())
	copy(r.Digest[:], d.take(32))
	r.Data = d.bytes()
	return r, d.end()
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

// decoder reads fields off a body; after the first mistake it reads zeros.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.rest)) {
		d.bad = true
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if d.bad || n <= 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// bytes reads a length and so many bytes; none is nil.
func (d *decoder) bytes() []byte {
	b := d.take(d.uvarint())
	if len(b) == 0 {
		return nil
	}
	return b
}

func (d *decoder) end() error {
	if d.bad || len(d.rest) != 0 {
		return errValue
	}
	return nil
}

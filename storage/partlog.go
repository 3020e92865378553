package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/atlas-smr/smr"
)

// A pack file holds parts, one after the other, each with its digest in front:
//
//	magic     8    "ATLASPK1"
//	digest   32    SHA-256 of data         \
//	length    4    of data, big endian      | repeated
//	checksum  4    CRC-32C of digest and    |
//	               length, little endian    |
//	data      n                            /
//
// Packs are appended to during one run only. What a crash cut off at the end is never read: a
// checkpoint gets its name after its parts were synced.
const (
	packMagic      = "ATLASPK1"
	packSuffix     = ".pack"
	recordHead     = 32 + 4 + 4
	packBytes      = 128 << 20 // at which a pack is closed and another begun
	packWorthwhile = 2         // a pack is rewritten when less than one in so many of its bytes is of use
)

// partLog keeps parts by their digests: each once, whichever checkpoints have it. Parts are added,
// made durable together, and go when no checkpoint needs them. It is safe for concurrent use.
type partLog struct {
	fs    vfs.FS
	dir   string
	limit int64 // packBytes

	mu    sync.Mutex // guards what follows; held across reads and writes of packs
	index map[smr.Digest]*place
	packs map[uint64]*pack
	open  *pack  // the one that is appended to; nil before the first part
	next  uint64 // number of the next pack
	fresh bool   // a pack was made and the directory not synced since
	err   error  // of a failed write or sync: what was put since the last sync may be lost, so nothing goes on
	buf   []byte
	// moved and removed count, for tests and metrics, the parts that were rewritten to free their pack
	// and the packs that went.
	moved, removed int
}

// place says where a part is.
type place struct {
	pack  *pack
	at    int64 // of the data
	bytes uint32
	whole bool // written in this run, or read and found whole in it
}

// pack is one file.
type pack struct {
	id   uint64
	file vfs.File // nil until it is needed
	size int64
	pins int  // readers of checkpoints that have parts in it
	gone bool // nothing of it is needed but by those readers
}

// openPartLog indexes the packs in dir, which is made if it is not there.
func openPartLog(fs vfs.FS, dir string) (*partLog, error) {
	l := &partLog{fs: fs, dir: dir, limit: packBytes, index: make(map[smr.Digest]*place), packs: make(map[uint64]*pack), next: 1}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, explain("make", dir, err)
	}
	names, err := fs.List(dir)
	if err != nil {
		return nil, explain("list", dir, err)
	}
	slices.Sort(names)
	for _, name := range names {
		var id uint64
		if _, err := fmt.Sscanf(name, "%d"+packSuffix, &id); err != nil || name != packName(id) {
			continue
		}
		if err := l.scan(id); err != nil {
			return nil, errors.Join(err, l.close())
		}
		l.next = max(l.next, id+1)
	}
	return l, nil
}

func packName(id uint64) string { return fmt.Sprintf("%012d%s", id, packSuffix) }

func (l *partLog) path(id uint64) string { return l.fs.PathJoin(l.dir, packName(id)) }

// scan indexes one pack, as far as its records are whole.
func (l *partLog) scan(id uint64) error {
	p := &pack{id: id}
	if err := l.reach(p); err != nil {
		return err
	}
	info, err := p.file.Stat()
	if err != nil {
		return explain("read", l.path(id), err)
	}
	p.size = info.Size()
	l.packs[id] = p
	head := make([]byte, recordHead)
	if p.size < int64(len(packMagic)) {
		return nil
	}
	if err := readAt(p.file, head[:len(packMagic)], 0); err != nil {
		return explain("read", l.path(id), err)
	}
	if string(head[:len(packMagic)]) != packMagic {
		return nil
	}
	for at := int64(len(packMagic)); at+recordHead <= p.size; {
		if err := readAt(p.file, head, at); err != nil {
			return explain("read", l.path(id), err)
		}
		n := binary.BigEndian.Uint32(head[32:])
		if crc32.Checksum(head[:36], castagnoli) != binary.LittleEndian.Uint32(head[36:]) || at+recordHead+int64(n) > p.size {
			return nil
		}
		l.index[smr.Digest(head[:32])] = &place{pack: p, at: at + recordHead, bytes: n}
		at += recordHead + int64(n)
	}
	return nil
}

// reach opens a pack's file for reading.
func (l *partLog) reach(p *pack) (err error) {
	if p.file == nil {
		p.file, err = l.fs.Open(l.path(p.id))
	}
	return explain("open", l.path(p.id), err)
}

// unused reports whether there are no packs.
func (l *partLog) unused() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.packs) == 0
}

// has reports whether the part is here, whole. One from an earlier run is read to know.
func (l *partLog) has(digest smr.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.index[digest]
	if p == nil {
		return false
	}
	if !p.whole {
		if _, err := l.read(nil, digest, p); err != nil {
			return false
		}
	}
	return true
}

// put adds a part; digest is that of data, which the caller may reuse. It is durable after sync.
func (l *partLog) put(digest smr.Digest, data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.index[digest]; l.err == nil && p != nil && p.whole {
		return nil
	}
	return l.append(digest, data)
}

// fail makes the error of a write or sync stick.
func (l *partLog) fail(what string, p *pack, err error) error {
	if l.err == nil {
		l.err = explain(what, l.path(p.id), err)
	}
	return l.err
}

func (l *partLog) append(digest smr.Digest, data []byte) error {
	if l.err != nil {
		return l.err
	}
	if l.open != nil && l.open.size >= l.limit {
		if err := l.seal(); err != nil {
			return err
		}
	}
	if l.open == nil {
		if err := l.begin(); err != nil {
			return err
		}
	}
	head := append(l.buf[:0], digest[:]...)
	head = binary.BigEndian.AppendUint32(head, uint32(len(data)))
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	l.buf = append(head, data...)
	p := l.open
	n, err := p.file.Write(l.buf)
	at := p.size
	p.size += int64(n)
	if err != nil {
		return l.fail("write", p, err)
	}
	l.index[digest] = &place{pack: p, at: at + recordHead, bytes: uint32(len(data)), whole: true}
	return nil
}

func (l *partLog) begin() error {
	p := &pack{id: l.next}
	f, err := l.fs.Create(l.path(p.id), vfs.WriteCategoryUnspecified)
	if err != nil {
		return l.fail("create", p, err)
	}
	l.next++
	p.file = f
	l.packs[p.id], l.open, l.fresh = p, p, true
	n, err := f.Write([]byte(packMagic))
	p.size = int64(n)
	return l.fail("write", p, err)
}

// seal ends appending to the open pack; its file is opened for reading when needed.
func (l *partLog) seal() error {
	p := l.open
	l.open = nil
	err := p.file.Sync()
	if cerr := p.file.Close(); err == nil {
		err = cerr
	}
	p.file = nil
	return l.fail("sync", p, err)
}

// sync makes all parts durable.
func (l *partLog) sync() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.syncLocked()
}

func (l *partLog) syncLocked() error {
	if l.err != nil {
		return l.err
	}
	if l.open != nil {
		if err := l.seal(); err != nil {
			return err
		}
	}
	if !l.fresh {
		return nil
	}
	l.fresh = false
	if l.err == nil {
		l.err = syncDir(l.fs, l.dir)
	}
	return l.err
}

// read appends a part to dst, having checked it. One that is damaged is forgotten, so that whoever
// has its bytes writes it again. mu is held.
func (l *partLog) read(dst []byte, digest smr.Digest, p *place) ([]byte, error) {
	at := len(dst)
	if p.pack == l.open {
		if err := l.seal(); err != nil {
			return dst, err
		}
	}
	if err := l.reach(p.pack); err != nil {
		return dst, err
	}
	dst = append(dst, make([]byte, p.bytes)...)
	if err := readAt(p.pack.file, dst[at:], p.at); err != nil {
		return dst[:at], explain("read", l.path(p.pack.id), err)
	}
	if sha256.Sum256(dst[at:]) != digest {
		if l.index[digest] == p {
			delete(l.index, digest)
		}
		return dst[:at], fmt.Errorf("%w: %s: the part at %d does not match its digest", ErrCorrupt, l.path(p.pack.id), p.at)
	}
	p.whole = true
	return dst, nil
}

// pinnedParts is a set of parts that stay readable until release, whatever happens to the log.
type pinnedParts struct {
	l      *partLog
	places []*place
}

// pin finds the parts with the given digests. One that is not here is ErrCorrupt: a checkpoint names
// it.
func (l *partLog) pin(digests []smr.Digest) (*pinnedParts, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &pinnedParts{l: l, places: make([]*place, len(digests))}
	for i, d := range digests {
		if s.places[i] = l.index[d]; s.places[i] == nil {
			return nil, fmt.Errorf("%w: part %v is not in %s", ErrCorrupt, d, l.dir)
		}
	}
	for _, p := range s.places {
		p.pack.pins++
	}
	return s, nil
}

// read appends part i, whose digest is given, to dst.
func (s *pinnedParts) read(dst []byte, i int, digest smr.Digest) ([]byte, error) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.l.read(dst, digest, s.places[i])
}

// release lets the log remove what only this set kept.
func (s *pinnedParts) release() (err error) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	for _, p := range s.places {
		if p.pack.pins--; p.pack.gone && p.pack.pins == 0 {
			err = errors.Join(err, s.l.remove(p.pack))
		}
	}
	s.places = nil
	return err
}

// collect forgets every part that is not live and removes the packs that are of no use. A pack of
// little use is emptied first: what lives in it is written again. An interrupted collect loses
// nothing; the next one goes on.
func (l *partLog) collect(live map[smr.Digest]bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	useful := make(map[*pack]int64)
	for d, p := range l.index { // order-free: counts and deletes
		if !live[d] {
			delete(l.index, d)
			continue
		}
		useful[p.pack] += recordHead + int64(p.bytes)
	}
	for _, id := range l.ids() {
		p := l.packs[id]
		if p == l.open || p.gone || useful[p]*packWorthwhile >= p.size {
			continue
		}
		if err := l.empty(p); err != nil {
			return err
		}
	}
	if err := l.syncLocked(); err != nil {
		return err
	}
	for _, id := range l.ids() {
		if p := l.packs[id]; p.gone && p.pins == 0 {
			if err := l.remove(p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *partLog) ids() []uint64 {
	ids := make([]uint64, 0, len(l.packs))
	for id := range l.packs { // order-free: sorted below
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// empty writes what lives in p again, elsewhere. A damaged part stays behind: it is lost, and whoever
// needs it is told.
func (l *partLog) empty(p *pack) error {
	var move []smr.Digest
	for d, at := range l.index { // order-free: sorted below
		if at.pack == p {
			move = append(move, d)
		}
	}
	slices.SortFunc(move, func(a, b smr.Digest) int { return int(min(1, max(-1, l.index[a].at-l.index[b].at))) })
	var data []byte
	for _, d := range move {
		var err error
		if data, err = l.read(data[:0], d, l.index[d]); errors.Is(err, ErrCorrupt) {
			continue
		}
		if err == nil {
			err = l.append(d, data)
		}
		if err != nil {
			return err
		}
		l.moved++
	}
	p.gone = true
	return nil
}

func (l *partLog) remove(p *pack) error {
	delete(l.packs, p.id)
	l.removed++
	if p.file != nil {
		_ = p.file.Close()
		p.file = nil
	}
	return explain("remove", l.path(p.id), l.fs.Remove(l.path(p.id)))
}

// close closes all files. What was not synced may be lost.
func (l *partLog) close() (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = nil
	for _, id := range l.ids() {
		if p := l.packs[id]; p.file != nil {
			err = errors.Join(err, p.file.Close())
			p.file = nil
		}
	}
	return err
}

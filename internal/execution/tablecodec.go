package execution

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/mutant"
)

// The session table's canonical encoding, all integers big endian:
//
//	magic     8 bytes
//	tick      8
//	clients   4, then for each, ascending by id:
//	          id 8, key 32, nonce 8, last session 8
//	sessions  4, then for each, ascending by id:
//	          id 8, client 8, used 8, low 8
//	          window: 2 bytes n, then n bits from low on (bit i of byte i/8), the last one set
//	          blocks: 4, then for each, oldest first: lo 8, hi 8, length 4, bytes
const tableMagic = "atlsess1"

// frozenTable is the session table as of a moment. Sessions are shared with the table, which copies
// them before it changes one.
type frozenTable struct {
	tick     uint64
	clients  []client // without their session lists
	sessions []*session
}

// freeze captures the table; sessions changed from now on are copied first.
func (t *table) freeze() frozenTable {
	t.gen++
	f := frozenTable{tick: t.tick, clients: make([]client, 0, len(t.clients)), sessions: make([]*session, 0, len(t.sessions))}
	for _, c := range t.clients { // order-free: append sorts
		f.clients = append(f.clients, client{id: c.id, key: c.key, nonce: c.nonce, last: c.last})
	}
	for _, s := range t.sessions { // order-free: append sorts
		f.sessions = append(f.sessions, s)
	}
	if mutant.On(mutant.SessionsNotSaved) {
		f.sessions = nil
	}
	return f
}

// size returns the length of the encoding.
func (f *frozenTable) size() uint64 {
	n := uint64(8 + 8 + 4 + 4 + 56*len(f.clients))
	for _, s := range f.sessions {
		n += 8*4 + 2 + uint64(s.top()+7)/8 + 4
		for _, b := range s.cached() {
			n += 20 + uint64(len(b.enc))
		}
	}
	return n
}

// append appends the canonical encoding to dst, calling flush whenever a good deal has gathered;
// flush returns the buffer to go on with.
func (f *frozenTable) append(dst []byte, flush func([]byte) ([]byte, error)) (_ []byte, err error) {
	slices.SortFunc(f.clients, func(a, b client) int { return compare(a.id, b.id) })
	slices.SortFunc(f.sessions, func(a, b *session) int { return compare(a.id, b.id) })
	dst = append(dst, tableMagic...)
	dst = binary.BigEndian.AppendUint64(dst, f.tick)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.clients)))
	for _, c := range f.clients {
		dst = binary.BigEndian.AppendUint64(dst, uint64(c.id))
		dst = append(dst, c.key[:]...)
		dst = binary.BigEndian.AppendUint64(dst, c.nonce)
		dst = binary.BigEndian.AppendUint64(dst, uint64(c.last))
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.sessions)))
	for _, s := range f.sessions {
		dst = s.append(dst)
		if len(dst) >= blockBytes {
			if dst, err = flush(dst); err != nil {
				return nil, err
			}
		}
	}
	return flush(dst)
}

func compare[T ~uint64](a, b T) int {
	if a < b {
		return -1
	} else if a > b {
		return 1
	}
	return 0
}

func (s *session) append(dst []byte) []byte {
	for _, v := range []uint64{uint64(s.id), uint64(s.client), s.used, uint64(s.low)} {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	n := s.top()
	dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	at := len(dst)
	dst = append(dst, make([]byte, (n+7)/8)...)
	for i := range n {
		if s.has(s.low + smr.OpNumber(i)) {
			dst[at+i/8] |= 1 << (i % 8)
		}
	}
	cached := s.cached()
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(cached)))
	for _, b := range cached {
		dst = binary.BigEndian.AppendUint64(dst, uint64(b.lo))
		dst = binary.BigEndian.AppendUint64(dst, uint64(b.hi))
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(b.enc)))
		dst = append(dst, b.enc...)
	}
	return dst
}

// errTable is wrapped by every refusal of an encoded session table.
var errTable = errors.New("bad session table")

// tableReader reads fields off an encoding; after the first failure all reads are zero.
type tableReader struct {
	b   []byte
	err error
}

func (r *tableReader) take(n int) []byte {
	if r.err != nil || n > len(r.b) {
		if r.err == nil {
			r.err = fmt.Errorf("%w: truncated", errTable)
		}
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *tableReader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

func (r *tableReader) u32() int {
	if b := r.take(4); b != nil {
		return int(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *tableReader) u16() int {
	if b := r.take(2); b != nil {
		return int(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *tableReader) refuse(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{errTable}, args...)...)
	}
}

// decodeTable reads a canonical encoding that fills all of b. It accepts exactly what append
// writes for a table under limits.
func decodeTable(b []byte, limits Limits) (*table, error) {
	r := &tableReader{b: b}
	t := newTable(limits, nil)
	if string(r.take(8)) != tableMagic {
		r.refuse("magic")
	}
	t.tick = r.u64()
	var prev uint64
	for n := r.u32(); n > 0 && r.err == nil; n-- {
		c := &client{id: smr.ClientID(r.u64())}
		copy(c.key[:], r.take(32))
		c.nonce, c.last = r.u64(), smr.SessionID(r.u64())
		if uint64(c.id) <= prev {
			r.refuse("client %d after %d", c.id, prev)
		}
		prev = uint64(c.id)
		t.clients[c.id] = c
	}
	prev = 0
	used := make(map[uint64]bool)
	for n := r.u32(); n > 0 && r.err == nil; n-- {
		s := r.session(limits)
		c := t.clients[s.client]
		if r.err != nil {
			break
		}
		if uint64(s.id) <= prev || c == nil || used[s.used] || s.used > t.tick {
			r.refuse("session %v of client %d, used at %d", s.id, s.client, s.used)
			break
		}
		prev, used[s.used] = uint64(s.id), true
		t.sessions[s.id] = s
		if c.sessions = append(c.sessions, s.id); len(c.sessions) > limits.SessionsPerClient {
			r.refuse("client %d has more than %d sessions", c.id, limits.SessionsPerClient)
		}
	}
	if len(r.b) != 0 {
		r.refuse("%d bytes too many", len(r.b))
	}
	if len(t.sessions) > limits.Sessions {
		r.refuse("%d sessions, at most %d", len(t.sessions), limits.Sessions)
	}
	if r.err != nil {
		return nil, r.err
	}
	return t, nil
}

func (r *tableReader) session(limits Limits) *session {
	s := &session{id: smr.SessionID(r.u64()), client: smr.ClientID(r.u64()), used: r.u64()}
	s.low = smr.OpNumber(r.u64())
	n := r.u16()
	set := r.take((n + 7) / 8)
	if n > smr.SessionWindow || s.low == 0 || s.low > 1<<62 {
		r.refuse("window of session %v", s.id)
	}
	if r.err != nil {
		return s
	}
	for i := range n {
		if set[i/8]&(1<<(i%8)) != 0 {
			s.set(s.low + smr.OpNumber(i))
		}
	}
	if n > 0 && (n+7)/8*8-bits.LeadingZeros8(set[len(set)-1]) != n {
		r.refuse("window of session %v is not canonical", s.id)
	}
	for k := r.u32(); k > 0 && r.err == nil; k-- {
		b := &block{lo: smr.OpNumber(r.u64()), hi: smr.OpNumber(r.u64())}
		b.enc = slices.Clone(r.take(r.u32()))
		if r.err == nil && !b.wellFormed() {
			r.refuse("cached replies of session %v", s.id)
		}
		s.blocks = append(s.blocks, b)
		s.bytes += b.cost()
	}
	if s.bytes > limits.ReplyCacheBytes {
		r.refuse("session %v caches %d bytes, at most %d", s.id, s.bytes, limits.ReplyCacheBytes)
	}
	return s
}

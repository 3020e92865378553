package execution

import (
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/mutant"
)

const windowWords = smr.SessionWindow / 64

// window says which op numbers of a session are consumed: all below low, and those in
// [low, low+SessionWindow) whose bit is set. Bit op%SessionWindow stands for op.
type window struct {
	low  smr.OpNumber // at least 1
	bits [windowWords]uint64
}

func (w *window) has(op smr.OpNumber) bool {
	k := op % smr.SessionWindow
	return w.bits[k/64]&(1<<(k%64)) != 0
}

func (w *window) set(op smr.OpNumber) {
	k := op % smr.SessionWindow
	w.bits[k/64] |= 1 << (k % 64)
}

// seen reports whether op is consumed; an op beyond the window is not.
func (w *window) seen(op smr.OpNumber) bool {
	return op < w.low || op-w.low < smr.SessionWindow && w.has(op)
}

// seenAll reports whether the n ops from first are consumed.
func (w *window) seenAll(first smr.OpNumber, n int) bool {
	for i := range n {
		if !w.seen(first + smr.OpNumber(i)) {
			return false
		}
	}
	return true
}

// advance raises low to acked, if that is higher.
func (w *window) advance(acked smr.OpNumber) {
	if acked <= w.low {
		return
	}
	if acked-w.low >= smr.SessionWindow || mutant.On(mutant.DoneForgotten) {
		w.bits = [windowWords]uint64{}
	} else {
		for op := w.low; op < acked; op++ {
			k := op % smr.SessionWindow
			w.bits[k/64] &^= 1 << (k % 64)
		}
	}
	w.low = acked
}

// top returns how far the window is used: the consumed ops all lie below low+top.
func (w *window) top() int {
	for n := smr.SessionWindow; n > 0; n-- {
		if w.has(w.low + smr.OpNumber(n-1)) {
			return n
		}
	}
	return 0
}

// block is a run of cached replies of one session, in ascending op order. It is immutable, shared
// by the table, its snapshots and replies under way.
type block struct {
	lo, hi smr.OpNumber // lowest and highest op in it
	enc    []byte       // the results as they travel: field 3 of wirepb.SessionReply, repeated
}

func (b *block) cost() int { return len(b.enc) + blockOverhead }

// session is one client session. It may be changed only while gen is the table's generation; a
// snapshot shares it otherwise.
type session struct {
	id     smr.SessionID
	client smr.ClientID
	used   uint64 // the table's tick at its last use; distinct in all sessions
	window
	blocks []*block // blocks[head:] in the order of execution
	head   int
	bytes  int // cost of blocks[head:]

	gen   uint64
	noted uint64 // Core's apply count when it was last put on the list of touched sessions
}

// clone returns a copy that may be changed in generation gen. Blocks are shared.
func (s *session) clone(gen uint64) *session {
	c := *s
	c.blocks = slices.Clone(s.blocks[s.head:])
	c.head = 0
	c.gen = gen
	return &c
}

// cached returns the blocks that are cached, oldest first.
func (s *session) cached() []*block { return s.blocks[s.head:] }

// trim drops blocks from the oldest on while the client has all their replies.
func (s *session) trim(low smr.OpNumber) {
	for s.head < len(s.blocks) && s.blocks[s.head].hi < low {
		s.pop()
	}
}

// cache adds a block, dropping the oldest beyond limit bytes.
func (s *session) cache(b *block, limit int) {
	s.blocks = append(s.blocks, b)
	s.bytes += b.cost()
	for s.bytes > limit {
		s.pop()
	}
}

func (s *session) pop() {
	s.bytes -= s.blocks[s.head].cost()
	s.blocks[s.head] = nil
	s.head++
	if s.head*2 >= len(s.blocks) {
		n := copy(s.blocks, s.blocks[s.head:])
		clear(s.blocks[n:])
		s.blocks, s.head = s.blocks[:n], 0
	}
}

// opSet is a set of ops of one bundle, as offsets from its first.
type opSet [smr.MaxBundleOps / 64]uint64

func (o *opSet) add(i int)      { o[i/64] |= 1 << (i % 64) }
func (o *opSet) has(i int) bool { return o[i/64]&(1<<(i%64)) != 0 }
func (o *opSet) drop(i int)     { o[i/64] &^= 1 << (i % 64) }

// pick returns the results in b of the n ops from first that are in want, and drops them from want.
func (b *block) pick(first smr.OpNumber, n int, want *opSet) []byte {
	if b.hi < first || b.lo >= first+smr.OpNumber(n) {
		return nil
	}
	var out []byte
	for rest := b.enc; len(rest) > 0; {
		op, size := peekResult(rest)
		if op >= first && op < first+smr.OpNumber(n) && want.has(int(op-first)) {
			out = append(out, rest[:size]...)
			want.drop(int(op - first))
		}
		rest = rest[size:]
	}
	return out
}

// appendResult appends one result as field 3 of wirepb.SessionReply. The op number is always
// written, first, so that peekResult finds it.
func appendResult(dst []byte, op uint64, o smr.Outcome, data []byte, seq smr.SeqNo) []byte {
	size := 1 + protowire.SizeVarint(op) + 1 + protowire.SizeVarint(uint64(o)) + 1 + protowire.SizeVarint(uint64(seq))
	if len(data) > 0 {
		size += 1 + protowire.SizeBytes(len(data))
	}
	dst = protowire.AppendTag(dst, 3, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	dst = protowire.AppendTag(dst, 1, protowire.VarintType)
	dst = protowire.AppendVarint(dst, op)
	dst = protowire.AppendTag(dst, 2, protowire.VarintType)
	dst = protowire.AppendVarint(dst, uint64(o))
	if len(data) > 0 {
		dst = protowire.AppendTag(dst, 3, protowire.BytesType)
		dst = protowire.AppendBytes(dst, data)
	}
	dst = protowire.AppendTag(dst, 4, protowire.VarintType)
	return protowire.AppendVarint(dst, uint64(seq))
}

// peekResult returns the op number of the first encoded result in b, made by appendResult, and the
// length of its encoding.
func peekResult(b []byte) (op smr.OpNumber, size int) {
	n, k := protowire.ConsumeVarint(b[1:])
	v, _ := protowire.ConsumeVarint(b[1+k+1:])
	return smr.OpNumber(v), 1 + k + int(n)
}

// wellFormed reports whether enc is what appendResult makes for ascending ops from lo to hi.
func (b *block) wellFormed() bool {
	var last smr.OpNumber
	count := 0
	for rest := b.enc; len(rest) > 0; count++ {
		op, o, data, seq, size, ok := readResult(rest)
		if !ok || count == 0 && op != b.lo || count > 0 && op <= last {
			return false
		}
		if string(appendResult(nil, uint64(op), o, data, seq)) != string(rest[:size]) {
			return false
		}
		last, rest = op, rest[size:]
	}
	return count > 0 && last == b.hi
}

// readResult reads the first encoded result in b, trusting nothing.
func readResult(b []byte) (op smr.OpNumber, o smr.Outcome, data []byte, seq smr.SeqNo, size int, ok bool) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 || num != 3 || typ != protowire.BytesType {
		return
	}
	msg, m := protowire.ConsumeBytes(b[n:])
	if m < 0 {
		return
	}
	size = n + m
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return
		}
		msg = msg[n:]
		if typ == protowire.BytesType && num == 3 {
			if data, n = protowire.ConsumeBytes(msg); n < 0 {
				return
			}
			msg = msg[n:]
			continue
		}
		v, n := protowire.ConsumeVarint(msg)
		if n < 0 || typ != protowire.VarintType {
			return
		}
		msg = msg[n:]
		switch num {
		case 1:
			op = smr.OpNumber(v)
		case 2:
			o = smr.Outcome(v)
		case 4:
			seq = smr.SeqNo(v)
		}
	}
	return op, o, data, seq, size, true
}

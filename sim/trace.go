package sim

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// trace hashes everything that happens and, if asked, writes it down. Two runs with equal hashes
// did the same things in the same order at the same virtual times.
type trace struct {
	sum uint64
	out io.Writer // nil: hash only
	clk *clock
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func newTrace(c *clock, out io.Writer) *trace { return &trace{sum: fnvOffset, out: out, clk: c} }

func (t *trace) word(x uint64) {
	t.sum = (t.sum ^ x) * fnvPrime
	t.sum ^= t.sum >> 29
}

// bytes folds b in, eight bytes at a time.
func (t *trace) bytes(b []byte) {
	t.word(uint64(len(b)))
	for len(b) >= 8 {
		t.word(binary.LittleEndian.Uint64(b))
		b = b[8:]
	}
	var last [8]byte
	copy(last[:], b)
	t.word(binary.LittleEndian.Uint64(last[:]))
}

// event records one thing that happened to a node (0: to none).
func (t *trace) event(kind string, node uint64, nums ...uint64) {
	t.word(uint64(t.clk.now))
	t.bytes([]byte(kind))
	t.word(node)
	for _, x := range nums {
		t.word(x)
	}
	if t.out != nil {
		fmt.Fprintf(t.out, "%12s %-10s %d %v\n", t.clk.now.Round(time.Microsecond), kind, node, nums)
	}
}

// note writes a line for the reader; it is not part of the hash.
func (t *trace) note(format string, args ...any) {
	if t.out != nil {
		fmt.Fprintf(t.out, "%12s   %s\n", t.clk.now.Round(time.Microsecond), fmt.Sprintf(format, args...))
	}
}

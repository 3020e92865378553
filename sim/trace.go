package sim

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"
)

// trace hashes everything that happens and, if asked, writes it down. Two runs with equal hashes
// did the same things in the same order at the same virtual times.
type trace struct {
	sum uint64
	out io.Writer // nil: hash only
	clk *clock
}

// TraceVersion is the version of the traces that this build writes and reads.
const TraceVersion = 2

const traceName = "smr sim trace"

// TraceInfo says what a trace is of.
type TraceInfo struct {
	Seed     uint64
	Replicas int    // asked for; 0: drawn from the seed
	Scenario string // asked for; empty: drawn from the seed
	Hash     string // at the end; empty if the trace was cut short
}

// ReadTrace reads the first and the last line of a trace. The error names a trace of another version.
func ReadTrace(r io.Reader) (TraceInfo, error) {
	var t TraceInfo
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<24)
	if !lines.Scan() {
		return t, fmt.Errorf("no %s: it is empty", traceName)
	}
	rest, ok := strings.CutPrefix(lines.Text(), traceName+" version ")
	var version int
	var scenario string
	if n, _ := fmt.Sscanf(rest, "%d seed %d replicas %d scenario %q", &version, &t.Seed, &t.Replicas, &scenario); !ok || n == 0 {
		return t, fmt.Errorf("no %s: it does not begin with its version", traceName)
	} else if version != TraceVersion {
		return t, fmt.Errorf("a %s of version %d; this build reads version %d", traceName, version, TraceVersion)
	} else if n != 4 {
		return t, fmt.Errorf("the first line of the %s is damaged", traceName)
	}
	t.Scenario = scenario
	for lines.Scan() {
		t.Hash, _ = strings.CutPrefix(lines.Text(), "hash ")
		if t.Hash == lines.Text() {
			t.Hash = ""
		}
	}
	return t, lines.Err()
}

// head and foot frame a trace.
func (t *trace) head(seed uint64, o Options) {
	if t.out != nil {
		fmt.Fprintf(t.out, "%s version %d seed %d replicas %d scenario %q\n", traceName, TraceVersion, seed, o.Replicas, o.Scenario)
	}
}

func (t *trace) foot(hash string) {
	if t.out != nil {
		fmt.Fprintf(t.out, "hash %s\n", hash)
	}
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

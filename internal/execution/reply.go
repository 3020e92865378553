package execution

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/invariant"
	"github.com/atlas-smr/smr/wire"
)

// Reply is results of one session for its client. It is immutable.
type Reply struct {
	Client  smr.ClientID
	Session smr.SessionID // zero for the result of an open
	Open    bool
	Results []byte // encoded: field 3 of wirepb.SessionReply, repeated
}

// sessionReplyOverhead bounds what the framing of a Reply inside an OrderedReply adds.
const sessionReplyOverhead = 32

// flushBytes is how much may wait in an Output before Flush is called.
const flushBytes = 4 << 20

// Output collects the replies of Apply. The zero value is ready.
type Output struct {
	Replies []Reply
	// Flush, if set, is called in the middle of Apply when several megabytes of replies wait; it
	// must take them and Reset. Without it they all wait for the end of Apply.
	Flush func(*Output)
	bytes int
}

// Reset empties o, keeping its memory and Flush.
func (o *Output) Reset() {
	clear(o.Replies)
	o.Replies, o.bytes = o.Replies[:0], 0
}

func (o *Output) add(r Reply) {
	o.Replies = append(o.Replies, r)
	o.bytes += len(r.Results)
	if o.bytes > flushBytes && o.Flush != nil {
		o.Flush(o)
	}
}

// Frames coalesces the replies of each client into as few wirepb.OrderedReply payloads as the frame
// limit of the class allows, and emits them, lowest client first. A payload belongs to the
// receiver. It reorders o.Replies.
func (o *Output) Frames(emit func(client smr.ClientID, payload []byte)) {
	frames(o.Replies, wire.ClassOrderedReply.MaxFrameBytes(), emit)
}

func frames(replies []Reply, limit int, emit func(smr.ClientID, []byte)) {
	slices.SortStableFunc(replies, func(a, b Reply) int { return cmp.Compare(a.Client, b.Client) })
	for len(replies) > 0 {
		n, size := 0, 0
		for n < len(replies) && replies[n].Client == replies[0].Client {
			more := len(replies[n].Results) + sessionReplyOverhead
			if n > 0 && size+more > limit {
				break
			}
			size += more
			n++
		}
		payload := make([]byte, 0, size)
		for _, r := range replies[:n] {
			payload = appendSessionReply(payload, r)
		}
		invariant.Check(len(payload) <= limit, "an ordered reply of %d bytes, at most %d", len(payload), limit)
		emit(replies[0].Client, payload)
		replies = replies[n:]
	}
}

// appendSessionReply appends r as field 1 of wirepb.OrderedReply.
func appendSessionReply(dst []byte, r Reply) []byte {
	size := len(r.Results)
	if r.Session != 0 {
		size += 1 + protowire.SizeVarint(uint64(r.Session))
	}
	if r.Open {
		size += 2
	}
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	if r.Session != 0 {
		dst = protowire.AppendTag(dst, 1, protowire.VarintType)
		dst = protowire.AppendVarint(dst, uint64(r.Session))
	}
	if r.Open {
		dst = protowire.AppendTag(dst, 2, protowire.VarintType)
		dst = protowire.AppendVarint(dst, 1)
	}
	return append(dst, r.Results...)
}

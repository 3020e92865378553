package transfer

import (
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/wire"
)

// ErrMessage is wrapped by every refusal of a message of this package: a correct peer would not
// have sent it.
var ErrMessage = errors.New("bad transfer message")

// Limits on one log reply.
const (
	// MaxLogEntries bounds the entries, and separately the linking headers, of a log reply.
	MaxLogEntries = 4096
	// MaxLogBytes bounds the encoded entries of a log reply; it leaves room below the class's frame
	// limit for one more full batch's overhead.
	MaxLogBytes = 9 << 20
)

// ViewQuery asks what the receiver has seen of the asker.
type ViewQuery struct{ ID uint64 }

// ViewReply answers a ViewQuery. What it says of votes and locks is proven; the rest is the
// answerer's word.
type ViewReply struct {
	ID       uint64
	Epoch    smr.Epoch     // a claim
	View     smr.View      // a claim
	Asker    smr.NodeID    // whom Seen is about
	Seen     protocol.Mark // highest vote signed by Asker that the answerer showed; zero for none
	Unproven bool          // it showed something else instead: Seen is zero
	Lock     protocol.Mark // verified; zero for none
	Decided  smr.SeqNo     // a claim
	First    smr.SeqNo     // a claim: first sequence number in the answerer's log
}

// LogRequest asks for the decisions right above After, up to Upto, in at most MaxBytes.
type LogRequest struct {
	ID          uint64
	After, Upto smr.SeqNo
	MaxBytes    int
}

// LogReply is a verified, contiguous run of decisions right above After, whose predecessor has the
// chain digest Parent. It is empty if the answerer has nothing there; First is then its claim.
type LogReply struct {
	ID        uint64
	After     smr.SeqNo
	Parent    smr.Digest
	Decisions []protocol.Decision
	Bundles   [][]*smr.Bundle
	// Proof is the encoded commit certificate of the last decision; nil when it speaks for a later
	// one only.
	Proof []byte
	First smr.SeqNo
	Bytes int
}

// LogEntry is a decided batch as the ordering log keeps it.
type LogEntry struct {
	Header  []byte   // as recorded
	Bundles [][]byte // encodings in proposal order
	Proof   []byte   // Data of the decision record; may be empty
}

// EncodeViewQuery returns the payload of q.
func EncodeViewQuery(q ViewQuery) []byte { return encode(&wirepb.ViewQuery{Id: q.ID}) }

// EncodeViewReply returns the payload of r. lock and evidence, either may be nil, take the place of
// r.Lock and r.Seen: see Ordering.Lock and Ordering.Evidence.
func EncodeViewReply(r ViewReply, lock, evidence []byte) []byte {
	return encode(&wirepb.ViewReply{
		Id: r.ID, Epoch: uint64(r.Epoch), View: uint64(r.View), Lock: lock, Decided: uint64(r.Decided), FirstLogged: uint64(r.First),
		Asker: uint64(r.Asker), Evidence: evidence,
	})
}

// DecodeViewQuery reads a ViewQuery.
func DecodeViewQuery(payload []byte) (ViewQuery, error) {
	var p wirepb.ViewQuery
	if err := unpack(&p, viewQuerySchema, payload); err != nil {
		return ViewQuery{}, fmt.Errorf("%w: view query: %w", ErrMessage, err)
	}
	return ViewQuery{ID: p.Id}, nil
}

// DecodeViewReply reads a ViewReply and verifies its lock and its evidence. Bad evidence is no
// error: such a reply counts as an answer that shows nothing, or a liar could keep a replica from
// ever having enough answers.
func DecodeViewReply(codec protocol.Codec, payload []byte) (ViewReply, error) {
	var p wirepb.ViewReply
	if err := unpack(&p, viewReplySchema, payload); err != nil {
		return ViewReply{}, fmt.Errorf("%w: view reply: %w", ErrMessage, err)
	}
	r := ViewReply{
		ID: p.Id, Epoch: smr.Epoch(p.Epoch), View: smr.View(p.View), Decided: smr.SeqNo(p.Decided), First: smr.SeqNo(p.FirstLogged),
		Asker: smr.NodeID(p.Asker),
	}
	if len(p.Evidence) > 0 {
		mark, err := codec.OpenEvidence(r.Asker, p.Evidence)
		if r.Seen, r.Unproven = mark, err != nil; r.Unproven {
			r.Seen = protocol.Mark{}
		}
	}
	if len(p.Lock) > 0 {
		mark, err := codec.OpenLock(p.Lock)
		if err != nil {
			return ViewReply{}, fmt.Errorf("%w: view reply: lock: %w", ErrMessage, err)
		}
		r.Lock = mark
	}
	return r, nil
}

// EncodeLogRequest returns the payload of q.
func EncodeLogRequest(q LogRequest) []byte {
	return encode(&wirepb.LogRequest{Id: q.ID, After: uint64(q.After), Upto: uint64(q.Upto), MaxBytes: uint64(max(0, q.MaxBytes))})
}

// DecodeLogRequest reads a LogRequest; MaxBytes is clamped to MaxLogBytes.
func DecodeLogRequest(payload []byte) (LogRequest, error) {
	var p wirepb.LogRequest
	if err := unpack(&p, logRequestSchema, payload); err != nil {
		return LogRequest{}, fmt.Errorf("%w: log request: %w", ErrMessage, err)
	}
	if p.Upto <= p.After {
		return LogRequest{}, fmt.Errorf("%w: log request for (%d, %d]", ErrMessage, p.After, p.Upto)
	}
	return LogRequest{ID: p.Id, After: smr.SeqNo(p.After), Upto: smr.SeqNo(p.Upto), MaxBytes: int(min(p.MaxBytes, MaxLogBytes))}, nil
}

// EncodeLogReply returns the payload that answers q with entries, which start right above q.After.
// It cuts at the last entry that fits and is proven, else at the last that fits, with the headers
// up to the next proof as links. An answer without a proof in reach is empty; more then says that
// reading further may find one.
func EncodeLogReply(q LogRequest, entries []LogEntry, first smr.SeqNo) (payload []byte, more bool) {
	reply := &wirepb.LogReply{Id: q.ID, After: uint64(q.After), FirstLogged: uint64(first)}
	fit, bytes, proven := 0, 0, -1
	for i, e := range entries {
		if i == MaxLogEntries {
			break
		}
		bytes += entryBytes(e)
		if i > 0 && bytes > min(q.MaxBytes, MaxLogBytes) || bytes > wire.ClassLogTransfer.MaxFrameBytes()-64<<10 {
			break
		}
		fit++
		if len(e.Proof) > 0 {
			proven = i
		}
	}
	switch {
	case proven >= 0:
		fit = proven + 1
	default:
		for i := fit; i < len(entries) && i < fit+MaxLogEntries; i++ {
			if len(entries[i].Proof) > 0 {
				proven = i
				break
			}
		}
		if proven < 0 || fit == 0 {
			return encode(reply), len(entries) > 0 && fit > 0
		}
	}
	for i := 0; i <= proven; i++ {
		if i < fit {
			reply.Entries = append(reply.Entries, &wirepb.LogEntry{Header: entries[i].Header, Bundles: entries[i].Bundles})
		} else {
			reply.Linking = append(reply.Linking, entries[i].Header)
		}
	}
	reply.Proof = entries[proven].Proof
	return encode(reply), false
}

func entryBytes(e LogEntry) int {
	n := len(e.Header) + len(e.Proof) + 16
	for _, b := range e.Bundles {
		n += len(b) + 5
	}
	return n
}

// DecodeLogReply reads a log reply and verifies all of it: bundle signatures under scheme (nil:
// none are checked), their agreement with the headers, and the proof. Only the link to the own
// chain (After, Parent) is left to the receiver. The result aliases payload.
func DecodeLogReply(v *auth.Verifier, codec protocol.Codec, scheme auth.Scheme, payload []byte) (*LogReply, error) {
	var p wirepb.LogReply
	if err := unpack(&p, logReplySchema, payload); err != nil {
		return nil, fmt.Errorf("%w: log reply: %w", ErrMessage, err)
	}
	r := &LogReply{ID: p.Id, After: smr.SeqNo(p.After), First: smr.SeqNo(p.FirstLogged), Bytes: len(payload)}
	if len(p.Entries) == 0 {
		return r, nil
	}
	rng := protocol.Range{Proof: p.Proof}
	count := 0
	for _, e := range p.Entries {
		count += len(e.Bundles)
	}
	all := make([]*smr.Bundle, 0, count)
	for i, e := range p.Entries {
		bundles := make([]*smr.Bundle, len(e.Bundles))
		for j, raw := range e.Bundles {
			b, err := wire.DecodeBundle(raw)
			if err != nil {
				return nil, fmt.Errorf("%w: log reply: entry %d: %w", ErrMessage, i, err)
			}
			bundles[j] = b
		}
		rng.Headers = append(rng.Headers, e.Header)
		rng.Bundles = append(rng.Bundles, bundles)
		all = append(all, bundles...)
	}
	rng.Headers = append(rng.Headers, p.Linking...)
	head, err := codec.Header(rng.Headers[0])
	if err != nil {
		return nil, fmt.Errorf("%w: log reply: %w", ErrMessage, err)
	}
	r.Parent = head.Parent
	decisions, err := codec.VerifyRange(r.After, r.Parent, rng)
	if err != nil {
		return nil, fmt.Errorf("%w: log reply: %w", ErrMessage, err)
	}
	if len(decisions) < len(rng.Bundles) {
		return nil, fmt.Errorf("%w: log reply: %d decisions for %d entries", ErrMessage, len(decisions), len(rng.Bundles))
	}
	if scheme != nil && wire.VerifyBundles(scheme, v.Membership().Cluster(), all) != nil {
		return nil, fmt.Errorf("%w: log reply: bundle signature", ErrMessage)
	}
	r.Decisions, r.Bundles = decisions[:len(rng.Bundles)], rng.Bundles
	if len(p.Linking) == 0 {
		r.Proof = p.Proof
	}
	return r, matchRefs(r)
}

// matchRefs checks that the bundles are those the headers name.
func matchRefs(r *LogReply) error {
	for i, d := range r.Decisions {
		if len(d.Refs) != len(r.Bundles[i]) {
			return fmt.Errorf("%w: log reply: seq %d names %d bundles, %d attached", ErrMessage, d.Seq, len(d.Refs), len(r.Bundles[i]))
		}
		for j, b := range r.Bundles[i] {
			if d.Refs[j] != b.Ref() {
				return fmt.Errorf("%w: log reply: seq %d: bundle %d is another", ErrMessage, d.Seq, j)
			}
		}
	}
	return nil
}

// What the messages may hold: see wire.Schema.
var (
	viewQuerySchema  = wire.Schema{Fields: wire.Fields(1)}
	viewReplySchema  = wire.Schema{Fields: wire.Fields(1, 2, 3, 7, 8, 9, 10, 11)}
	logRequestSchema = wire.Schema{Fields: wire.Fields(1, 2, 3, 4)}
	logEntrySchema   = wire.Schema{Fields: wire.Fields(1, 2), Repeats: []wire.Repeat{
		{Field: 2, Most: smr.MaxBatchBundles, Least: wire.LeastBundleBytes},
	}}
	logReplySchema = wire.Schema{Fields: wire.Fields(1, 2, 3, 4, 5, 6), Repeats: []wire.Repeat{
		{Field: 3, Most: MaxLogEntries, In: []wire.Schema{logEntrySchema}}, {Field: 4, Most: MaxLogEntries},
	}}
	rootVoteSchema = wire.Schema{Fields: wire.Fields(1, 2, 3, 4)}
	rootCertSchema = wire.Schema{Fields: wire.Fields(1, 2, 3, 4)}
)

// unpack reads a message that its schema allows. It may alias payload.
func unpack(m interface{ UnmarshalVTUnsafe([]byte) error }, s wire.Schema, payload []byte) error {
	if _, err := s.Check(payload); err != nil {
		return err
	}
	return m.UnmarshalVTUnsafe(payload)
}

type encodable interface{ MarshalVT() ([]byte, error) }

func encode(m encodable) []byte {
	b, err := m.MarshalVT()
	if err != nil {
		panic(err) // messages of integers and byte slices always encode
	}
	return b
}

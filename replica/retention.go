package replica

import "github.com/atlas-smr/smr"

// DefaultLogBytes is how many bytes of decided batches stay in the log below the newest stable
// checkpoint, for replicas that come back and catch up from it; who was away for longer takes over a
// checkpoint.
const DefaultLogBytes = 256 << 20

// deliveredBytes is about what a decided batch takes in the log.
func deliveredBytes(bundles []*smr.Bundle) uint64 {
	n := uint64(512)
	for _, b := range bundles {
		n += uint64(len(b.Raw))
	}
	return n
}

// retention says how much of the log may go. A stable checkpoint alone would let all of it go, and a
// replica that was away for a few seconds of load could not catch up any more. It belongs to the loop
// goroutine.
type retention struct {
	keep    uint64 // bytes
	decided uint64 // bytes decided in this life
	marks   []retentionMark
}

// retentionMark is a sequence number that may go once keep more bytes than at are decided.
type retentionMark struct {
	seq smr.SeqNo
	at  uint64
}

// add counts a decided batch.
func (r *retention) add(bytes uint64) { r.decided += bytes }

// stable takes what a stable checkpoint allows to go, and returns what really may, 0 for nothing.
// What an earlier life left goes with the first mark of this one.
func (r *retention) stable(seq smr.SeqNo) (upto smr.SeqNo) {
	if n := len(r.marks); n == 0 || r.marks[n-1].seq < seq {
		r.marks = append(r.marks, retentionMark{seq, r.decided})
	}
	for len(r.marks) > 0 && r.decided-r.marks[0].at >= r.keep {
		upto = r.marks[0].seq
		r.marks = r.marks[1:]
	}
	return upto
}

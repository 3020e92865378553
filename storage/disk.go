package storage

import (
	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
)

// Identity says whose data a directory holds.
type Identity struct {
	Cluster smr.ClusterID
	Node    smr.NodeID
}

// Mode says what durable means.
type Mode uint8

// The modes.
const (
	// Strict: a token is durable once its records were synced. kill -9 and power loss lose nothing
	// that a token was reported for.
	Strict Mode = iota
	// Relaxed: a token counts as durable once its records were handed to the operating system.
	Relaxed
	// MemoryOnly: log and checkpoints are never written.
	MemoryOnly
)

// String names the mode as configuration does.
func (m Mode) String() string {
	switch m {
	case Strict:
		return "strict"
	case Relaxed:
		return "relaxed"
	case MemoryOnly:
		return "memory"
	}
	return "unknown"
}

// Entry is one decided batch of the log, as it was received. Slices are the caller's.
type Entry struct {
	Seq     smr.SeqNo
	Epoch   smr.Epoch // of the decision record
	View    smr.View
	Digest  smr.Digest
	Header  []byte   // the ordering's encoding of the proposal
	Bundles [][]byte // in proposal order
	Proof   []byte   // encoded commit certificate; empty when only a later entry's proof covers it
}

// Bytes is about what sending the entry costs.
func (e *Entry) Bytes() int {
	n := len(e.Header) + len(e.Proof)
	for _, b := range e.Bundles {
		n += len(b)
	}
	return n
}

// Recovered is what a start finds.
type Recovered struct {
	protocol.Recovered
	// Bundles holds the bundles of Proposals, each once, in the order of their first mention. Their
	// signatures were checked before they were written.
	Bundles []*smr.Bundle
	// Checkpoint is the newest valid checkpoint's descriptor; nil for none.
	Checkpoint *Descriptor
	// Certificate is the encoded certificate of Checkpoint; nil while it has none.
	Certificate []byte
	// Amnesic says that votes may be missing: an earlier run in relaxed or memory mode ended without
	// a clean stop. Such a replica must not vote in an epoch it may have voted in.
	Amnesic bool
}

// Disk is what replica and simulator use of a store. Append, Truncate and SetCheckpointCert may be
// called by one goroutine at a time; the rest beside them, when the implementation says so.
type Disk interface {
	// Append queues records to become durable together under token; tokens rise. bundles runs
	// parallel to records and holds the bundles of each RecordProposal, in the order of its Refs.
	// Records, their data and the bundles must not change afterwards.
	Append(token uint64, records []protocol.Record, bundles [][]*smr.Bundle)
	// DurableToken returns the highest token up to which everything is durable.
	DurableToken() uint64
	// Err returns why nothing becomes durable any more; nil while all is well.
	Err() error
	// Recover reads what the log holds. It is called once, before the first Append.
	Recover() (Recovered, error)
	// ReadDecisions returns decisions from after+1 on, contiguous, up to and including upto, until
	// their bytes exceed maxBytes (but at least one); and the lowest sequence number that the log
	// still holds decisions from. It returns fewer when the log ends or the first lies below that.
	// What was appended is visible at the latest when its token is durable.
	ReadDecisions(after, upto smr.SeqNo, maxBytes int) ([]Entry, smr.SeqNo, error)
	// Truncate lets the log at or below upto go, as far as the kept checkpoints cover it.
	Truncate(upto smr.SeqNo)
	// BeginCheckpoint starts writing the checkpoint at seq. It replaces one of that number.
	BeginCheckpoint(seq smr.SeqNo) (*CheckpointWriter, error)
	// SetCheckpointCert keeps the certificate of the checkpoint at seq.
	SetCheckpointCert(seq smr.SeqNo, cert []byte)
	// LatestCheckpoint opens the newest valid checkpoint; nil for none. Damaged ones are passed over.
	LatestCheckpoint() (*CheckpointReader, error)
	// OpenCheckpoint opens the checkpoint at seq; nil if it is not kept. It stays readable until it is
	// closed, whatever replaces it.
	OpenCheckpoint(seq smr.SeqNo) (*CheckpointReader, error)
	// BeginIncoming begins to receive the checkpoint of meta whose certified root is root, or goes on
	// where a transfer of it was interrupted. One is received at a time.
	BeginIncoming(meta transfer.Meta, root smr.Digest) (Incoming, error)
	// Close stops cleanly: what was appended becomes durable first, unless Err says otherwise.
	Close() error
}

var (
	_ Disk = (*Store)(nil)
	_ Disk = (*Memory)(nil)
)

// Package protocol is the contract between an ordering protocol and the engine that runs it.
//
// A protocol is a state machine. Every input appends what must happen next to an [Effects];
// nothing blocks and nothing fails. It holds no goroutine, lock, clock, random source, I/O or
// logger, and lets no map order reach an effect: equal inputs, equal effects.
//
// What reaches a machine was decoded and its signatures checked by a [Codec], a stateless value
// that network workers run before the loop. Byzantine input is never an error: drop it, count it
// in Effects.Note, keep evidence.
//
// "Durable before it leaves" lives in one place, the engine's gate: a machine says SendDurable and
// forgets about it.
package protocol

import (
	"fmt"
	"strings"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/quorum"
)

// Machine is a deterministic protocol component.
type Machine interface {
	// Receive handles a decoded, verified message. from is the authenticated sender; it is the own
	// id for messages a machine addressed to itself.
	Receive(now time.Time, from smr.NodeID, m Message, out *Effects)
	// Expire handles a timer the machine set. A timer that was stopped or set again since does not
	// expire.
	Expire(now time.Time, id TimerID, out *Effects)
}

// Ordering orders batches.
type Ordering interface {
	Machine
	// Start begins from what the ordering log held. It is called once, first. Until Enable the
	// machine follows what others decide and never votes, proposes, complains or times out.
	Start(now time.Time, recovered Recovered, out *Effects)
	// Enable lets the machine vote from now on: its vote state is known to be complete (design:
	// amnesia is Byzantine). It never votes against what it had recorded.
	Enable(now time.Time, out *Effects)
	// Want returns how many batches it can take now: zero unless it leads and its pipeline has room.
	Want() int
	// Propose orders a batch. The engine calls it only while Want() > 0 and holds every bundle.
	Propose(now time.Time, b smr.Batch, out *Effects)
	// Held says that these bundles, asked for with Effects.Hold, are held and verified now.
	Held(now time.Time, ids []smr.BundleID, out *Effects)
	// Suspect says that the primary of the current view neglects its duty (stall, censorship, slow).
	// late may be empty. The machine complains; it is called again while the cause lasts.
	Suspect(now time.Time, late []smr.BundleID, out *Effects)
	// HandOver asks the current primary, if it is this replica, to pass leadership on in good order.
	HandOver(now time.Time, to smr.NodeID, out *Effects)
	// Stable says that a checkpoint is certified and durable here: what lies at or below it may go.
	Stable(now time.Time, cp auth.CheckpointCert, out *Effects)
	// Install says that everything up to at was decided and taken over by transfer.
	Install(now time.Time, at smr.SeqNo, proof Proof, out *Effects)
	// Reconfigure opens the epoch of m.
	Reconfigure(now time.Time, m *quorum.Membership, out *Effects)
	// Connected says that the connection to a peer came up: what it may have missed is sent again.
	Connected(now time.Time, peer smr.NodeID, out *Effects)
	// Pending tells whether known work waits to be ordered; it drives the progress timer.
	Pending(now time.Time, waiting bool, out *Effects)
	// Seen returns the highest vote of another replica that this machine has verified.
	Seen(id smr.NodeID) Mark
	// Evidence returns the encoded vote that Seen(id) is about, signed by id, which
	// Codec.OpenEvidence reads; nil for none.
	Evidence(id smr.NodeID) []byte
	// Lock returns the encoded proof of the highest prepared proposal, which Codec.OpenLock reads;
	// nil for none.
	Lock() []byte
	// Status describes the machine; cheap enough for every turn of the loop.
	Status() Status
}

// Explorable is an ordering that a model checker can run: its machines are values that can be
// copied and compared. Both methods are called between inputs only.
type Explorable interface {
	Ordering
	// Clone returns an independent copy; immutable values are shared.
	Clone() Explorable
	// Fingerprint appends an encoding of everything that decides what the machine may later sign,
	// accept, decide or write. What only says when, how often, or whom to ask is left out: clocks,
	// rate limits, evidence, and which quorum signed a certificate. Votes that are not a certificate
	// yet are left out unless tallies is set. Machines that differ in nothing but their replica and
	// what they signed as it have equal fingerprints.
	Fingerprint(dst []byte, tallies bool) []byte
}

// Message is a decoded, verified message of one ordering. It is immutable.
type Message interface {
	// Kind is the ordering's own number for the message's schema.
	Kind() uint8
	// Size is about what keeping the message costs, in bytes.
	Size() int
}

// Codec decodes, verifies and encodes one ordering's messages for one membership. It is immutable
// and safe for concurrent use.
type Codec interface {
	// Append appends the payload of m (without its kind) to dst.
	Append(dst []byte, m Message) []byte
	// Decode reads and verifies a payload that came from the authenticated peer from. It neither
	// keeps nor changes payload, allocates no more than a small multiple of its length, and returns
	// an error for anything that a correct peer would not send.
	Decode(from smr.NodeID, kind uint8, payload []byte) (Message, error)
	// VerifyRange checks that r is a contiguous run of decided batches that starts right above
	// (after, parent), proven by r.Proof, and returns its decisions in order; the last carries the
	// proof. parent is the chain digest at after.
	VerifyRange(after smr.SeqNo, parent smr.Digest, r Range) ([]Decision, error)
	// OpenLock verifies what Ordering.Lock returned on another replica.
	OpenLock(raw []byte) (Mark, error)
	// OpenEvidence verifies what Ordering.Evidence returned on another replica: a vote signed by id.
	OpenEvidence(id smr.NodeID, raw []byte) (Mark, error)
	// Header reads the header a log entry or decision carries, without checking who signed it.
	Header(raw []byte) (HeaderInfo, error)
}

// HeaderInfo is what every ordering's header says.
type HeaderInfo struct {
	Epoch  smr.Epoch
	View   smr.View
	Seq    smr.SeqNo
	Digest smr.Digest // chain digest: of the header, and through its parent of the whole prefix
	Parent smr.Digest
	Time   int64 // nanoseconds since the Unix epoch
	Refs   []smr.BundleRef
}

// Mark is a position in the protocol's life: views first, then sequence numbers.
type Mark struct {
	Epoch smr.Epoch
	View  smr.View
	Seq   smr.SeqNo
}

// Less orders marks.
func (a Mark) Less(b Mark) bool {
	if a.Epoch != b.Epoch {
		return a.Epoch < b.Epoch
	}
	if a.View != b.View {
		return a.View < b.View
	}
	return a.Seq < b.Seq
}

// Range is a run of decided batches as it travels in log transfer.
type Range struct {
	Headers [][]byte        // encoded headers in seq order; those past len(Bundles) only link to the proof
	Bundles [][]*smr.Bundle // verified bundles of Headers[i], in proposal order
	Proof   []byte          // encoded commit certificate for the last header
}

// Proof says why a sequence number is final.
type Proof struct {
	Decision   Decision            // of that sequence number, with its certificate
	Checkpoint auth.CheckpointCert // or the certified checkpoint that covers it
}

// TimerID names a timer of one machine.
type TimerID uint64

// Timer asks for Expire(ID) once After has passed. Setting an ID again replaces it.
type Timer struct {
	ID    TimerID
	After time.Duration
}

// Everyone addresses every other member of the current epoch.
const Everyone smr.NodeID = 0

// Outbound is a message to send.
type Outbound struct {
	To     smr.NodeID // Everyone, a peer, or (SendDurable only) the own id
	Msg    Message
	Attach []smr.BundleID // bundles whose bytes travel with the message
}

// Effects collects what must happen after an input. The engine empties it after each call.
type Effects struct {
	Persist     []Record       // to the ordering log, in order
	Send        []Outbound     // may leave at once
	SendDurable []Outbound     // leaves when every record so far is durable
	Decide      []Decision     // contiguous, each exactly once
	SetTimer    []Timer        //
	StopTimer   []TimerID      //
	Hold        []smr.BundleID // named by a live proposal: keep, and answer with Held once held
	Release     []smr.BundleID // a live proposal that named them is gone: proposable again
	Fetch       []Need         // what it lacks; the engine waits a grace time and cancels on arrival
	Found       []smr.Digest   // proposals asked for in Fetch that have arrived or are moot
	Behind      *Lag           // cannot catch up alone: start transfer
	Note        []Event        // for metrics, status and traces
}

// Reset empties e, keeping its memory.
func (e *Effects) Reset() {
	clear(e.Persist)
	clear(e.Send)
	clear(e.SendDurable)
	clear(e.Decide)
	clear(e.Fetch)
	clear(e.Note)
	*e = Effects{
		Persist: e.Persist[:0], Send: e.Send[:0], SendDurable: e.SendDurable[:0], Decide: e.Decide[:0],
		SetTimer: e.SetTimer[:0], StopTimer: e.StopTimer[:0], Hold: e.Hold[:0], Release: e.Release[:0],
		Fetch: e.Fetch[:0], Found: e.Found[:0], Note: e.Note[:0],
	}
}

// Need is something a machine lacks. Exactly one of Bundles and Ask is set.
type Need struct {
	Bundles []smr.BundleID // bundles of a live proposal
	Ask     Message        // a message that asks a peer's machine for a proposal, and Key names it
	Key     smr.Digest
	Peers   []smr.NodeID // who should have it, best first; empty: anyone
}

// Lag says that certified decisions lie beyond reach.
type Lag struct {
	Seq   smr.SeqNo    // certified by a quorum
	Peers []smr.NodeID // who should have it
}

// Decision is a batch with its final place in the order. It is immutable.
type Decision struct {
	HeaderInfo
	Header []byte // the ordering's encoding
	// Proof is the commit certificate that proves Seq and its whole prefix; nil when only a later
	// decision's proof speaks for this one.
	Proof *auth.Certificate
}

// String is the line of a trace, the same in scripts and simulations.
func (d Decision) String() string {
	return fmt.Sprintf("decide %d of view %d with %d bundles", d.Seq, d.View, len(d.Refs))
}

// RecordKind says how the ordering log keeps a record.
type RecordKind uint8

// The kinds of record.
const (
	// RecordState is vote state: for each Name the newest record stands; truncation spares it.
	RecordState RecordKind = 1
	// RecordProposal is an accepted proposal, keyed by (Seq, View, Digest): Data is the header, and
	// the bytes of the bundles in Refs are written with it. Truncation takes it.
	RecordProposal RecordKind = 2
	// RecordDecision marks the proposal decided at Seq, keyed by Seq; Data is the encoded commit
	// certificate or empty. Truncation takes it.
	RecordDecision RecordKind = 3
	// RecordDrop deletes the proposal (Seq, View, Digest): a view change passed over it.
	RecordDrop RecordKind = 4
)

// Record is one entry for the ordering log.
type Record struct {
	Kind   RecordKind
	Name   uint8 // RecordState: which piece of state
	Epoch  smr.Epoch
	View   smr.View
	Seq    smr.SeqNo
	Digest smr.Digest
	Data   []byte
	Refs   []smr.BundleRef // RecordProposal
}

// Recovered is what the ordering log held.
type Recovered struct {
	// State holds the newest record of each name, in name order.
	State []Record
	// Proposals holds the live proposals above Base in (Seq, View, Digest) order. Their bundles are
	// held by the engine already.
	Proposals []Record
	// Decisions holds the decided marks above Base in Seq order, contiguous from Base+1.
	Decisions []Record
	// Base is the newest durable checkpoint's position: chain digest and agreed time there. Zero
	// Seq is genesis.
	Base HeaderInfo
	// Fresh says that the log never held a record.
	Fresh bool
}

// EventKind names what an Event tells.
type EventKind string

// The kinds of event. Orderings may add their own drop reasons in Event.Detail.
const (
	EventDrop         EventKind = "drop"         // a message was dropped; Detail is the reason
	EventEvidence     EventKind = "evidence"     // proof of misbehaviour of Node
	EventComplaint    EventKind = "complaint"    // this replica complained about View
	EventTimeout      EventKind = "timeout"      // this replica signed a timeout for View
	EventViewEntered  EventKind = "view-entered" // this replica entered View
	EventEpochEntered EventKind = "epoch-entered"
	EventBehind       EventKind = "behind"
)

// Event is something worth counting or showing.
type Event struct {
	Kind   EventKind
	Node   smr.NodeID
	View   smr.View
	Seq    smr.SeqNo
	Detail string
}

// String is the line of a trace, the same in scripts and simulations.
func (e Event) String() string {
	about := ""
	if e.Kind == EventDrop || e.Kind == EventEvidence {
		about = fmt.Sprintf("of %d ", e.Node)
	}
	return strings.TrimSuffix(fmt.Sprintf("%s %sview %d seq %d %s", e.Kind, about, e.View, e.Seq, e.Detail), " ")
}

// Status describes an ordering.
type Status struct {
	Epoch     smr.Epoch
	View      smr.View
	Primary   smr.NodeID
	Leading   bool      // this replica is the primary and may propose
	Voting    bool      // Enable was called
	Changing  bool      // between a timeout signed for View and the next view's first proposal
	Tip       smr.SeqNo // newest accepted proposal
	Prepared  smr.SeqNo // newest prepared proposal
	Decided   smr.SeqNo
	Stable    smr.SeqNo
	Chain     smr.Digest    // chain digest at Decided
	Time      int64         // agreed time at Decided
	Voted     Mark          // own highest vote
	Locked    Mark          // own lock
	Certified smr.SeqNo     // highest sequence number proven final by a quorum, decided here or not
	InFlight  int           // proposed, undecided batches
	Timeout   time.Duration // the current view's
	Since     time.Time     // entry into the current view
}

// Params is what every ordering is made from.
type Params struct {
	Self       smr.NodeID
	Membership *quorum.Membership
	Verifier   *auth.Verifier
	Signer     auth.Signer

	Pipeline      int           // undecided proposals in flight at once, at least 1
	Window        smr.SeqNo     // sequence numbers above Stable that may be in use
	BaseTimeout   time.Duration // of the first view; grows with failed views
	MaxTimeout    time.Duration
	Heartbeat     time.Duration // idle primary's heartbeat period
	Resend        time.Duration // slow tick for sending again
	MaxClockDrift time.Duration // D: a proposal's time may be so far ahead of the local clock

	// Length returns the encoded length of a bundle that was reported Held; zero if unknown. With
	// nil, references are taken to state true lengths. It is a pure read.
	Length func(smr.BundleID) int
}

// Factory makes an ordering and its codec. It is how replica.Config names one.
type Factory struct {
	Name  string // as in --protocol
	Model quorum.Model
	New   func(Params) Ordering
	// NewCodec returns the codec for the verifier's membership.
	NewCodec func(*auth.Verifier) Codec
}

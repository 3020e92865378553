package smr

import "io"

// Application is the deterministic service a developer writes. All its methods but Query run on
// one goroutine, in decided order, with the same inputs on every replica; given the same state and
// inputs they must return the same bytes: no clock, no random source but the context's, no
// map-ordered output, no goroutine that outlives the call.
type Application[Req, Rep any] interface {
	// Execute applies one ordered request and returns its reply. Failures of the business live in
	// Rep. A local fault (a broken disk) is reported with ctx.Fence, after which the return value
	// is ignored. A panic fences the replica too.
	Execute(ctx *Context, req Req) Rep
	// Query answers an unordered request from the current state without changing it. It runs
	// between batches, never beside Execute.
	Query(ctx *QueryContext, req Req) Rep
}

// BatchExecutor is an optional extension of an Application: the executor hands it all requests of
// one batch at once, or of a run of bundles of it. The result must equal that of calling Execute
// on each in order; replies[i] answers reqs[i] and ctxs[i] belongs to it.
type BatchExecutor[Req, Rep any] interface {
	ExecuteBatch(ctxs []*Context, reqs []Req, replies []Rep)
}

// Validator is an optional extension of an Application: a stateless check made before a replica
// lets a request into its own pool. It is advice, never part of a proposal's validity, so a
// request that fails it can still be decided; Execute must cope. It may be called from several
// goroutines at once. The error's text is sent to the client.
type Validator[Req any] interface {
	Validate(req Req) error
}

// Codec turns typed values into bytes and back. Both directions must be pure functions and safe
// for concurrent use.
type Codec[T any] interface {
	// Append appends the encoding of v to dst and returns the extended slice.
	Append(dst []byte, v T) ([]byte, error)
	// Decode reads one value that fills all of b. It must not keep b; it returns an error for
	// anything Append cannot have produced.
	Decode(b []byte) (T, error)
}

// State is what an application's state is to the framework: [Monolithic] or [Divisible].
type State interface{ stateKind() }

// Monolithic is state that is saved and restored as one byte stream. Embed [MonolithicState] in
// the implementing type.
type Monolithic interface {
	State
	// Freeze captures the state as of now. It runs on the execution goroutine and must be cheap
	// (copy-on-write, a versioned structure, a pointer swap); the result is written beside
	// execution.
	Freeze() Frozen
	// Restore replaces the state by what a Frozen wrote. On error the state must be as before.
	Restore(r io.Reader) error
}

// MonolithicState marks the embedding type as monolithic state.
type MonolithicState struct{}

func (MonolithicState) stateKind() {}

// Frozen is a captured state. The framework calls WriteTo at most once, then Release, from a
// goroutine of its own.
type Frozen interface {
	// WriteTo writes the state. Equal states must write equal bytes on every replica.
	WriteTo(w io.Writer) (int64, error)
	// Release frees what the capture holds. It is called exactly once.
	Release()
}

// PartID names a part of divisible state. Ids are chosen by the application and mean nothing to the
// framework.
type PartID uint64

// PartInfo describes one part of divisible state.
type PartInfo struct {
	ID     PartID
	Bytes  uint64 // at most MaxPartBytes
	Digest Digest // SHA-256 of the part's bytes
}

// Divisible is state that consists of parts with digests, of which only those that changed are
// hashed, stored and moved. Embed [DivisibleState] in the implementing type. Package state has maps
// that are divisible already.
//
// What the parts are follows from the ordered requests alone: replicas that executed the same ones
// have the same ids and the same bytes, whenever captures were taken, and whatever was restored
// between. So whatever decides about parts to come (a counter of ids, say) is itself in a part. A
// change should change few parts: between 64 KiB and 1 MiB is a good size for one. State has at most
// [MaxParts].
//
// All methods run on the execution goroutine. A PartWriter is used there, too.
type Divisible interface {
	State
	// Freeze captures the state as of now. Execution waits for it: it must be cheap, whatever the
	// size of the state (copy-on-write, a snapshot of a database). The framework takes further
	// captures before it has released earlier ones.
	Freeze() FrozenParts
	// Begin starts a replacement of parts. Nothing else is called before the Commit or Abort of the
	// result.
	Begin() PartWriter
	// Reset makes the state that of a new instance. The framework calls it at start when there is
	// no checkpoint: state that lives on disk may be left over from a run whose checkpoints are
	// gone. An error is a local fault; the replica does not start.
	Reset() error
}

// DivisibleState marks the embedding type as divisible state.
type DivisibleState struct{}

func (DivisibleState) stateKind() {}

// FrozenParts is a captured divisible state. It is used by one goroutine at a time, which need not
// be the execution goroutine, beside execution. An error of Parts or ReadPart is a local fault: the
// checkpoint is given up and the replica stops.
type FrozenParts interface {
	// Parts lists the parts in strictly ascending order of their ids. It computes the digests of
	// parts that changed since an earlier capture computed them, and of no others. The slice is the
	// caller's.
	Parts() ([]PartInfo, error)
	// ReadPart appends the bytes of a part that Parts lists to dst and returns the extended slice,
	// which is the caller's.
	ReadPart(dst []byte, id PartID) ([]byte, error)
	// Release frees what the capture holds. It is called exactly once.
	Release()
}

// PartWriter turns the present state into another by replacing some of its parts. The framework
// compares the parts of the present state with those wanted, puts the ones that are missing or
// differ, in ascending order of their ids, deletes the ones that are not wanted, and commits. Parts
// that it does not mention stay as they are.
//
// Parts come from a checkpoint that a quorum certified, so one that does not decode is a defect; it
// must still be refused with an error rather than a panic. After a failed Commit, an Abort, or the
// end of the process before Commit, the state must be as before, or refuse everything but Begin and
// Reset: the framework restores again or stops.
type PartWriter interface {
	// Put sets the bytes of a part. info.Digest is the digest of data, verified: an implementation
	// may keep it. data is the caller's again after the call.
	Put(info PartInfo, data []byte) error
	// Delete removes a part.
	Delete(id PartID) error
	// Commit makes the result the state. Its Freeze lists the parts wanted, digests included.
	Commit() error
	// Abort gives up. It is not called after Commit.
	Abort()
}

// Stateful is implemented by applications to hand out their state. An application without it is
// taken to have none worth a checkpoint, which replica.Run refuses.
type Stateful interface{ State() State }

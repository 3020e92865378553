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

// PartID names a part of divisible state. Ids are chosen by the application and are stable: a part
// keeps its id for as long as it exists.
type PartID uint64

// PartInfo describes one part of divisible state.
type PartInfo struct {
	ID     PartID
	Bytes  uint64
	Digest Digest // SHA-256 of the part's bytes
}

// Divisible is state that consists of parts with digests, of which only changed ones are stored
// and moved. Embed [DivisibleState] in the implementing type. State transfer of divisible state is
// not wired yet; the interface is fixed here so that applications can be written against it.
type Divisible interface {
	State
	// Freeze captures the state as of now, on the execution goroutine; it must be cheap.
	Freeze() FrozenParts
	// Parts lists the current parts in ascending id order.
	Parts() []PartInfo
	// Begin starts a replacement of parts; nothing is visible before Commit of the result.
	Begin() PartWriter
}

// DivisibleState marks the embedding type as divisible state.
type DivisibleState struct{}

func (DivisibleState) stateKind() {}

// FrozenParts is a captured divisible state.
type FrozenParts interface {
	// Parts lists the parts in ascending id order, with their digests.
	Parts() []PartInfo
	// ReadPart appends the bytes of a part to dst.
	ReadPart(dst []byte, id PartID) ([]byte, error)
	// Release frees what the capture holds. It is called exactly once.
	Release()
}

// PartWriter replaces parts of divisible state atomically.
type PartWriter interface {
	Put(id PartID, data []byte) error
	Delete(id PartID) error
	Commit() error
	Abort()
}

// Stateful is implemented by applications to hand out their state. An application without it is
// taken to have none worth a checkpoint, which replica.Run refuses.
type Stateful interface{ State() State }

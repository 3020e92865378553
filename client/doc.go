// Package client is how a program uses a replicated service: typed ordered calls with exactly-once
// sessions, and unordered reads.
//
// [Client] is the typed face and [Conn] the untyped one below it; both are safe for concurrent use
// and own one goroutine. All decisions are made by [Core], which has no goroutine, clock or socket:
// it takes the time and what arrived and appends what must happen to an [Output]. The simulator runs
// Core as it is.
//
// # Outcomes
//
// The fate of an ordered call is one of three, a closed set:
//
//   - executed: the reply is returned and the error is nil;
//   - not executed: the error is [ErrNotExecuted]. Nothing signed left this client, or a quorum of
//     equal ordered outcomes says that the op was consumed without effect. Calling again is safe;
//   - unknown: the error is [ErrUnknown]. The op may have been executed, may be later, or may never
//     be. [Client.Retry] waits on under the same op number, so that the op still runs at most once;
//     calling again as a new op may do it twice.
//
// Advice of replicas (busy, rejected) is never a result: the client backs off and sends the same op
// numbers again. If so many replicas reject an op that one of them is correct, waiting longer is
// pointless, and the call ends as unknown with an [AdviceError] that names the limit.
//
// Two outcomes deserve a word. A quorum that says "no session" or "not admitted" about an op speaks
// of the moment the op was ordered last; an earlier copy may have been executed before the session
// was evicted, so this is unknown, not "not executed". A quorum that says "reply gone" or "reply too
// large" proves that the op was executed once, but its reply cannot be had: [OutcomeError.Executed].
//
// # What leaves the client
//
// Ops that wait are numbered and signed as one bundle, at most Config.MaxInFlightBundles of which
// are unanswered at a time, so that under load the next ones gather. What is sent again is the same
// bytes, or at least the same ops under the same numbers.
package client

// Package execution applies decided batches to the application, exactly once per (session, op), and
// answers clients.
//
// [Core] is the whole logic: the session table, the application, caches of replies, queries and
// snapshots. It is deterministic, holds no goroutine, lock or clock, and belongs to one goroutine.
// [Executor] is the shell that owns that goroutine, its bounded feed and the checkpoint writer;
// the simulator runs Core alone.
//
// The package knows nothing of agreement: a decision is final when it arrives. Its invariants:
// sequence numbers are applied strictly one after the other; an op number of a session is handed to
// the application at most once in the life of the cluster; equal histories leave equal state, to
// the byte, which is what the root of a checkpoint states.
package execution

// Package pbft is the default ordering: PBFT over a hash-chained log. docs/protocols/pbft.md is its
// specification and argument; the files here follow its phases.
//
// Words of Castro and Liskov, Practical Byzantine Fault Tolerance (1999, 2002), and ours:
//
//	pre-prepare          proposal: a header signed by the primary, no vote in itself
//	prepare, commit      the same; signed, all to all, counted by quorum.Membership alone
//	prepared certificate prepare certificate; the highest one a replica committed on is its lock
//	committed-local      commit certificate known: decides the proposal and its whole prefix
//	view-change          timeout, carrying the lock; a quorum of one view is the timeout certificate
//	new-view             the first proposal of a view, carrying the timeout certificate
//	low, high watermark  the newest stable checkpoint, and Params.Window above it
//	request timer        the progress timer, and Suspect; both lead to a complaint first
//
// Departure: a proposal names its parent's digest, so one certificate speaks for its whole prefix,
// and a view change carries one certificate instead of one a slot (as in DiemBFT v4 and HotStuff-2).
//
// The machine is pure: it never reads a clock, blocks, or fails. It knows nothing of sessions,
// pools, disks or sockets; it does not hold bundle bytes. What it relies on from the engine:
//
//   - SendDurable leaves after every record so far is durable; own votes come back through Receive;
//   - each Hold is answered by Held once the bundle is held and verified, with the length that the
//     reference states; one Hold is ended by one Release or by the Decide of the block that named it;
//   - a released bundle of a stored proposal stays in the log until RecordDrop or truncation;
//   - Fetch is retried until Found, or repeated here on the resend tick.
package pbft

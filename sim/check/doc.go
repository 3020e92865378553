// Package check explores the production ordering machine exhaustively in small bounds: n = 4, one
// Byzantine or one crashing replica, a few sequence numbers and views.
//
// A state of the system is one local state for each correct replica. A local state is a real
// machine, what it signed, and, for the replica that crashes, its disk and gate. What was signed
// stays in the network for ever, so that the messages a replica may get are a function of what the
// others signed: any order, any loss, any repetition. Timers are choices. The Byzantine replica
// gives its vote to every proposal, makes two proposals at every place in every view (it leads all
// of them), carries any certificate that exists as its lock, and sends every certificate, timeout
// certificate and first proposal that the production codec lets through.
//
// Local steps are computed once, by copying the machine and giving it the input; a local state is
// named by the machine's fingerprint. The search combines names.
//
// Reductions, each with its reason:
//
//   - Votes arrive as the quorum they complete, timeouts as the set that opens a view or makes the
//     replica join. A vote short of a quorum changes only its own tally, so its arrival can be
//     moved down to that of the vote that completes the quorum.
//   - What signs nothing is done late: a step of the search is any number of local steps of one
//     replica that sign nothing and then one that does. Nobody sees the former and inputs never
//     become impossible, so they can be moved down to the step that follows them at that replica.
//   - Which quorum signed a certificate is no part of a state: no rule reads it.
//   - Replicas with the same duties are interchangeable: their names are sorted.
//   - Of two equal proposals in one place the first that a correct replica votes for is called a.
//   - Proposals arrive in order, and headers that a certificate makes a replica ask for arrive with
//     it: what an early message leads to, it leads to as well when it comes in time. This one is
//     argued and not exact: buffers of early messages are left to the simulator.
//
// Not explored: hand-over, epochs, checkpoints, transfer, bundles that lack, clocks.
package check

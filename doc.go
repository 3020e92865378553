// Package smr is the vocabulary of Atlas SMR and what an application sees of it.
//
// A developer implements [Application] once, deterministically, and hands it to replica.Run; the
// framework decides one order of all requests on n replicas and executes them in that order on
// each. The package knows nothing of networks, disks, clocks or ordering protocols: every other
// package of the module imports it, it imports none of them.
//
// Distinct quantities are distinct types ([Epoch], [View], [SeqNo], [SessionID], [OpNumber],
// [NodeID], [ClientID]), so that none is passed where another is meant.
package smr

// Package storage keeps what a replica must not forget: the ordering log, checkpoints of the
// state, and who the data belongs to.
//
// [Store] is the real thing: Pebble for the log, plain files for checkpoints, one writer goroutine
// that commits in groups. [Memory] is the same log, single-threaded and crashable, for the
// simulator. Both are a [Disk] and pass the same conformance tests. The package knows records and
// bundles; it knows nothing of agreement and never judges what a record says.
//
// A data directory:
//
//	IDENTITY             format version, cluster, node; checked before anything else is touched
//	FIRST-RUN            once-only leave to start empty; Init writes it, the first Open takes it
//	RUN                  durability mode of the current or last run, clean stop, amnesia
//	LOCK                 held by the process that has the directory open
//	log/                 Pebble: the keys below
//	checkpoints/N.ckpt   checkpoint at sequence number N, complete once it has this name
//	checkpoints/parts/   packs: the parts of divisible state, each once, by digest
//
// Keys of the log; integers are big endian, so that key order is the order of the log:
//
//	'c' seq(8)                          checkpoint certificate
//	'd' seq(8)                          decision: which proposal was decided, and its proof
//	'm' "floor"                         the log at or below this sequence number was truncated
//	'm' "identity"                      cluster and node, again
//	'p' seq(8) view(8) digest(32)       proposal: header and bundles as received, written once
//	's' name(1)                         vote state, newest record of each name; never truncated
//
// Every value:
//
//	offset  bytes
//	0       1      version
//	1       n      body
//	1+n     4      CRC-32C of key, version and body, little endian
//
// The checksum covers the key too, so a value that turns up under another key is noticed. It is
// checked at every read; a mismatch is [ErrCorrupt] and names the key.
//
// What it cannot notice: rot in the last 32 KiB block of Pebble's log file reads as a torn tail, as
// records the crash cut off. The question to the peers at start (amnesia) is what catches that.
//
// Invariants: records become durable in the order of their tokens; DurableToken never runs ahead of
// a sync; after a failed write or sync no token becomes durable any more; truncation never passes
// what the kept checkpoints cover, so that a damaged newest checkpoint leaves the one before and
// the log from there on.
package storage

// Package engine is one replica as one pure machine: it composes an ordering with checkpoint
// certificates, log transfer and view transfer, and owns what they share: the bundle pool, the
// durability gate, timers, batching, fetching of bundles, and complaints about the primary.
//
// It knows no clock, disk, socket or goroutine. A driver hands it inputs, each with the time, and
// performs what the [Output] says. Everything that reaches it from a node went through a [Decoder].
//
// Invariants:
//   - nothing in a machine's SendDurable leaves before every record until then is durable;
//   - decisions are delivered in sequence order, each once, each continuing the chain;
//   - a bundle named by a live proposal is kept until that proposal is decided or gone;
//   - every store is bounded, and what a full one drops is counted by reason.
package engine

import (
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
)

// Limits bounds what an engine keeps. Zero fields take the defaults.
type Limits struct {
	PoolBundles     int // undecided bundles from clients; more are dropped, the client resends
	PoolBytes       int
	ClientBundles   int // of one client in the pool
	ClientBytes     int
	BatchBundles    int // in one proposal
	BatchBytes      int
	EagerBytes      int // so much that waits is proposed though the newest proposal is not prepared yet
	InlineBytes     int // of bundles that travel inside one proposal because others lack them
	RetainBundles   int // decided bundles kept to serve fetches
	RetainBytes     int
	LooseBytes      int // bundles that came with peers' messages and no proposal names yet; each peer has an equal share
	RecentIDs       int // decided bundle ids remembered, so that a duplicate is not pooled again
	Wanted          int // bundles being fetched
	AheadBytes      int // decided but not executed; at the bound this replica stops proposing
	AheadDecisions  int
	ServeBytes      int // bundles served to one peer a second
	StateWindow     int // bytes of a checkpoint asked for and not yet stored
	StatePerSource  int // questions about a checkpoint open at one peer, and answered to one peer at once
	OvertakeBytes   int // X: a forwarded bundle is called censored once more bytes that arrived later were decided
	CheckpointEvery smr.SeqNo
}

// Config is what an engine is made from.
type Config struct {
	Params  protocol.Params
	Factory protocol.Factory
	Limits  Limits
	// CheckpointBytes is the least number of decided bytes between two checkpoints. It and
	// Limits.CheckpointEvery must be equal on all replicas.
	CheckpointBytes uint64
	GraceTime       time.Duration // a lacking bundle may still arrive by itself
	RetryTime       time.Duration // between two fetches, log requests, view queries
	TickTime        time.Duration // complaints and resending are looked at so often
	SlowFraction    float64       // complain below this share of the expected throughput; 0 = never
}

func orInt(p *int, v int) {
	if *p == 0 {
		*p = v
	}
}

func orTime(p *time.Duration, v time.Duration) {
	if *p == 0 {
		*p = v
	}
}

func (c *Config) setDefaults() {
	l := &c.Limits
	orInt(&l.PoolBundles, 64<<10)
	orInt(&l.PoolBytes, 64<<20)
	orInt(&l.ClientBundles, 8<<10)
	orInt(&l.ClientBytes, 16<<20)
	orInt(&l.BatchBundles, smr.MaxBatchBundles)
	orInt(&l.BatchBytes, 1<<20)
	l.BatchBundles = min(l.BatchBundles, smr.MaxBatchBundles)
	l.BatchBytes = min(l.BatchBytes, smr.MaxBatchBytes)
	orInt(&l.EagerBytes, l.BatchBytes/4)
	orInt(&l.InlineBytes, 256<<10)
	orInt(&l.RetainBundles, 16<<10)
	orInt(&l.RetainBytes, 32<<20)
	orInt(&l.LooseBytes, 16<<20)
	orInt(&l.RecentIDs, 64<<10)
	orInt(&l.Wanted, 64<<10)
	orInt(&l.AheadBytes, 64<<20)
	orInt(&l.AheadDecisions, 1024)
	orInt(&l.ServeBytes, 64<<20)
	orInt(&l.StateWindow, 16<<20)
	orInt(&l.StatePerSource, 4)
	orInt(&l.OvertakeBytes, 1<<20)
	if l.CheckpointEvery == 0 {
		// The window above the stable checkpoint must not close before the next one is stable.
		l.CheckpointEvery = c.Params.Window / 2
	}
	if c.CheckpointBytes == 0 {
		c.CheckpointBytes = 64 << 20
	}
	base := c.Params.BaseTimeout
	if base == 0 {
		base = time.Second
	}
	orTime(&c.GraceTime, max(base/50, time.Millisecond))
	orTime(&c.RetryTime, max(base/8, 2*time.Millisecond))
	orTime(&c.TickTime, max(base/8, 2*time.Millisecond))
}

// Boot is what a replica found on its disk.
type Boot struct {
	Recovered protocol.Recovered
	// Bundles holds the bundles of all recovered proposals, decided or live.
	Bundles []*smr.Bundle
	// Checkpoint certifies the newest checkpoint on disk; zero if none is certified.
	Checkpoint auth.CheckpointCert
	// CheckpointSize is the size in bytes of the checkpoint at Recovered.Base; see CheckpointSize.
	CheckpointSize uint64
	// Executed is what execution restored: the newest checkpoint's sequence number.
	Executed smr.SeqNo
	// Observe says that this replica must never vote: its vote state is known to be lost.
	Observe bool
	// SkipVoteCheck lets it vote without asking others what they have seen of it.
	SkipVoteCheck bool
}

// Package state holds ready-made application state that is captured cheaply and moves in parts.
//
// [Map] is an ordered map as divisible state: [Memory] keeps it in memory, [Pebble] on disk. Its parts
// are ranges of keys with bounds that only move when a part grows too large or too small, so a change
// of one key changes one part. Which parts there are follows from the changes made, and is itself in
// the parts; both kinds divide alike. A capture costs nothing, and only the parts that changed since
// the last one are hashed.
//
// [Tree] is what Memory is built on: an ordered map whose Clone costs nothing, since the copy and
// the original share nodes and copy them on write.
package state

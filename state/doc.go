// Package state holds ready-made structures for application state that can be captured cheaply.
//
// [Tree] is an ordered map in memory whose Clone costs nothing: the copy and the original share
// nodes and copy them on write, so a capture can be written to disk beside execution.
package state

package state

import "github.com/atlas-smr/smr"

// Map is an ordered map from strings of any bytes to values, as divisible state: [Memory] holds it
// in memory, [Pebble] on disk. What an application sees of the two is the same, and so are their
// parts, byte for byte, so replicas of one cluster may choose differently.
//
// A map belongs to one goroutine, the one on which the application executes; captures and writers of
// parts follow [smr.Divisible]. An error other than [ErrLimit] is a local fault: report it with
// ctx.Fence, since this replica can no longer know its state.
type Map interface {
	smr.Divisible
	// Get returns the value of key. It must not be changed; it stays valid.
	Get(key string) (value []byte, ok bool, err error)
	// Set sets the value of key and keeps value, which must not be changed afterwards. A key has at
	// most MaxKeyBytes, a value at most MaxValueBytes; beyond them the error is ErrLimit and nothing
	// changed.
	Set(key string, value []byte) error
	// Delete removes key and reports whether it was there.
	Delete(key string) (bool, error)
	// Scan calls fn for the pairs with from <= key, and key < to unless to is empty, in ascending
	// order of the bytes of the keys, until fn returns false. value is valid during the call only. fn
	// must not change the map.
	Scan(from, to string, fn func(key string, value []byte) bool) error
	// Len returns the number of keys.
	Len() int
	// Meta returns what SetMeta set last, nil at first.
	Meta() []byte
	// SetMeta sets the few bytes of state that the application has beside the pairs, at most
	// MaxMetaBytes: they are captured, stored and moved with it. The map keeps meta.
	SetMeta(meta []byte) error
}

var _, _ Map = (*Memory)(nil), (*Pebble)(nil)

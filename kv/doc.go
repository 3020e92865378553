// Package kv is a replicated key-value application: get, put, delete, compare-and-set and paged
// scans over binary keys and values. [Service] is what a replica runs; [Put], [Get] and their like
// make the requests a client sends.
//
// It is also the worked example of an application: a compact codec of its own ([RequestCodec],
// [ReplyCodec]), a [Store] that answers unordered reads with the version of what they read, and
// state that is captured in constant time.
package kv

import "github.com/atlas-smr/smr"

// Service returns a new, empty store as a service for a replica.
func Service() smr.Service { return New().Service() }

// Service binds s to its codecs.
func (s *Store) Service() smr.Service {
	return smr.NewService[Request, Reply](s, RequestCodec{}, ReplyCodec{})
}

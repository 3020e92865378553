package kv

import (
	"fmt"
	"slices"

	"github.com/atlas-smr/smr"
)

// Op is what a request asks for. Values are part of the wire format.
type Op uint8

// The ops. Get and Scan may be sent unordered.
const (
	OpGet    Op = 1
	OpPut    Op = 2
	OpDelete Op = 3
	OpCAS    Op = 4 // put if the present value is the expected one, or if absence is expected
	OpScan   Op = 5
)

var opNames = [...]string{"none", "get", "put", "delete", "cas", "scan"}

// String names the op.
func (o Op) String() string {
	if int(o) < len(opNames) {
		return opNames[o]
	}
	return fmt.Sprintf("op(%d)", uint8(o))
}

// Limits of the store. A value of full size under a key of full size fits one op and one reply.
const (
	MaxKeyBytes   = 4 << 10
	MaxValueBytes = smr.MaxReplyBytes - 2*MaxKeyBytes - 1<<10
	MaxScanPairs  = 4096
	MaxScanBytes  = 512 << 10 // keys and values of one page; one pair always fits
)

// Request is one operation. Make one with Get, Put, Delete, CAS, Create or Scan.
type Request struct {
	Op     Op
	Key    string // Scan: the first key, inclusive
	Value  []byte // Put, CAS. The store keeps it, and what its capacity has beyond its length: do not change them afterwards
	Expect []byte // CAS: the value expected to be there
	Absent bool   // CAS: no value is expected to be there; Expect is empty
	End    string // Scan: the key to stop before; empty: none
	Limit  uint32 // Scan: pairs at most, in 1..MaxScanPairs; 0 means MaxScanPairs
}

// Status is what became of a request.
type Status uint8

// The statuses. Everything but StatusOK changed nothing.
const (
	StatusOK       Status = 1
	StatusNotFound Status = 2 // Get, Delete: no such key
	StatusMismatch Status = 3 // CAS: Value, if Found, is what is there instead
	StatusInvalid  Status = 4 // a limit was exceeded, or a write was sent unordered
)

var statusNames = [...]string{"none", "ok", "not found", "mismatch", "invalid"}

// String names the status.
func (s Status) String() string {
	if int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("status(%d)", uint8(s))
}

// Pair is a key with its value.
type Pair struct {
	Key   string
	Value []byte
}

// Reply answers a Request.
type Reply struct {
	Status  Status
	Found   bool      // Get, CAS with a mismatch: there is a value
	Value   []byte    // that value
	Version smr.SeqNo // of that value: the sequence number at which it was written
	Pairs   []Pair    // Scan, ascending
	More    bool      // Scan: pairs may remain; go on with Next
}

// bytesLike is what keys and values may be given as.
type bytesLike interface{ ~string | ~[]byte }

// Get asks for the value of key.
func Get[K bytesLike](key K) Request { return Request{Op: OpGet, Key: string(key)} }

// Put sets the value of key.
func Put[K, V bytesLike](key K, value V) Request {
	return Request{Op: OpPut, Key: string(key), Value: slices.Clip([]byte(value))}
}

// Delete removes key.
func Delete[K bytesLike](key K) Request { return Request{Op: OpDelete, Key: string(key)} }

// CAS sets the value of key if it is expect now.
func CAS[K, E, V bytesLike](key K, expect E, value V) Request {
	return Request{Op: OpCAS, Key: string(key), Expect: []byte(expect), Value: slices.Clip([]byte(value))}
}

// Create sets the value of key if it has none now.
func Create[K, V bytesLike](key K, value V) Request {
	return Request{Op: OpCAS, Key: string(key), Absent: true, Value: slices.Clip([]byte(value))}
}

// Scan asks for the first page of the pairs with from <= key < end; an empty end is no bound.
// limit is the number of pairs at most, 0 for as many as a page takes.
func Scan[K, E bytesLike](from K, end E, limit int) Request {
	return Request{Op: OpScan, Key: string(from), End: string(end), Limit: uint32(max(0, min(limit, MaxScanPairs)))}
}

// Prefix asks for the first page of the pairs whose key starts with prefix.
func Prefix[K bytesLike](prefix K, limit int) Request {
	end := []byte(string(prefix))
	for len(end) > 0 && end[len(end)-1] == 0xff {
		end = end[:len(end)-1]
	}
	if len(end) > 0 {
		end[len(end)-1]++
	}
	return Scan(prefix, end, limit)
}

// Next returns the request for the page after rep, which answered r. It is of use only if rep.More.
func (r Request) Next(rep Reply) Request {
	if n := len(rep.Pairs); n > 0 {
		r.Key = rep.Pairs[n-1].Key + "\x00"
	}
	return r
}

// Writes reports whether r can change the store, and so must be ordered.
func (r Request) Writes() bool { return r.Op == OpPut || r.Op == OpDelete || r.Op == OpCAS }

// Check reports the limit that r exceeds.
func (r Request) Check() error {
	switch {
	case r.Op < OpGet || r.Op > OpScan:
		return fmt.Errorf("unknown %v", r.Op)
	case len(r.Key) > MaxKeyBytes+1 || len(r.Key) > MaxKeyBytes && r.Op != OpScan:
		return fmt.Errorf("key of %d bytes, at most %d", len(r.Key), MaxKeyBytes)
	case len(r.End) > MaxKeyBytes+1:
		return fmt.Errorf("end key of %d bytes, at most %d", len(r.End), MaxKeyBytes)
	case len(r.Value) > MaxValueBytes:
		return fmt.Errorf("value of %d bytes, at most %d", len(r.Value), MaxValueBytes)
	case r.Limit > MaxScanPairs:
		return fmt.Errorf("scan of %d pairs, at most %d", r.Limit, MaxScanPairs)
	}
	return nil
}

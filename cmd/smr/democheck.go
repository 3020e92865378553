package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/kv"
)

// view is the whole key space as somebody holds it at the end.
type view struct {
	who  string
	read func(key string) (value []byte, version smr.SeqNo, found bool)
	keys int
}

// verdict is what the final comparison found.
type verdict struct {
	lost, duplicated int
	examples         []string // the first few findings, in words
}

func (v *verdict) find(format string, args ...any) {
	if len(v.examples) < 8 {
		v.examples = append(v.examples, fmt.Sprintf(format, args...))
	}
}

// compare holds what was acknowledged against what each view has at the end.
//
// Lost: an acknowledged write of a key that nobody else writes, whose value some view lacks.
//
// Duplicated: every acknowledged write is executed at one sequence number, which the replicas agree on
// in their replies and which the store keeps as the value's version. A write that was executed again
// later left a higher version, or brought a value back after the key was written anew or removed; one
// executed before its answer's left the key with a version that no answer named. Keys that nobody
// wrote count as well.
func compare(events []event, views []view) verdict {
	var v verdict
	last := map[string]event{} // row keys: the one write
	shared := map[string]bool{}
	for _, e := range events {
		if e.req.Op == kv.OpPut && !isShared(e.req.Key) {
			last[e.req.Key] = e
		} else if isShared(e.req.Key) {
			shared[e.req.Key] = true
		}
	}
	keys := slices.Sorted(maps.Keys(last))
	for _, w := range views {
		extra := w.keys
		for _, k := range keys {
			e := last[k]
			value, version, found := w.read(k)
			if found {
				extra--
			}
			switch {
			case !sameValue(found, value, e.req.Value):
				v.lost++
				v.find("%s: key %q: acknowledged at %d, but it holds %q", w.who, k, e.seq, value)
			case e.seq != 0 && version != 0 && version != e.seq:
				v.duplicated++
				v.find("%s: key %q: executed at %d and again at %d", w.who, k, e.seq, version)
			}
		}
		for k := range shared {
			if _, _, found := w.read(k); found {
				extra--
			}
		}
		if extra > 0 {
			v.duplicated += extra
			v.find("%s: %d keys that nobody wrote", w.who, extra)
		}
	}
	return v
}

// isShared reports whether key is one that all clients of the demo share.
func isShared(key string) bool { return len(key) > 7 && key[:7] == "shared/" }

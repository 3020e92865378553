package history

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/kv"
)

// View is the whole key space as somebody holds it at the end.
type View struct {
	Who string
	// Read returns what a key holds, and the sequence number at which it was written, 0 if unknown.
	Read func(key string) (value []byte, version smr.SeqNo, found bool)
	Keys int
}

// Verdict is what a comparison found.
type Verdict struct {
	Lost, Duplicated int
	Examples         []string // the first few findings, in words
}

// Find adds an example.
func (v *Verdict) Find(format string, args ...any) {
	if len(v.Examples) < 8 {
		v.Examples = append(v.Examples, fmt.Sprintf(format, args...))
	}
}

// Compare holds what was acknowledged against what each view has at the end. once says which keys are
// written by at most one put in the whole history; of the others it only knows that they exist.
//
// Lost: an acknowledged write of a key of the first kind whose value some view lacks.
//
// Duplicated: every acknowledged write is executed at one sequence number, which the replicas agree on
// in their replies and which the store keeps as the value's version. A write that was executed again
// later left a higher version, or brought a value back after the key was written anew or removed; one
// executed before its answer's left the key with a version that no answer named. Keys that nobody
// wrote count as well.
func Compare(events []Event, views []View, once func(key string) bool) Verdict {
	var v Verdict
	single := map[string]Event{} // the one write of each key of the first kind
	others := map[string]bool{}
	for _, e := range events {
		if !once(e.Req.Key) {
			others[e.Req.Key] = true
		} else if e.Req.Op == kv.OpPut {
			single[e.Req.Key] = e
		}
	}
	keys := slices.Sorted(maps.Keys(single))
	for _, w := range views {
		extra := w.Keys
		for _, k := range keys {
			e := single[k]
			value, version, found := w.Read(k)
			if found {
				extra--
			}
			switch {
			case e.Open && !found:
			case !found || !bytes.Equal(value, e.Req.Value):
				v.Lost++
				v.Find("%s: key %q: acknowledged at %d, but it holds %q", w.Who, k, e.Seq, value)
			case e.Seq != 0 && version != 0 && version != e.Seq:
				v.Duplicated++
				v.Find("%s: key %q: executed at %d and again at %d", w.Who, k, e.Seq, version)
			}
		}
		for k := range others {
			if _, _, found := w.Read(k); found {
				extra--
			}
		}
		if extra > 0 {
			v.Duplicated += extra
			v.Find("%s: %d keys that nobody wrote", w.Who, extra)
		}
	}
	return v
}

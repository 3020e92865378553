package engine

import "fmt"

// bounded is implemented by orderings that can check their own tables.
type bounded interface {
	// Overfull names a table that is beyond its bound, or returns the empty string.
	Overfull() string
}

// Overfull names a table of the engine or its ordering that is beyond its bound, with its size, or
// returns the empty string: it must always. It is cheap enough for every input of a simulation.
func (e *Engine) Overfull() string {
	s, l := e.store, &e.cfg.Limits
	switch {
	case s.pooled > l.PoolBundles+len(s.slots):
		return fmt.Sprintf("pool: %d bundles of %d and %d in slots", s.pooled, l.PoolBundles, len(s.slots))
	case len(s.slots) > l.PoolBundles:
		return fmt.Sprintf("pool: %d slots of %d", len(s.slots), l.PoolBundles)
	case len(s.slots) == 0 && s.bytes > l.PoolBytes:
		return fmt.Sprintf("pool: %d bytes of %d", s.bytes, l.PoolBytes)
	case s.retained.count > l.RetainBundles:
		return fmt.Sprintf("retained: %d bundles of %d", s.retained.count, l.RetainBundles)
	case s.retained.bytes > l.RetainBytes && s.retained.count > 1:
		return fmt.Sprintf("retained: %d bytes of %d", s.retained.bytes, l.RetainBytes)
	case s.promised.bytes > l.PoolBytes:
		return fmt.Sprintf("promised: %d bytes of %d", s.promised.bytes, l.PoolBytes)
	case len(s.recent.set) > l.RecentIDs:
		return fmt.Sprintf("recent: %d ids of %d", len(s.recent.set), l.RecentIDs)
	case len(e.fetch.wants) > l.Wanted:
		return fmt.Sprintf("wanted: %d bundles of %d", len(e.fetch.wants), l.Wanted)
	case len(e.counts.list) > reasonsLimit+1:
		return fmt.Sprintf("reasons: %d of %d", len(e.counts.list), reasonsLimit)
	}
	for i := range s.loose {
		if x := &s.loose[i]; x.bytes > s.looseBytes() && x.count > 1 {
			return fmt.Sprintf("loose: %d bytes of node %d of %d", x.bytes, x.peer, s.looseBytes())
		}
	}
	if o, ok := e.ord.(bounded); ok {
		return o.Overfull()
	}
	return ""
}

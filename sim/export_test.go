package sim

// WithoutReadGate puts a known bug into a run: replicas answer unordered requests right after a
// start, before they executed what a quorum may have acknowledged.
func WithoutReadGate(o Options) Options {
	o.ignoreReadGate = true
	return o
}

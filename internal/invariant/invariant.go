// Package invariant states what must hold. A broken invariant is a bug of ours, never the result
// of remote input: it panics, and the driver fences the replica.
package invariant

import "fmt"

// Check panics with the formatted message unless ok holds.
func Check(ok bool, format string, args ...any) {
	if !ok {
		panic(Violation(fmt.Sprintf(format, args...)))
	}
}

// Violation is the value Check panics with.
type Violation string

// Error makes a recovered Violation usable as an error.
func (v Violation) Error() string { return "broken invariant: " + string(v) }

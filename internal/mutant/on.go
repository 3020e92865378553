//go:build mutant

package mutant

import "os"

var chosen = choose()

func choose() Name {
	if name := os.Getenv(Env); name != "" {
		return Parse(name)
	}
	return None
}

// On reports whether the process has mutant n.
func On(n Name) bool { return n == chosen && n != None }

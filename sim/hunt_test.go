//go:build mutant

package sim_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/atlas-smr/smr/internal/mutant"
)

// TestMain makes the binary a hunt if it is started as one.
func TestMain(m *testing.M) {
	from := os.Getenv(huntEnv)
	if from == "" {
		os.Exit(m.Run())
	}
	if err := runHunt(from); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func runHunt(from string) error {
	name := mutant.Parse(os.Getenv(mutant.Env))
	if from == exhaustive {
		f, err := explore(checked[name])
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(f)
	}
	first, err := strconv.ParseUint(from, 10, 64)
	if err != nil {
		return err
	}
	for _, b := range knownBugs {
		if b.mutant == name {
			f, err := b.hunt(first, b.within)
			if err != nil {
				return err
			}
			return json.NewEncoder(os.Stdout).Encode(f)
		}
	}
	return fmt.Errorf("no hunt for %s", name)
}

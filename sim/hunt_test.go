//go:build mutant

package sim_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/sim"
	"github.com/atlas-smr/smr/sim/check"
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

// hunt runs seeds until one fails. In a process without a mutant none does.
func (b knownBug) hunt(first, seeds uint64) (found, error) {
	for i := range seeds {
		o, err := b.plan(first + i)
		if err != nil {
			return found{}, err
		}
		r, err := sim.Run(first+i, o)
		if err != nil || !r.OK() {
			return found{first + i, i + 1, r.Failure}, err
		}
	}
	return found{}, nil
}

// explore looks for a violation within bounds; Tries is the number of states that it took.
func explore(o check.Options) (found, error) {
	o.Factory, o.Replicas = pbft.Factory(), 4
	r, err := check.Run(context.Background(), o)
	return found{Tries: uint64(r.States), Failure: r.Violation}, err
}

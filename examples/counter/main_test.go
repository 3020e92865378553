package main

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/smrtest"
)

func TestCounterKeepsTheRules(t *testing.T) {
	smrtest.Application(t, func() smr.Service { return smr.NewService(&counter{}, number, number) }, func(rng *rand.Rand) []byte {
		if rng.IntN(10) == 0 {
			return []byte("not a number")
		}
		return strconv.AppendInt(nil, int64(rng.Uint64()), 10)
	})
}

func TestTheSmallestApplicationStaysSmall(t *testing.T) {
	b, err := os.ReadFile("main.go")
	if n := strings.Count(string(b), "\n"); err != nil || n > 60 {
		t.Errorf("%d lines, at most 60 (%v)", n, err)
	}
}

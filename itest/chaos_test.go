package itest

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/replica"
)

func TestChaosLosesNothingRepeatsNothingAndHeals(t *testing.T) {
	s := *seed
	if s == 0 {
		s = rand.Uint64()>>1 | 1
	}
	t.Logf("faults of seed %d: go test ./itest -run Chaos -v -seed %d -minutes %g", s, s, *minutes)
	rng := rand.New(rand.NewPCG(s, 0))
	var disks []smr.NodeID
	for _, i := range rng.Perm(4)[:2] {
		disks = append(disks, smr.NodeID(i+1))
	}
	const clients = 4
	c, leftOut := prepare(t, Options{Clients: clients, SmallDisks: disks, DiskBytes: 2 << 30, Limits: replica.Limits{CheckpointBytes: 1 << 20}})
	for _, what := range leftOut {
		t.Log("LEFT OUT:", what)
	}
	startAll(t, c)
	r, err := Chaos(t.Context(), c, ChaosOptions{
		Seed: s, For: time.Duration(*minutes * float64(time.Minute)), Rate: 240, Clients: clients, LeftOut: leftOut,
		HealWithin: time.Minute, Say: t.Logf,
	})
	if r != nil {
		b, _ := json.Marshal(r)
		t.Logf("report: %s", b)
	}
	must(t, err)
	for _, w := range r.Wrong {
		t.Error(w)
	}
	if r.Acked == 0 || r.Rounds == 0 {
		t.Error("nothing was done")
	}
}

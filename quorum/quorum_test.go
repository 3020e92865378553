package quorum

import (
	"errors"
	"math"
	"testing"

	"github.com/atlas-smr/smr"
)

func members(n int) []Member {
	out := make([]Member, n)
	for i := range out {
		out[i] = Member{ID: smr.NodeID(i + 1), Role: Voter, Key: smr.PublicKey{byte(i), byte(i >> 8), 1}}
	}
	return out
}

func membership(t *testing.T, model Model, n, f int) *Membership {
	t.Helper()
	m, err := New(smr.ClusterID{1}, 1, model, f, members(n), 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// Exhaustive over every n and f a membership may have: quorums intersect where they must, and the
// correct replicas alone make one.
func TestAnyTwoQuorumsShareACorrectReplica(t *testing.T) {
	for _, model := range []Model{Byzantine, Crash} {
		for n := 1; n <= MaxMembers; n++ {
			for f := 0; f <= model.MaxFaults(n); f++ {
				q := model.Size(n, f)
				overlap := 2*q - n
				need := 1
				if model == Byzantine {
					need = f + 1
				}
				if overlap < need {
					t.Fatalf("%s n=%d f=%d: quorums of %d overlap in %d, need %d", model, n, f, q, overlap, need)
				}
				if q > n-f {
					t.Fatalf("%s n=%d f=%d: a quorum of %d needs a faulty replica", model, n, f, q)
				}
			}
		}
	}
}

func TestQuorumSizeIsNotTwoFPlusOneForEveryN(t *testing.T) {
	for _, c := range []struct {
		model   Model
		n, f, q int
	}{
		{Byzantine, 1, 0, 1}, {Byzantine, 4, 1, 3}, {Byzantine, 5, 1, 4}, {Byzantine, 6, 1, 4}, {Byzantine, 7, 2, 5},
		{Byzantine, 10, 3, 7}, {Byzantine, 10, 1, 6}, {Crash, 3, 1, 2}, {Crash, 4, 1, 3}, {Crash, 5, 2, 3},
	} {
		if q := c.model.Size(c.n, c.f); q != c.q {
			t.Errorf("%s n=%d f=%d: quorum %d, want %d", c.model, c.n, c.f, q, c.q)
		}
	}
}

func TestPrimaryRotatesAndNeverOverflows(t *testing.T) {
	m := membership(t, Byzantine, 4, 1)
	seen := map[smr.NodeID]bool{}
	for v := smr.View(0); v < 4; v++ {
		seen[m.Primary(v)] = true
		if m.Primary(v) != m.Primary(v+4) {
			t.Errorf("view %d and %d have different primaries", v, v+4)
		}
	}
	if len(seen) != 4 {
		t.Errorf("4 views had %d primaries", len(seen))
	}
	if _, ok := m.Index(m.Primary(math.MaxUint64)); !ok {
		t.Error("the last view has no primary")
	}
}

func TestInvalidMembershipsAreRefused(t *testing.T) {
	twice := members(4)
	twice[3].Key = twice[0].Key
	unordered := members(4)
	unordered[0].ID, unordered[1].ID = 2, 1
	for name, c := range map[string]struct {
		model Model
		f     int
		ms    []Member
		first smr.NodeID
	}{
		"too few for f":    {Byzantine, 1, members(3), 0},
		"crash too few":    {Crash, 2, members(4), 0},
		"negative f":       {Byzantine, -1, members(4), 0},
		"shared key":       {Byzantine, 1, twice, 0},
		"unordered":        {Byzantine, 1, unordered, 0},
		"foreign primary":  {Byzantine, 1, members(4), 9},
		"no model":         {0, 0, members(1), 0},
		"nobody":           {Byzantine, 0, nil, 0},
		"too many members": {Byzantine, 1, members(MaxMembers + 1), 0},
	} {
		if _, err := New(smr.ClusterID{}, 1, c.model, c.f, c.ms, c.first); !errors.Is(err, ErrMembership) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDigestBindsEveryField(t *testing.T) {
	base := membership(t, Byzantine, 4, 1).Digest()
	changed := members(4)
	changed[2].Addr = "elsewhere:1"
	for name, f := range map[string]func() (*Membership, error){
		"cluster": func() (*Membership, error) { return New(smr.ClusterID{2}, 1, Byzantine, 1, members(4), 0) },
		"epoch":   func() (*Membership, error) { return New(smr.ClusterID{1}, 2, Byzantine, 1, members(4), 0) },
		"f":       func() (*Membership, error) { return New(smr.ClusterID{1}, 1, Byzantine, 0, members(4), 0) },
		"model":   func() (*Membership, error) { return New(smr.ClusterID{1}, 1, Crash, 1, members(4), 0) },
		"n":       func() (*Membership, error) { return New(smr.ClusterID{1}, 1, Byzantine, 1, members(5), 0) },
		"address": func() (*Membership, error) { return New(smr.ClusterID{1}, 1, Byzantine, 1, changed, 0) },
		"first":   func() (*Membership, error) { return New(smr.ClusterID{1}, 1, Byzantine, 1, members(4), 2) },
	} {
		m, err := f()
		if err != nil {
			t.Fatal(name, err)
		}
		if m.Digest() == base {
			t.Errorf("%s does not change the digest", name)
		}
	}
}

func TestTallyCountsAVoterOnce(t *testing.T) {
	tally := NewTally[string](membership(t, Byzantine, 4, 1))
	if n := tally.State(1, "a"); n != 1 {
		t.Fatal(n)
	}
	if n := tally.State(1, "a"); n != 1 {
		t.Fatalf("a repeated statement counts %d", n)
	}
	if n := tally.State(9, "a"); n != 0 || tally.Count("a") != 1 {
		t.Fatal("a stranger counts")
	}
	tally.State(2, "a")
	if tally.State(1, "b"); tally.Count("a") != 1 || tally.Count("b") != 1 || tally.Voters() != 2 {
		t.Fatal("a changed mind is counted twice")
	}
}

func TestHighestNeedsThatManyVoters(t *testing.T) {
	tally := NewTally[int](membership(t, Byzantine, 7, 2))
	less := func(a, b int) bool { return a < b }
	for i, v := range []int{5, 1000, 7, 6} {
		tally.State(smr.NodeID(i+1), v)
	}
	if v, ok := Highest(tally, 3, less); !ok || v != 6 {
		t.Errorf("third highest: %d %v", v, ok)
	}
	if _, ok := Highest(tally, 5, less); ok {
		t.Error("the fifth of four")
	}
}

func TestSetIsASet(t *testing.T) {
	var s Set
	if !s.Add(130) || s.Add(130) || !s.Add(0) || s.Len() != 2 || !s.Has(130) || s.Has(129) || s.Has(4000) {
		t.Error("not a set")
	}
}

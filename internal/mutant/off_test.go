//go:build !mutant

package mutant

import "testing"

func TestABuildWithoutTheTagHasNoMutant(t *testing.T) {
	t.Setenv(Env, All()[0].String())
	for _, n := range All() {
		if On(n) {
			t.Errorf("%s is on", n)
		}
	}
	if n := testing.AllocsPerRun(10, func() { On(WeakQuorum) }); n != 0 {
		t.Errorf("On allocates %v times", n)
	}
}

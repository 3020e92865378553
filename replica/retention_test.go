package replica

import (
	"testing"

	"github.com/atlas-smr/smr"
)

func TestTheLogKeepsItsLastBytesBelowAStableCheckpoint(t *testing.T) {
	r := retention{keep: 100}
	for _, c := range []struct {
		add          uint64
		stable, upto smr.SeqNo
	}{
		{30, 10, 0}, {30, 20, 0}, {30, 30, 0}, // 90 decided, marks at 30, 60, 90
		{40, 40, 10},  // 130 decided: what was decided by 30 may go
		{0, 40, 0},    // told again
		{60, 50, 30},  // 190 decided: two at once
		{500, 60, 50}, // a large batch takes all but the newest
	} {
		r.add(c.add)
		if upto := r.stable(c.stable); upto != c.upto {
			t.Errorf("stable at %d: the log may go up to %d, want %d", c.stable, upto, c.upto)
		}
	}
}

func TestWithoutRetentionEverythingGoes(t *testing.T) {
	var r retention
	if upto := r.stable(7); upto != 7 {
		t.Error(upto)
	}
}

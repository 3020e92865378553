package pbft

import (
	"testing"

	"github.com/atlas-smr/smr/auth"
)

// A later view may pass over what is prepared and not committed. A replica that took it for final
// fetched it for ever from logs that never held it, and the cluster with it (sim, lying replicas).
func TestWhatIsPreparedIsNotCertified(t *testing.T) {
	b := newBench(t, 4, 2)
	first := b.proposal(0, nil)
	b.receive(1, first)
	b.receive(3, b.cert(auth.KindPrepare, first.Header))
	if s := b.r.Status(); s.Prepared != 1 || s.Certified != 0 {
		t.Fatalf("prepared %d, certified %d; want 1 and 0", s.Prepared, s.Certified)
	}
	// A lock of another voter that view 1 starts from is no decision either.
	second := b.proposal(0, first.Header)
	b.receive(4, b.timeoutCert(0, nil, b.cert(auth.KindPrepare, second.Header), nil))
	if s := b.r.Status(); s.View != 1 || s.Prepared != 2 || s.Certified != 0 {
		t.Fatalf("view %d, prepared %d, certified %d; want 1, 2 and 0", s.View, s.Prepared, s.Certified)
	}
	b.receive(1, b.cert(auth.KindCommit, second.Header))
	if s := b.r.Status(); s.Certified != 2 {
		t.Fatalf("certified %d by a commit certificate for 2", s.Certified)
	}
}

package pbft

import "fmt"

// Overfull names a table that is beyond its bound, with its size, or returns the empty string: it
// must always. Sequence numbers are bounded by the window above the stable checkpoint and by the
// decided ones that are kept to answer with. Headers of certified proposals beyond the window are
// learnt as well, until log transfer has filled the gap, which begins at farBehind.
func (r *Replica) Overfull() string {
	seqs := int(r.p.Window) + keepDecided + 1
	headers := keepDecided + 1 + 4*(int(r.p.Window)+farBehind)
	switch {
	case len(r.slots) > seqs:
		return fmt.Sprintf("slots: %d of %d", len(r.slots), seqs)
	case len(r.bySeq) > headers:
		return fmt.Sprintf("sequence numbers with headers: %d of %d", len(r.bySeq), headers)
	case len(r.ahead) > int(r.p.Window):
		return fmt.Sprintf("proposals ahead: %d of %d", len(r.ahead), r.p.Window)
	case len(r.wanted) > seqs*(r.n+1):
		return fmt.Sprintf("wanted headers: %d of %d", len(r.wanted), seqs*(r.n+1))
	}
	for i := range r.early {
		if r.early[i].bytes > maxEarlyBytes {
			return fmt.Sprintf("early messages of voter %d: %d bytes of %d", i, r.early[i].bytes, maxEarlyBytes)
		}
	}
	return ""
}

package storage

import (
	"path/filepath"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// BenchmarkGroupCommit appends proposals of 8 KiB without waiting, as a loaded replica does.
func BenchmarkGroupCommit(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "data")
	must(b, Init(dir, testID))
	s, err := Open(dir, testID, Options{})
	must(b, err)
	bs := []*smr.Bundle{bundle(b, 1<<20, 1, 8<<10)}
	b.ReportAllocs()
	b.SetBytes(8 << 10)
	for i := 1; b.Loop(); i++ {
		r, _ := proposal(smr.SeqNo(i), 0, bs...)
		s.Append(uint64(i), []protocol.Record{r}, [][]*smr.Bundle{bs})
	}
	must(b, s.Close())
	st := s.Stats()
	b.ReportMetric(float64(st.Records)/float64(st.Commits), "records/commit")
	b.ReportMetric(float64(st.CommitTime.Microseconds())/float64(st.Commits), "us/commit")
}

package pbft

import (
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
)

// checkEvidence checks that whatever a replica says it has seen of another it can show.
func checkEvidence(t *testing.T, c *cluster) (shown int) {
	t.Helper()
	for _, x := range c.nodes {
		for _, y := range c.nodes {
			seen, raw := x.ord.Seen(y.id), x.ord.Evidence(y.id)
			if (seen == protocol.Mark{}) != (raw == nil) {
				t.Fatalf("replica %d has seen %+v of %d and shows %d bytes", x.id, seen, y.id, len(raw))
			}
			if raw == nil {
				continue
			}
			shown++
			if got, err := c.codec.OpenEvidence(y.id, raw); err != nil || got != seen {
				t.Fatalf("replica %d has seen %+v of %d and shows %+v: %v", x.id, seen, y.id, got, err)
			}
			if _, err := c.codec.OpenEvidence(1+y.id%smr.NodeID(len(c.nodes)), raw); err == nil {
				t.Fatal("a vote counts as another's")
			}
			for i := range raw {
				bad := append([]byte(nil), raw...)
				bad[i] ^= 4
				if got, err := c.codec.OpenEvidence(y.id, bad); err == nil && got != seen {
					t.Fatalf("with byte %d changed it shows %+v", i, got)
				}
				if _, err := c.codec.OpenEvidence(y.id, raw[:i]); err == nil {
					t.Fatalf("%d of %d bytes are evidence", i, len(raw))
				}
			}
		}
	}
	return shown
}

func TestAReplicaShowsTheVotesItHasSeen(t *testing.T) {
	c := newCluster(t, 4, 1)
	c.boot()
	checkEvidence(t, c)
	for range 20 {
		c.submit()
		c.elapse(20 * time.Millisecond)
	}
	if checkEvidence(t, c) < 12 {
		t.Fatal("votes of some others were not seen")
	}
	c.crash(c.nodes[0]) // a view change: timeouts
	c.submit()
	c.elapse(2 * time.Second)
	checkEvidence(t, c)
	c.start(c.nodes[0])
	if checkEvidence(t, c); c.nodes[0].ord.Evidence(2) == nil && c.nodes[0].ord.Evidence(3) == nil {
		t.Fatal("the votes inside recovered certificates are not shown")
	}
	c.elapse(time.Second)
	checkEvidence(t, c)
}

func TestAVoteSeenOnlyInsideACertificateIsEvidence(t *testing.T) {
	c := newCluster(t, 4, 1)
	v := auth.NewVerifier(c.m, c.scheme)
	h := newHeader(c.m, Header{Epoch: 1, Seq: 1, Time: 5})
	stmt := v.Statement(auth.KindCommit, 0, 1, h.Digest)
	var votes []*auth.Vote
	var timeouts []*Timeout
	for _, id := range []smr.NodeID{1, 3, 4} {
		x, err := v.Sign(id, c.scheme.Signer(uint64(id)), stmt)
		if err != nil {
			t.Fatal(err)
		}
		votes = append(votes, x)
		if x, err = v.Sign(id, c.scheme.Signer(uint64(id)), v.Statement(auth.KindTimeout, 6, 0, lockName{}.bind())); err != nil {
			t.Fatal(err)
		}
		timeouts = append(timeouts, &Timeout{Vote: x})
	}
	cert, err := v.Certify(votes)
	if err != nil {
		t.Fatal(err)
	}
	tc, err := newTimeoutCertificate(v, 6, []*Timeout{timeouts[0], nil, timeouts[1], timeouts[2]})
	if err != nil {
		t.Fatal(err)
	}
	c.start(c.nodes[1])
	var out protocol.Effects
	for _, step := range []struct {
		m    protocol.Message
		want protocol.Mark
	}{
		{&Certificate{Core: h, Cert: cert}, protocol.Mark{Epoch: 1, Seq: 1}},
		{tc, protocol.Mark{Epoch: 1, View: 7}},
	} {
		ord := c.nodes[1].ord
		ord.Receive(c.now, 3, step.m, &out)
		for _, id := range []smr.NodeID{1, 3, 4} {
			if got, err := c.codec.OpenEvidence(id, ord.Evidence(id)); err != nil || got != step.want || ord.Seen(id) != got {
				t.Fatalf("of %d: %+v, want %+v: %v", id, got, step.want, err)
			}
		}
		if ord.Evidence(2) != nil || ord.Evidence(9) != nil {
			t.Fatal("evidence against one who did not vote")
		}
	}
}

func TestEvidenceIsBoundedAndOfVotesOnly(t *testing.T) {
	c := newCluster(t, 4, 1)
	v := auth.NewVerifier(c.m, c.scheme)
	signed := func(kind auth.Kind, seq smr.SeqNo) []byte {
		x, err := v.Sign(2, c.scheme.Signer(2), v.Statement(kind, 3, seq, smr.Digest{1}))
		if err != nil {
			t.Fatal(err)
		}
		return appendMessage(nil, &Vote{Vote: x})
	}
	for _, raw := range [][]byte{
		nil, {kindPrepare}, make([]byte, 1<<20),
		append([]byte{kindComplaint}, signed(auth.KindComplaint, 5)...),
		append([]byte{kindPrepare}, signed(auth.KindProposal, 5)...), // a proposal is no vote
		append([]byte{kindPrepare}, signed(auth.KindPrepare, 0)...),
		append([]byte{kindTimeout}, signed(auth.KindTimeout, 5)...),
	} {
		if _, err := c.codec.OpenEvidence(2, raw); err == nil {
			t.Fatalf("%x is evidence", raw[:min(len(raw), 40)])
		}
	}
}

package engine

import (
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/transfer"
)

func decisionAt(seq smr.SeqNo) Delivery {
	return Delivery{Decision: protocol.Decision{HeaderInfo: protocol.HeaderInfo{Seq: seq, Digest: smr.Digest{byte(seq)}}}}
}

// handedFrom hands out what may go and returns the sequence numbers, and those with a checkpoint.
func handedFrom(d *deliveries, every smr.SeqNo) (seqs, due []smr.SeqNo) {
	for {
		x, ok := d.pop(1<<40, every)
		if !ok {
			return seqs, due
		}
		seqs = append(seqs, x.Decision.Seq)
		if x.Checkpoint {
			due = append(due, x.Decision.Seq)
		}
	}
}

// The first decision handed out after a checkpoint was taken over is the next one, and the next
// checkpoint is due where it is on a replica that made this one itself.
func TestWhatFollowsACheckpointTakenOverIsHandedOutFromTheNextOn(t *testing.T) {
	for _, decided := range []smr.SeqNo{0, 7, 20, 23} { // own decisions when the checkpoint at 20 is taken over
		var d deliveries
		d.init(protocol.HeaderInfo{}, 0, 0)
		for q := smr.SeqNo(1); q <= decided; q++ {
			d.push(decisionAt(q))
		}
		before, _ := handedFrom(&d, 10) // stops at 20: the size of 10 is not known
		d.jump(transfer.Meta{Seq: 20, Chain: smr.Digest{20}, Bytes: 5})
		if d.decided != max(20, decided) || d.digest != (smr.Digest{byte(max(20, decided))}) || d.executed != 20 {
			t.Fatalf("decided %d: at %d, executed %d", decided, d.decided, d.executed)
		}
		for q := d.decided + 1; q <= 33; q++ {
			d.push(decisionAt(q))
		}
		seqs, due := handedFrom(&d, 10)
		if len(seqs) == 0 || seqs[0] != 21 || seqs[len(seqs)-1] != 33 || len(due) != 1 || due[0] != 30 {
			t.Fatalf("decided %d, handed out before %v: then %v, checkpoints %v", decided, before, seqs, due)
		}
		if d.executedTo(33); d.behind != 0 || len(d.sizes) != 0 {
			t.Fatalf("decided %d: %d bytes are left over", decided, d.behind)
		}
	}
}

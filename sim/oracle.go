package sim

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/wire"
)

// oracle holds what must agree across correct replicas and what each of them must never take back.
// It sees only correct replicas.
type oracle struct {
	c        *cluster
	decided  map[smr.SeqNo]decided
	top      smr.SeqNo // highest decided anywhere
	places   map[opKey]opPlace
	roots    map[smr.SeqNo]smr.Digest
	checked  auth.Statement
	asked    map[smr.BundleID]bool // bundles that left a client
	newest   *byte                 // of the request noted last: it goes to every replica
	votes    map[voteKey]smr.Digest
	timeouts map[smr.NodeID]map[smr.Epoch]smr.View // highest view whose timeout left the replica
}

// decided is what the first correct replica delivered at a sequence number.
type decided struct {
	digest smr.Digest
	time   int64
	by     smr.NodeID
}

// opKey names an op; opPlace says where in the order it took effect.
type opKey struct {
	session smr.SessionID
	op      smr.OpNumber
}
type opPlace struct {
	seq   smr.SeqNo
	index int
	op    uint64 // hash of its bytes
	reply uint64
}

type voteKey struct {
	node  smr.NodeID
	epoch smr.Epoch
	view  smr.View
	seq   smr.SeqNo
	kind  auth.Kind
}

func newOracle(c *cluster) *oracle {
	return &oracle{
		c: c, decided: map[smr.SeqNo]decided{}, places: map[opKey]opPlace{}, roots: map[smr.SeqNo]smr.Digest{},
		votes: map[voteKey]smr.Digest{}, asked: map[smr.BundleID]bool{}, timeouts: map[smr.NodeID]map[smr.Epoch]smr.View{},
	}
}

// delivered checks a decision that a correct replica hands to its execution.
func (o *oracle) delivered(n *node, d protocol.Decision) {
	id := n.id
	if d.Proof != nil {
		o.proven(n, d)
	}
	if known, ok := o.decided[d.Seq]; !ok {
		for _, ref := range d.Refs {
			o.c.trace.note("decision %d: bundle %v", d.Seq, ref.ID)
			if !o.asked[ref.ID] {
				o.c.fail("invented: replica %d decided bundle %v at %d, which no client sent", id, ref.ID, d.Seq)
			}
		}
		o.decided[d.Seq] = decided{digest: d.Digest, time: d.Time, by: id}
	} else if known.digest != d.Digest {
		o.c.fail("fork: replica %d decided %s at %d, replica %d had decided %s", id, d.Digest, d.Seq, known.by, known.digest)
	}
	if d.Seq > 1 {
		parent, ok := o.decided[d.Seq-1]
		if ok && parent.digest != d.Parent {
			o.c.fail("chain broken: %d names parent %s, %d is %s", d.Seq, d.Parent, d.Seq-1, parent.digest)
		}
		if ok && parent.time > d.Time {
			o.c.fail("time runs backwards: %d at seq %d, %d at seq %d", d.Time, d.Seq, parent.time, d.Seq-1)
		}
	}
	o.top = max(o.top, d.Seq)
}

// proven checks the certificate that comes with a decision, once for each statement.
func (o *oracle) proven(n *node, d protocol.Decision) {
	s := d.Proof.Statement()
	if s == o.checked {
		return
	}
	o.checked = s
	if _, err := n.verifier.Open(s, d.Proof.Bytes()); err != nil || s.Kind != auth.KindCommit || s.Seq != d.Seq {
		o.c.fail("certificate: replica %d decided %d on a certificate of kind %d for %d: %v", n.id, d.Seq, s.Kind, s.Seq, err)
	}
}

// request notes what a client sends to be ordered.
func (o *oracle) request(payload []byte) {
	if len(payload) == 0 || o.newest == &payload[0] {
		return
	}
	o.newest = &payload[0]
	bundles, err := wire.DecodeBundles(payload)
	if err != nil {
		return // a Byzantine client's garbage
	}
	for _, b := range bundles {
		if !o.asked[b.ID] {
			o.c.trace.note("client %d sends bundle %v: session %v, ops %d to %d", b.Client, b.ID, b.Session, b.First, int(b.First)+len(b.Ops)-1)
		}
		o.asked[b.ID] = true
	}
}

// executed checks one op that took effect on a correct replica.
func (o *oracle) executed(id smr.NodeID, key opKey, at opPlace) {
	known, ok := o.places[key]
	if !ok {
		o.places[key] = at
		return
	}
	if known.seq != at.seq || known.index != at.index {
		o.c.fail("at-most-once: op %d of session %s took effect at %d.%d, and on replica %d at %d.%d",
			key.op, key.session, known.seq, known.index, id, at.seq, at.index)
	}
	if known.op != at.op || known.reply != at.reply {
		o.c.fail("divergence: op %d of session %s at %d.%d on replica %d: other content or reply", key.op, key.session, at.seq, at.index, id)
	}
}

// root checks the root of a checkpoint that a correct replica made.
func (o *oracle) root(id smr.NodeID, seq smr.SeqNo, root smr.Digest) {
	if known, ok := o.roots[seq]; !ok {
		o.roots[seq] = root
	} else if known != root {
		o.c.fail("roots differ at %d: replica %d has %s, another %s", seq, id, root, known)
	}
}

// stable checks a certificate that a replica takes for that of a stable checkpoint.
func (o *oracle) stable(n *node, c auth.CheckpointCert) {
	if n.byzantine {
		return
	}
	v := n.verifier
	if _, err := v.Open(v.Statement(auth.KindRoot, 0, c.Seq(), c.Root()), c.Cert.Bytes()); err != nil {
		o.c.fail("certificate: replica %d holds the checkpoint at %d for stable: %v", n.id, c.Seq(), err)
	}
	if known, ok := o.roots[c.Seq()]; ok && known != c.Root() {
		o.c.fail("certificate: the root certified at %d is %s, that of correct replicas %s", c.Seq(), c.Root(), known)
	}
}

// vote checks a signed statement that leaves a correct replica: one digest for each (epoch, view,
// seq, kind), also across its restarts, and nothing new in a view it timed out of.
func (o *oracle) vote(id smr.NodeID, s auth.Statement) {
	if o.c.nodes[id-1].wiped {
		o.c.remembered(o.c.nodes[id-1], s)
		return
	}
	switch s.Kind {
	case auth.KindTimeout:
		views := o.timeouts[id]
		if views == nil {
			views = map[smr.Epoch]smr.View{}
			o.timeouts[id] = views
		}
		views[s.Epoch] = max(views[s.Epoch], s.View)
		return
	case auth.KindPrepare, auth.KindCommit, auth.KindRoot, auth.KindProposal:
	default:
		return
	}
	n := o.c.nodes[id-1]
	if n.app.diverges && s.Kind == auth.KindRoot {
		return
	}
	key := voteKey{node: id, epoch: s.Epoch, view: s.View, seq: s.Seq, kind: s.Kind}
	if known, ok := o.votes[key]; ok {
		if known != s.Digest {
			o.c.fail("double vote: replica %d signed %s and %s (kind %d, epoch %d, view %d, seq %d)", id, known, s.Digest, s.Kind, s.Epoch, s.View, s.Seq)
		}
		return
	}
	o.votes[key] = s.Digest
	if s.Kind == auth.KindPrepare || s.Kind == auth.KindCommit {
		if v, ok := o.timeouts[id][s.Epoch]; ok && s.View <= v {
			o.c.fail("vote after timeout: replica %d timed out of view %d and then voted in view %d (kind %d, seq %d)", id, v, s.View, s.Kind, s.Seq)
		}
		if m := (protocol.Mark{Epoch: s.Epoch, View: s.View, Seq: s.Seq}); n.sentVote.Less(m) && s.Kind == auth.KindPrepare {
			n.sentVote = m
		}
	}
}

// watchSigner signs for a correct replica and remembers the statements, until they are seen to leave.
type watchSigner struct {
	auth.Signer
	unsent []signed
}

type signed struct {
	stmt auth.Statement
	sig  []byte
}

// maxUnsent bounds what a watchSigner remembers; the oldest goes.
const maxUnsent = 128

// Sign implements auth.Signer.
func (w *watchSigner) Sign(msg []byte) []byte {
	sig := w.Signer.Sign(msg)
	if s, ok := parseStatement(msg); ok {
		if len(w.unsent) == maxUnsent {
			w.unsent = append(w.unsent[:0], w.unsent[1:]...)
		}
		w.unsent = append(w.unsent, signed{s, sig})
	}
	return sig
}

// leaving hands every statement whose signature is in payload to seen.
func (w *watchSigner) leaving(payload []byte, seen func(auth.Statement)) {
	kept := w.unsent[:0]
	for _, s := range w.unsent {
		if bytes.Contains(payload, s.sig) {
			seen(s.stmt)
		} else {
			kept = append(kept, s)
		}
	}
	w.unsent = kept
}

// parseStatement reads what auth.Statement.Append wrote.
func parseStatement(b []byte) (auth.Statement, bool) {
	var s auth.Statement
	if len(b) != auth.StatementBytes {
		return s, false
	}
	head := len(b) - (32 + 32 + 8 + 1 + 8 + 8 + 32)
	f := b[head:]
	copy(s.Cluster[:], f)
	copy(s.Membership[:], f[32:])
	s.Epoch = smr.Epoch(binary.BigEndian.Uint64(f[64:]))
	s.Kind = auth.Kind(f[72])
	s.View = smr.View(binary.BigEndian.Uint64(f[73:]))
	s.Seq = smr.SeqNo(binary.BigEndian.Uint64(f[81:]))
	copy(s.Digest[:], f[89:])
	return s, bytes.Equal(s.Append(nil), b)
}

// marks is what a replica must never take back: within one life all of it, and what was durable
// across lives too.
type marks struct {
	epoch    smr.Epoch
	view     smr.View
	decided  smr.SeqNo
	stable   smr.SeqNo
	executed smr.SeqNo
	voted    protocol.Mark
	locked   protocol.Mark
}

func marksOf(s protocol.Status, executed smr.SeqNo) marks {
	return marks{epoch: s.Epoch, view: s.View, decided: s.Decided, stable: s.Stable, executed: executed, voted: s.Voted, locked: s.Locked}
}

// regress names the first mark of b that is below a's; empty if none is.
func (a marks) regress(b marks) string {
	switch {
	case b.epoch < a.epoch:
		return fmt.Sprintf("epoch from %d to %d", a.epoch, b.epoch)
	case b.epoch == a.epoch && b.view < a.view:
		return fmt.Sprintf("view from %d to %d", a.view, b.view)
	case b.decided < a.decided:
		return fmt.Sprintf("decided from %d to %d", a.decided, b.decided)
	case b.stable < a.stable:
		return fmt.Sprintf("stable from %d to %d", a.stable, b.stable)
	case b.executed < a.executed:
		return fmt.Sprintf("executed from %d to %d", a.executed, b.executed)
	case b.voted.Less(a.voted):
		return fmt.Sprintf("voted from %+v to %+v", a.voted, b.voted)
	case b.locked.Less(a.locked):
		return fmt.Sprintf("lock from %+v to %+v", a.locked, b.locked)
	}
	return ""
}

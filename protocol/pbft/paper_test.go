package pbft

import (
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

// bench is one replica under test whose peers are played by the test.
type bench struct {
	*cluster
	r    *Replica
	self smr.NodeID
	log  []protocol.Record
}

func newBench(t *testing.T, n int, self smr.NodeID) *bench {
	b := &bench{cluster: newCluster(t, n, 9), self: self}
	b.restart()
	return b
}

func (b *bench) restart() {
	p := protocol.Params{
		Self: b.self, Membership: b.m, Verifier: auth.NewVerifier(b.m, b.scheme), Signer: b.scheme.Signer(uint64(b.self)),
		Pipeline: 4, Window: 16, BaseTimeout: time.Second, MaxTimeout: 8 * time.Second, Heartbeat: 100 * time.Millisecond,
		Resend: 200 * time.Millisecond, MaxClockDrift: 100 * time.Millisecond,
	}
	b.r = New(p).(*Replica)
	b.do(func(out *protocol.Effects) { b.r.Start(b.now, recovered(b.log), out) })
	b.do(func(out *protocol.Effects) { b.r.Enable(b.now, out) })
}

// do gives an input, and returns what came out of it; own votes come back at once.
func (b *bench) do(input func(out *protocol.Effects)) protocol.Effects {
	var all protocol.Effects
	inputs := []func(*protocol.Effects){input}
	for len(inputs) > 0 {
		var out protocol.Effects
		inputs[0](&out)
		inputs = inputs[1:]
		b.log = append(b.log, out.Persist...)
		all.Persist = append(all.Persist, out.Persist...)
		all.Send = append(all.Send, out.Send...)
		all.Decide = append(all.Decide, out.Decide...)
		all.Note = append(all.Note, out.Note...)
		all.Release = append(all.Release, out.Release...)
		all.Hold = append(all.Hold, out.Hold...)
		for _, o := range out.SendDurable {
			if o.To == b.self {
				m := o.Msg
				inputs = append(inputs, func(out *protocol.Effects) { b.r.Receive(b.now, b.self, m, out) })
			} else {
				all.SendDurable = append(all.SendDurable, o)
			}
		}
		if held := out.Hold; len(held) > 0 {
			inputs = append(inputs, func(out *protocol.Effects) { b.r.Held(b.now, held, out) })
		}
	}
	return all
}

func (b *bench) receive(from smr.NodeID, m protocol.Message) protocol.Effects {
	return b.do(func(out *protocol.Effects) { b.r.Receive(b.now, from, m, out) })
}

// propose makes the proposal of a view's primary on a parent.
func (b *bench) proposal(view smr.View, parent *Header, refs ...smr.BundleRef) *Proposal {
	h := Header{Epoch: 1, View: view, Seq: 1, Time: b.now.UnixNano(), Refs: refs}
	if parent != nil {
		h.Seq, h.Parent, h.Time = parent.Seq+1, parent.Digest, max(h.Time, parent.Time)
	}
	return b.signed(h)
}

func (b *bench) signed(h Header) *Proposal {
	head := newHeader(b.m, h)
	return &Proposal{Header: head, Signature: b.sign(b.m.Primary(head.View), auth.KindProposal, head.View, head.Seq, head.Digest).Signature()}
}

func (b *bench) vote(from smr.NodeID, kind auth.Kind, h *Header) *Vote {
	return &Vote{Vote: b.sign(from, kind, h.View, h.Seq, h.Digest)}
}

func (b *bench) cert(kind auth.Kind, h *Header) *Certificate {
	var votes []*auth.Vote
	for i := range b.m.Quorum() {
		votes = append(votes, b.sign(b.m.Voter(i).ID, kind, h.View, h.Seq, h.Digest))
	}
	c, err := auth.NewVerifier(b.m, b.scheme).Certify(votes)
	if err != nil {
		b.tb.Fatal(err)
	}
	return &Certificate{Core: h, Cert: c}
}

func (b *bench) timeout(from smr.NodeID, view smr.View, lock *Certificate) *Timeout {
	return &Timeout{Vote: b.sign(from, auth.KindTimeout, view, 0, nameLock(lock).bind()), Lock: lock}
}

func (b *bench) timeoutCert(view smr.View, locks ...*Certificate) *TimeoutCertificate {
	ts := make([]*Timeout, b.m.N())
	for i, l := range locks {
		ts[i] = b.timeout(b.m.Voter(i).ID, view, l)
	}
	tc, err := newTimeoutCertificate(auth.NewVerifier(b.m, b.scheme), view, ts)
	if err != nil {
		b.tb.Fatal(err)
	}
	return tc
}

// votes lists the own votes among what leaves.
func votes(out protocol.Effects, kind uint8) []*Vote {
	var vs []*Vote
	for _, o := range out.SendDurable {
		if v, ok := o.Msg.(*Vote); ok && v.Kind() == kind && !v.Again {
			vs = append(vs, v)
		}
	}
	return vs
}

func sends[M protocol.Message](outs []protocol.Outbound) []M {
	var ms []M
	for _, o := range outs {
		if m, ok := o.Msg.(M); ok {
			ms = append(ms, m)
		}
	}
	return ms
}

func wantVotes(t *testing.T, out protocol.Effects, kind uint8, n int, why string) {
	t.Helper()
	if got := len(votes(out, kind)); got != n {
		t.Fatalf("%s: %d votes of kind %d, want %d", why, got, kind, n)
	}
}

func TestBackupPreparesOneDigestASequenceNumber(t *testing.T) {
	b := newBench(t, 4, 2)
	p := b.proposal(0, nil)
	other := b.signed(Header{Epoch: 1, Seq: 1, Time: p.Header.Time + 1})
	wantVotes(t, b.receive(1, p), kindPrepare, 1, "first proposal")
	wantVotes(t, b.receive(1, other), kindPrepare, 0, "its twin")
	b.restart()
	wantVotes(t, b.receive(1, other), kindPrepare, 0, "its twin after a restart")
}

func TestPreparesFollowTheOwnTipOnly(t *testing.T) {
	b := newBench(t, 4, 2)
	p := b.proposal(0, nil)
	stranger := b.signed(Header{Epoch: 1, Seq: 2, Parent: smr.Digest{9}, Time: b.now.UnixNano()})
	b.receive(1, p)
	wantVotes(t, b.receive(1, stranger), kindPrepare, 0, "a proposal with another parent")
	wantVotes(t, b.receive(1, b.proposal(0, p.Header)), kindPrepare, 1, "the tip's child")
}

func TestAProposalAheadOfItsParentWaits(t *testing.T) {
	b := newBench(t, 4, 2)
	p := b.proposal(0, nil)
	q := b.proposal(0, p.Header)
	wantVotes(t, b.receive(1, q), kindPrepare, 0, "child first")
	wantVotes(t, b.receive(1, p), kindPrepare, 2, "then the parent")
}

func TestPrepareAfterItsRecord(t *testing.T) {
	b := newBench(t, 4, 2)
	p := b.proposal(0, nil, smr.BundleRef{ID: smr.BundleID{1}, Bytes: 5})
	out := b.receive(1, p)
	if len(out.Persist) < 2 || out.Persist[0].Kind != protocol.RecordProposal || out.Persist[1].Name != stateVoted {
		t.Fatalf("records: %+v", out.Persist)
	}
	for _, o := range out.Send {
		if _, vote := o.Msg.(*Vote); vote {
			t.Fatal("a vote left without waiting for the log")
		}
	}
}

func TestCommitAfterAPrepareQuorumLocksFirst(t *testing.T) {
	b := newBench(t, 4, 2)
	p := b.proposal(0, nil)
	b.receive(1, p)
	wantVotes(t, b.receive(1, b.vote(1, auth.KindPrepare, p.Header)), kindCommit, 0, "two prepares")
	wantVotes(t, b.receive(1, b.vote(1, auth.KindPrepare, p.Header)), kindCommit, 0, "one of them twice")
	out := b.receive(3, b.vote(3, auth.KindPrepare, p.Header))
	wantVotes(t, out, kindCommit, 1, "three prepares")
	if len(out.Persist) != 1 || out.Persist[0].Name != stateLock {
		t.Fatalf("records: %+v", out.Persist)
	}
	if m, err := b.codec.OpenLock(b.r.Lock()); err != nil || m != (protocol.Mark{Epoch: 1, Seq: 1}) {
		t.Fatal(m, err)
	}
}

func TestACommitCertificateDecidesItsPrefixInAnyLocalState(t *testing.T) {
	b := newBench(t, 4, 2)
	p := b.proposal(0, nil)
	q := b.proposal(0, p.Header)
	b.receive(1, p)
	b.receive(1, q)
	b.receive(3, b.timeout(3, 0, nil))
	b.receive(4, b.timeout(4, 0, nil)) // f+1 timeouts: this replica signs one too
	if st := b.r.Status(); st.View != 1 {
		t.Fatalf("three timeouts open view 1, not %d", st.View)
	}
	out := b.receive(1, b.cert(auth.KindCommit, q.Header))
	if len(out.Decide) != 2 || out.Decide[0].Proof != nil || out.Decide[1].Proof == nil {
		t.Fatalf("decided %+v", out.Decide)
	}
}

func TestATimeoutBansEveryViewUpToItsOwn(t *testing.T) {
	b := newBench(t, 7, 7) // f = 2
	for id := smr.NodeID(1); id <= 3; id++ {
		b.receive(id, b.timeout(id, smr.View(4+id), nil))
	}
	if own := b.r.own; own == nil || own.view() != 5 {
		t.Fatal("f+1 timeouts for views 5, 6, 7 make a replica sign for 5, the (f+1)-th highest")
	}
	for _, view := range []smr.View{0, 3, 5} {
		p := b.proposal(view, nil)
		wantVotes(t, b.receive(b.m.Primary(view), p), kindPrepare, 0, "proposal of a banned view")
		wantVotes(t, b.receive(b.m.Primary(view), b.cert(auth.KindPrepare, p.Header)), kindCommit, 0, "prepare certificate of a banned view")
	}
	b.restart()
	p := b.proposal(5, nil)
	wantVotes(t, b.receive(b.m.Primary(5), b.cert(auth.KindPrepare, p.Header)), kindCommit, 0, "after a restart")
}

func TestComplaintsBindNothingAndOneIsNotEnough(t *testing.T) {
	b := newBench(t, 4, 2)
	complain := func(from smr.NodeID, view smr.View, seq smr.SeqNo) *Complaint {
		return &Complaint{Vote: b.sign(from, auth.KindComplaint, view, seq, smr.Digest{})}
	}
	b.receive(3, complain(3, 0, 0))
	b.receive(3, complain(3, 0, 0))
	if b.r.own != nil {
		t.Fatal("one complainer made a timeout")
	}
	p := b.proposal(0, nil)
	wantVotes(t, b.receive(1, p), kindPrepare, 1, "after a complaint")
	b.receive(1, b.cert(auth.KindCommit, p.Header))
	b.receive(4, complain(4, 0, 0))
	if b.r.own != nil {
		t.Fatal("complaints that progress made void count")
	}
	b.receive(3, complain(3, 0, 1))
	b.receive(4, complain(4, 0, 1))
	if b.r.own == nil {
		t.Fatal("f+1 complaints make a timeout")
	}
}

func TestATimeoutCertificateTakesAQuorum(t *testing.T) {
	b := newBench(t, 4, 2)
	v := auth.NewVerifier(b.m, b.scheme)
	two := []*Timeout{b.timeout(1, 0, nil), nil, b.timeout(3, 0, nil), nil}
	if _, err := newTimeoutCertificate(v, 0, two); err == nil {
		t.Fatal("two of four timeouts made a certificate")
	}
	tc := b.timeoutCert(0, nil, nil, nil)
	tc.shares = tc.shares[:2]
	if tc.open(v) == nil {
		t.Fatal("a share short and accepted")
	}
}

func TestTheNewPrimaryExtendsTheHighestLock(t *testing.T) {
	b := newBench(t, 4, 2) // primary of view 1
	p := b.proposal(0, nil, smr.BundleRef{ID: smr.BundleID{1}, Bytes: 5})
	q := b.proposal(0, p.Header, smr.BundleRef{ID: smr.BundleID{2}, Bytes: 5})
	b.receive(1, p)
	b.receive(1, q)
	b.receive(1, b.timeout(1, 0, b.cert(auth.KindPrepare, p.Header)))
	out := b.receive(3, b.timeout(3, 0, nil))
	first := sends[*Proposal](out.SendDurable)
	if len(first) != 1 || first[0].Header.Parent != p.Header.Digest || first[0].Header.View != 1 || first[0].Timeout == nil || len(first[0].Header.Refs) != 0 {
		t.Fatalf("first proposal of the view: %+v", first)
	}
	if len(out.Release) != 1 || out.Release[0] != (smr.BundleID{2}) {
		t.Fatalf("what the view passes over is proposable again: %v", out.Release)
	}
	for _, r := range out.Persist {
		if r.Kind == protocol.RecordDrop {
			t.Fatal("a promised proposal left the log before its sequence number is decided")
		}
	}
}

func TestTheCertificateDecidesNotTheOwnLock(t *testing.T) {
	b := newBench(t, 4, 3)
	p := b.proposal(0, nil)
	b.receive(1, p)
	b.receive(1, b.cert(auth.KindPrepare, p.Header)) // locks, alone
	b.receive(1, b.timeout(1, 0, nil))
	b.receive(2, b.timeout(2, 0, nil))
	next := b.proposal(1, nil)
	next.Timeout = b.timeoutCert(0, nil, nil, nil, nil)
	wantVotes(t, b.receive(2, next), kindPrepare, 1, "a first proposal that follows its timeout certificate, below the own lock")
	if b.r.lock == nil || b.r.lock.Core.Digest != p.Header.Digest {
		t.Fatal("the lock was lost")
	}
}

func TestTheFirstAcceptedProposalBindsTheView(t *testing.T) {
	b := newBench(t, 4, 3)
	p := b.proposal(0, nil)
	lock := b.cert(auth.KindPrepare, p.Header)
	low, high := b.timeoutCert(0, nil, nil, nil), b.timeoutCert(0, lock, nil, nil)
	first := b.proposal(1, nil)
	first.Timeout = low
	second := b.proposal(1, p.Header)
	second.Timeout = high
	b.receive(2, low)
	wantVotes(t, b.receive(2, second), kindPrepare, 1, "a timeout certificate alone only opens the view")
	wantVotes(t, b.receive(2, first), kindPrepare, 0, "a second start of the view")
}

func TestAnUnjustifiedFirstProposalIsRefused(t *testing.T) {
	b := newBench(t, 4, 3)
	p := b.proposal(0, nil)
	tc := b.timeoutCert(0, b.cert(auth.KindPrepare, p.Header), nil, nil)
	wrong := b.proposal(1, nil)
	wrong.Timeout = tc
	if _, err := b.codec.Decode(2, kindProposal, b.codec.Append(nil, wrong)); err == nil {
		t.Fatal("a first proposal that ignores the highest lock was decoded")
	}
	b.receive(2, tc)
	wantVotes(t, b.receive(2, b.proposal(1, p.Header)), kindPrepare, 0, "a first proposal without what opened its view")
}

func TestMovingToACertificateNeverGoesBelowTheOwnVote(t *testing.T) {
	b := newBench(t, 4, 2)
	a1 := b.proposal(0, nil)
	a2 := b.proposal(0, a1.Header)
	b1 := b.signed(Header{Epoch: 1, Seq: 1, Time: a1.Header.Time + 1})
	b2 := b.proposal(0, b1.Header)
	b3 := b.proposal(0, b2.Header)
	b.receive(1, a1)
	b.receive(1, a2)
	b.receive(3, b.cert(auth.KindPrepare, b1.Header))
	if b.r.tip.digest != a2.Header.Digest {
		t.Fatal("moved below the own vote")
	}
	b.receive(3, b.cert(auth.KindPrepare, b2.Header))
	if b.r.tip.digest != b2.Header.Digest {
		t.Fatal("did not move to a certificate at the own vote")
	}
	wantVotes(t, b.receive(1, b3), kindPrepare, 1, "the certified tip's child")
}

func TestACertificateOfALaterViewMovesAReplica(t *testing.T) {
	b := newBench(t, 4, 3)
	p := b.proposal(6, nil)
	wantVotes(t, b.receive(1, b.cert(auth.KindPrepare, p.Header)), kindCommit, 1, "prepare certificate of view 6")
	if st := b.r.Status(); st.View != 6 || st.Tip != 1 {
		t.Fatalf("view %d tip %d", st.View, st.Tip)
	}
}

func TestARestartedPrimaryDoesNotProposeInAViewItLed(t *testing.T) {
	b := newBench(t, 4, 1)
	if b.r.Want() == 0 {
		t.Fatal("the primary of view 0 wants nothing")
	}
	b.restart()
	if b.r.Want() == 0 {
		t.Fatal("it restarted before it led")
	}
	out := b.do(func(out *protocol.Effects) { b.r.Propose(b.now, smr.Batch{Time: b.now.UnixNano()}, out) })
	if len(sends[*Proposal](out.Send)) != 0 || len(sends[*Proposal](out.SendDurable)) != 1 {
		t.Fatal("the first proposal of a view waits for the record of leading it")
	}
	out = b.do(func(out *protocol.Effects) { b.r.Propose(b.now, smr.Batch{Time: b.now.UnixNano()}, out) })
	if len(sends[*Proposal](out.Send)) != 1 {
		t.Fatal("later ones leave at once")
	}
	b.restart()
	if b.r.Want() != 0 {
		t.Fatal("it led this view before the restart")
	}
}

func TestTimeNeverRunsBackwardsAndWaitsWhenAhead(t *testing.T) {
	b := newBench(t, 4, 2)
	p := b.proposal(0, nil)
	b.receive(1, p)
	ahead := b.signed(Header{Epoch: 1, Seq: 2, Parent: p.Header.Digest, Time: b.now.Add(150 * time.Millisecond).UnixNano()})
	wantVotes(t, b.receive(1, ahead), kindPrepare, 0, "beyond the drift")
	b.now = b.now.Add(60 * time.Millisecond)
	wantVotes(t, b.do(func(out *protocol.Effects) { b.r.Expire(b.now, timerClock, out) }), kindPrepare, 1, "once the clock came near")
	back := b.signed(Header{Epoch: 1, Seq: 3, Parent: ahead.Header.Digest, Time: p.Header.Time})
	wantVotes(t, b.receive(1, back), kindPrepare, 0, "time running backwards")
}

func TestATermClosingProposalHasNoChildInItsView(t *testing.T) {
	b := newBench(t, 4, 3)
	closing := b.signed(Header{Epoch: 1, Seq: 1, Time: b.now.UnixNano(), Flags: flagTermClosing})
	wantVotes(t, b.receive(1, closing), kindPrepare, 1, "the closing proposal")
	wantVotes(t, b.receive(1, b.proposal(0, closing.Header)), kindPrepare, 0, "its child in the same view")
	out := b.receive(1, b.cert(auth.KindCommit, closing.Header))
	if len(out.Decide) != 1 || b.r.Status().View != 1 {
		t.Fatalf("a committed closing proposal opens exactly the next view: %d", b.r.Status().View)
	}
	next := b.proposal(1, closing.Header)
	next.HandOver = b.cert(auth.KindCommit, closing.Header)
	wantVotes(t, b.receive(2, next), kindPrepare, 1, "the first of the next view")
}

func TestAnOldViewMessageIsAnsweredWithWhatOpenedTheView(t *testing.T) {
	b := newBench(t, 4, 3)
	tc := b.timeoutCert(4, nil, nil, nil)
	b.receive(2, tc)
	p := b.proposal(0, nil)
	out := b.receive(1, b.vote(1, auth.KindPrepare, p.Header))
	if got := sends[*TimeoutCertificate](out.Send); len(got) != 1 || got[0] != tc {
		t.Fatal("no answer")
	}
	out = b.receive(1, b.vote(1, auth.KindPrepare, p.Header))
	if len(sends[*TimeoutCertificate](out.Send)) != 0 {
		t.Fatal("answered twice in a tick")
	}
}

func TestNothingIsSentOnce(t *testing.T) {
	b := newBench(t, 4, 2)
	p := b.proposal(0, nil)
	b.receive(1, p)
	b.receive(1, b.cert(auth.KindPrepare, p.Header))
	tick := func() protocol.Effects {
		return b.do(func(out *protocol.Effects) { b.r.Expire(b.now, timerResend, out) })
	}
	tick()
	out := tick()
	if got := len(sends[*Vote](out.SendDurable)); got != 2 {
		t.Fatalf("%d votes sent again, want prepare and commit", got)
	}
	if len(sends[*Certificate](out.SendDurable)) != 1 {
		t.Fatal("the lock's certificate was not sent again")
	}
	b.receive(1, b.cert(auth.KindCommit, p.Header))
	tick()
	if out = tick(); len(sends[*Vote](out.SendDurable)) != 0 {
		t.Fatal("votes for decided sequence numbers are sent again")
	}
}

func TestTimeoutsGrowWithFailedViewsAndShrinkWithSuccess(t *testing.T) {
	b := newBench(t, 4, 3)
	for v := range smr.View(3) {
		b.receive(2, b.timeoutCert(v, nil, nil, nil))
	}
	if got := b.r.Status().Timeout; got != 8*time.Second {
		t.Fatal(got)
	}
	b.receive(2, b.timeoutCert(3, nil, nil, nil))
	if got := b.r.Status().Timeout; got != 8*time.Second {
		t.Fatal("above the maximum:", got)
	}
	p := b.proposal(4, nil)
	b.receive(1, b.timeoutCert(3, nil, nil, nil))
	b.receive(1, b.proposal(4, nil))
	b.receive(1, b.cert(auth.KindCommit, p.Header))
	if got := b.r.Status().Timeout; got >= 8*time.Second {
		t.Fatal("no shorter after a success:", got)
	}
}

func TestVotesOfStrangersAndOldViewsChangeNothing(t *testing.T) {
	b := newBench(t, 4, 2)
	p := b.proposal(0, nil)
	raw := b.codec.Append(nil, b.vote(1, auth.KindPrepare, p.Header))
	if _, err := b.codec.Decode(9, kindPrepare, raw); err == nil {
		t.Error("a stranger's vote was decoded")
	}
	if _, err := b.codec.Decode(3, kindPrepare, raw); err == nil {
		t.Error("a vote in another's name was decoded")
	}
	if _, err := b.codec.Decode(1, kindCommit, raw); err == nil {
		t.Error("a prepare passed for a commit")
	}
}

func TestEarlyMessagesAreBoundedByBytes(t *testing.T) {
	b := newBench(t, 4, 2)
	for s := smr.SeqNo(1); s < 10_000; s++ {
		h := newHeader(b.m, Header{Epoch: 1, View: 9, Seq: s})
		b.receive(3, b.vote(3, auth.KindPrepare, h))
	}
	if got := b.r.early[2].bytes; got > maxEarlyBytes {
		t.Fatalf("%d bytes kept", got)
	}
}

func TestStableWindowBoundsWhatIsAccepted(t *testing.T) {
	b := newBench(t, 4, 2)
	var parent *Header
	for s := smr.SeqNo(1); s <= 20; s++ {
		p := b.proposal(0, parent)
		out := b.receive(1, p)
		want := 1
		if s > 16 {
			want = 0
		}
		wantVotes(t, out, kindPrepare, want, "within the window only")
		parent = p.Header
	}
}

func TestAFollowerThatMayNotVoteDecides(t *testing.T) {
	b := newBench(t, 4, 2)
	b.r = New(b.r.p).(*Replica)
	b.do(func(out *protocol.Effects) { b.r.Start(b.now, protocol.Recovered{Fresh: true}, out) })
	p := b.proposal(0, nil)
	out := b.receive(1, p)
	wantVotes(t, out, kindPrepare, 0, "before Enable")
	out = b.receive(1, b.cert(auth.KindCommit, p.Header))
	if len(out.Decide) != 1 || len(out.SendDurable) != 0 {
		t.Fatal("it does not follow")
	}
	q := b.proposal(0, p.Header)
	b.receive(1, q)
	wantVotes(t, b.do(func(out *protocol.Effects) { b.r.Enable(b.now, out) }), kindPrepare, 1, "once enabled")
}

func TestQuorumSizesComeFromTheMembership(t *testing.T) {
	b := newBench(t, 6, 2) // quorum 4, not 2f+1 = 3
	p := b.proposal(0, nil)
	b.receive(1, p)
	b.receive(1, b.vote(1, auth.KindPrepare, p.Header))
	wantVotes(t, b.receive(3, b.vote(3, auth.KindPrepare, p.Header)), kindCommit, 0, "three of six")
	wantVotes(t, b.receive(4, b.vote(4, auth.KindPrepare, p.Header)), kindCommit, 1, "four of six")
	if quorum.Byzantine.Size(6, 1) != 4 {
		t.Fatal("the premise changed")
	}
}

func TestARestartOnACheckpointGoesOnFromIt(t *testing.T) {
	b := newBench(t, 4, 2)
	var parent *Header
	for range 3 {
		p := b.proposal(0, parent)
		b.receive(1, p)
		b.receive(1, b.cert(auth.KindCommit, p.Header))
		parent = p.Header
	}
	var state []protocol.Record
	for _, r := range b.log {
		if r.Kind == protocol.RecordState {
			state = append(state, r)
		}
	}
	rec := recovered(state)
	rec.Base = parent.info()
	b.r = New(b.r.p).(*Replica)
	b.do(func(out *protocol.Effects) { b.r.Start(b.now, rec, out) })
	b.do(func(out *protocol.Effects) { b.r.Enable(b.now, out) })
	next := b.proposal(0, parent)
	wantVotes(t, b.receive(1, next), kindPrepare, 1, "the checkpoint's child")
	if out := b.receive(1, b.cert(auth.KindCommit, next.Header)); len(out.Decide) != 1 || out.Decide[0].Seq != 4 {
		t.Fatal("it does not go on")
	}
}

func TestStableMovesTheWindow(t *testing.T) {
	b := newBench(t, 4, 2)
	var parent *Header
	for s := smr.SeqNo(1); s <= 17; s++ {
		p := b.proposal(0, parent)
		if s == 17 {
			v := auth.NewVerifier(b.m, b.scheme)
			var vs []*auth.Vote
			for i := range b.m.Quorum() {
				vs = append(vs, b.sign(b.m.Voter(i).ID, auth.KindRoot, 0, 8, smr.Digest{1}))
			}
			root, err := v.Certify(vs)
			if err != nil {
				t.Fatal(err)
			}
			b.do(func(out *protocol.Effects) { b.r.Stable(b.now, auth.CheckpointCert{Cert: root}, out) })
		}
		wantVotes(t, b.receive(1, p), kindPrepare, 1, "in the window")
		b.receive(1, b.cert(auth.KindCommit, p.Header))
		parent = p.Header
	}
	if st := b.r.Status(); st.Stable != 8 || st.Decided != 17 {
		t.Fatalf("%+v", st)
	}
}

func TestInstallTakesOverWhatTransferBrought(t *testing.T) {
	b := newBench(t, 4, 2)
	var parent *Header
	var last *Header
	for range 40 {
		parent = b.proposal(0, parent).Header
	}
	last = parent
	c := b.cert(auth.KindCommit, last)
	var out protocol.Effects
	b.r.Receive(b.now, 1, c, &out)
	if out.Behind == nil || out.Behind.Seq != 40 {
		t.Fatal("a certificate far ahead asks for transfer")
	}
	d := protocol.Decision{HeaderInfo: last.info(), Header: last.raw, Proof: c.Cert}
	b.do(func(out *protocol.Effects) { b.r.Install(b.now, 40, protocol.Proof{Decision: d}, out) })
	if st := b.r.Status(); st.Decided != 40 || st.Chain != last.Digest || st.Tip != 40 {
		t.Fatalf("%+v", st)
	}
	b.r.stable = 40
	wantVotes(t, b.receive(1, b.proposal(0, last)), kindPrepare, 1, "the installed decision's child")
}

func TestANewEpochStartsAboveTheLastDecision(t *testing.T) {
	b := newBench(t, 4, 2)
	p := b.proposal(0, nil)
	b.receive(1, p)
	b.receive(1, b.cert(auth.KindCommit, p.Header))
	m, err := quorum.New(smr.ClusterID{7}, 2, quorum.Byzantine, 1, b.m.Members(), 0)
	if err != nil {
		t.Fatal(err)
	}
	b.do(func(out *protocol.Effects) { b.r.Reconfigure(b.now, m, out) })
	b.m = m
	first := b.signed(Header{Epoch: 2, Seq: 2, Parent: p.Header.Digest, Time: p.Header.Time})
	wantVotes(t, b.receive(1, first), kindPrepare, 1, "the first of the new epoch")
}

// A checkpoint that is taken over ends no promise: lock, votes and timeouts bind as before, also after a
// restart from it.
func TestACheckpointTakenOverEndsNoPromise(t *testing.T) {
	b := newBench(t, 4, 4)
	var chain []*Header
	var parent *Header
	for range 42 {
		parent = b.proposal(0, parent).Header
		chain = append(chain, parent)
	}
	b.receive(1, &Proposal{Header: chain[0], Signature: b.signed(Header{Epoch: 1, Seq: 1, Time: chain[0].Time}).Signature})
	for _, id := range []smr.NodeID{1, 3} {
		b.receive(id, b.vote(id, auth.KindPrepare, chain[0]))
	}
	if before := b.r.Status(); before.Locked.Seq != 1 || before.Voted.Seq != 1 {
		t.Fatalf("%+v", before)
	}
	b.receive(3, b.timeout(3, 0, nil))
	b.receive(1, b.timeout(1, 0, nil))
	if b.r.own == nil {
		t.Fatal("no own timeout")
	}
	before := b.r.Status()
	d := protocol.Decision{HeaderInfo: protocol.HeaderInfo{Epoch: 1, Seq: 40, Digest: chain[39].Digest, Time: chain[39].Time}}
	b.do(func(out *protocol.Effects) { b.r.Install(b.now, 40, protocol.Proof{Decision: d}, out) })
	check := func(when string) {
		t.Helper()
		st := b.r.Status()
		if st.Decided != 40 || st.Chain != chain[39].Digest || st.Locked != before.Locked || st.Voted != before.Voted {
			t.Fatalf("%s: %+v, before %+v", when, st, before)
		}
		wantVotes(t, b.receive(1, b.proposal(0, chain[39])), kindPrepare, 0, when+": a proposal of the view that was timed out of")
		wantVotes(t, b.receive(1, b.cert(auth.KindPrepare, chain[40])), kindCommit, 0, when+": a certificate of that view")
		if m, err := b.codec.OpenLock(b.r.Lock()); err != nil || m != before.Locked {
			t.Fatalf("%s: lock %v %v", when, m, err)
		}
	}
	check("taken over")
	p := protocol.Params{
		Self: b.self, Membership: b.m, Verifier: auth.NewVerifier(b.m, b.scheme), Signer: b.scheme.Signer(uint64(b.self)),
		Pipeline: 4, Window: 16, BaseTimeout: time.Second, MaxTimeout: 8 * time.Second, MaxClockDrift: 100 * time.Millisecond,
	}
	rec := recovered(b.log)
	rec.Base, rec.Decisions, rec.Proposals = d.HeaderInfo, nil, nil // storage hands out what lies above the base
	b.r = New(p).(*Replica)
	b.do(func(out *protocol.Effects) { b.r.Start(b.now, rec, out) })
	b.do(func(out *protocol.Effects) { b.r.Enable(b.now, out) })
	check("restarted")
	out := b.receive(1, b.cert(auth.KindCommit, chain[40]))
	if b.r.Status().Certified != 41 {
		t.Fatalf("what follows the checkpoint is not learned: %+v", out)
	}
}

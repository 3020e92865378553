package pbft

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/mutant"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

// TimeoutCertificate is a quorum of timeouts of one view, with the highest lock that they name. It
// opens the next view. Only newTimeoutCertificate and the codec make one.
type TimeoutCertificate struct {
	view   smr.View
	shares []timeoutShare // ascending voters, exactly a quorum
	lock   *Certificate   // nil if no share names one
}

// timeoutShare is one voter's part: the lock it named, bound by its signature.
type timeoutShare struct {
	voter int
	lock  lockName
	sig   []byte
}

// lockName says which prepared header a timeout carries; the zero value is none.
type lockName struct {
	view   smr.View
	seq    smr.SeqNo
	digest smr.Digest
}

// below orders locks: views first, then sequence numbers.
func (a lockName) below(b lockName) bool {
	if a.view != b.view {
		return a.view < b.view
	}
	return a.seq < b.seq
}

func nameLock(c *Certificate) lockName {
	if c == nil {
		return lockName{}
	}
	return lockName{view: c.Core.View, seq: c.Core.Seq, digest: c.Core.Digest}
}

const lockDomain = "atlas-smr pbft lock v1\x00"

// bind returns the digest by which a timeout's statement binds its lock.
func (a lockName) bind() smr.Digest {
	if a == (lockName{}) {
		return smr.Digest{}
	}
	b := append(make([]byte, 0, 80), lockDomain...)
	b = binary.BigEndian.AppendUint64(b, uint64(a.view))
	b = binary.BigEndian.AppendUint64(b, uint64(a.seq))
	return sha256.Sum256(append(b, a.digest[:]...))
}

// timeoutQuorum returns how many timeouts open a view.
func timeoutQuorum(m *quorum.Membership) int {
	if mutant.On(mutant.TimeoutsOneShort) {
		return m.Quorum() - 1
	}
	return m.Quorum()
}

// errTimeoutCertificate refuses a set of timeouts that opens no view.
var errTimeoutCertificate = errors.New("not a quorum of timeouts of one view with the highest lock they name")

// newTimeoutCertificate makes the certificate of view from verified timeouts; timeouts[i] is voter
// i's or nil. Exactly the first quorum of voters is kept.
func newTimeoutCertificate(v *auth.Verifier, view smr.View, timeouts []*Timeout) (*TimeoutCertificate, error) {
	need := timeoutQuorum(v.Membership())
	tc := &TimeoutCertificate{view: view}
	for i, t := range timeouts {
		if t == nil || t.view() != view || len(tc.shares) == need {
			continue
		}
		name := nameLock(t.Lock)
		tc.shares = append(tc.shares, timeoutShare{voter: i, lock: name, sig: t.Vote.Signature()})
		if nameLock(tc.lock).below(name) != mutant.On(mutant.LowestLock) || len(tc.shares) == 1 {
			tc.lock = t.Lock
		}
	}
	if len(tc.shares) < need {
		return nil, errTimeoutCertificate
	}
	return tc, nil
}

// open verifies a certificate that came from outside: lock is verified already.
func (tc *TimeoutCertificate) open(v *auth.Verifier) error {
	m := v.Membership()
	if len(tc.shares) != timeoutQuorum(m) {
		return errTimeoutCertificate
	}
	var highest lockName
	for i, s := range tc.shares {
		if s.voter < 0 || s.voter >= m.N() || i > 0 && s.voter <= tc.shares[i-1].voter || s.lock.view > tc.view {
			return errTimeoutCertificate
		}
		if highest.below(s.lock) {
			highest = s.lock
		}
	}
	named := slices.ContainsFunc(tc.shares, func(s timeoutShare) bool { return s.lock == nameLock(tc.lock) })
	if nameLock(tc.lock).below(highest) && !mutant.On(mutant.LowestLock) || !named {
		return errTimeoutCertificate
	}
	for _, s := range tc.shares {
		if _, err := v.Vote(m.Voter(s.voter).ID, v.Statement(auth.KindTimeout, tc.view, 0, s.lock.bind()), s.sig); err != nil {
			return err
		}
	}
	return nil
}

// opens returns the view the certificate opens.
func (tc *TimeoutCertificate) opens() smr.View { return tc.view + 1 }

// timeoutMark is the position of a timeout among a replica's votes: nothing below it any more.
func timeoutMark(e smr.Epoch, v smr.View) protocol.Mark { return protocol.Mark{Epoch: e, View: v + 1} }

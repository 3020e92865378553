// Package quorum holds the fault models, the membership of an epoch, the sizes of quorums in it,
// the primary of a view, and tallies of distinct members. It is pure arithmetic on values: it
// knows no signatures and no messages.
//
// Invariant: any two quorums of a membership share a correct replica: at least f+1 replicas under
// Byzantine faults, at least one under crash faults. No other package computes a quorum size.
package quorum

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/mutant"
)

// Model is what faulty replicas may do.
type Model uint8

// The fault models.
const (
	Byzantine Model = 1 // anything; n >= 3f+1
	Crash     Model = 2 // stop, and come back with what was durable; n >= 2f+1
)

// String names the model.
func (m Model) String() string {
	switch m {
	case Byzantine:
		return "byzantine"
	case Crash:
		return "crash"
	}
	return fmt.Sprintf("model(%d)", uint8(m))
}

// Size returns the quorum size for n voters with f faulty: ceil((n+f+1)/2) under Byzantine faults,
// floor(n/2)+1 under crash faults.
func (m Model) Size(n, f int) int {
	if m == Crash {
		return n/2 + 1
	}
	return (n + f + 2) / 2
}

// MaxFaults returns the largest f that n voters tolerate.
func (m Model) MaxFaults(n int) int {
	if m == Crash {
		return (n - 1) / 2
	}
	return (n - 1) / 3
}

// MinMembers returns the smallest n that tolerates f faults.
func (m Model) MinMembers(f int) int {
	if m == Crash {
		return 2*f + 1
	}
	return 3*f + 1
}

// MaxMembers bounds the members of one membership, observers included.
const MaxMembers = 1024

// Role says whether a member votes.
type Role uint8

// The roles.
const (
	Voter    Role = 1
	Observer Role = 2
)

// Member is one node of a membership.
type Member struct {
	ID   smr.NodeID
	Role Role
	Key  smr.PublicKey
	Addr string // host:port for peers and clients
}

// Membership is the voters (and observers) of one epoch. It is immutable; share it freely.
type Membership struct {
	cluster smr.ClusterID
	epoch   smr.Epoch
	model   Model
	f       int
	members []Member // ascending id
	voters  []Member // ascending id
	index   map[smr.NodeID]int
	digest  smr.Digest
	first   int // position of the primary of view 0 among the voters
}

// ErrMembership is wrapped by every error of New.
var ErrMembership = errors.New("invalid membership")

// New returns the membership of an epoch. members are in strictly ascending id order; the slice is
// copied. first is the voter that leads view 0; zero means the lowest id.
func New(cluster smr.ClusterID, epoch smr.Epoch, model Model, f int, members []Member, first smr.NodeID) (*Membership, error) {
	m := &Membership{
		cluster: cluster, epoch: epoch, model: model, f: f,
		members: append([]Member(nil), members...), index: make(map[smr.NodeID]int, len(members)),
	}
	if model != Byzantine && model != Crash {
		return nil, fmt.Errorf("%w: unknown fault model %d", ErrMembership, model)
	}
	if epoch == 0 {
		return nil, fmt.Errorf("%w: epoch 0", ErrMembership)
	}
	if len(members) > MaxMembers {
		return nil, fmt.Errorf("%w: %d members, at most %d", ErrMembership, len(members), MaxMembers)
	}
	keys := make(map[smr.PublicKey]smr.NodeID, len(members))
	for i, x := range m.members {
		if x.ID == 0 || i > 0 && x.ID <= m.members[i-1].ID {
			return nil, fmt.Errorf("%w: node ids must be positive and ascending (member %d has id %d)", ErrMembership, i+1, x.ID)
		}
		if other, ok := keys[x.Key]; ok {
			return nil, fmt.Errorf("%w: nodes %d and %d share a key", ErrMembership, other, x.ID)
		}
		keys[x.Key] = x.ID
		switch x.Role {
		case Voter:
			m.index[x.ID] = len(m.voters)
			if x.ID == first {
				m.first = len(m.voters)
			}
			m.voters = append(m.voters, x)
		case Observer:
		default:
			return nil, fmt.Errorf("%w: node %d has unknown role %d", ErrMembership, x.ID, x.Role)
		}
	}
	if f < 0 || len(m.voters) < model.MinMembers(f) {
		return nil, fmt.Errorf("%w: %d replicas cannot tolerate f=%d %s faults: that takes at least %d", ErrMembership, len(m.voters), f, model, model.MinMembers(f))
	}
	if _, ok := m.index[first]; first != 0 && !ok {
		return nil, fmt.Errorf("%w: first primary %d is no voter", ErrMembership, first)
	}
	m.digest = m.computeDigest()
	return m, nil
}

func (m *Membership) computeDigest() smr.Digest {
	b := append([]byte("atlas-smr membership v1\x00"), m.cluster[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(m.epoch))
	b = append(b, byte(m.model))
	b = binary.BigEndian.AppendUint32(b, uint32(m.f))
	b = binary.BigEndian.AppendUint32(b, uint32(m.first))
	b = binary.BigEndian.AppendUint32(b, uint32(len(m.members)))
	for _, x := range m.members {
		b = binary.BigEndian.AppendUint32(b, uint32(x.ID))
		b = append(b, byte(x.Role))
		b = append(b, x.Key[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(len(x.Addr)))
		b = append(b, x.Addr...)
	}
	return sha256.Sum256(b)
}

// Cluster returns the id of the cluster the membership belongs to.
func (m *Membership) Cluster() smr.ClusterID { return m.cluster }

// Epoch returns the epoch whose membership this is.
func (m *Membership) Epoch() smr.Epoch { return m.epoch }

// Model returns the fault model.
func (m *Membership) Model() Model { return m.model }

// N returns the number of voters.
func (m *Membership) N() int { return len(m.voters) }

// F returns the number of faulty voters tolerated.
func (m *Membership) F() int { return m.f }

// Quorum returns the number of distinct voters that make a quorum.
func (m *Membership) Quorum() int {
	if mutant.On(mutant.WeakQuorum) {
		return m.Weak()
	}
	return m.model.Size(len(m.voters), m.f)
}

// Weak returns f+1: among so many distinct voters one is correct.
func (m *Membership) Weak() int { return m.f + 1 }

// Digest identifies the membership; statements of its voters are bound to it.
func (m *Membership) Digest() smr.Digest { return m.digest }

// Primary returns the leader of view: a pure function of membership and view.
func (m *Membership) Primary(view smr.View) smr.NodeID {
	n := uint64(len(m.voters))
	return m.voters[(uint64(m.first)+uint64(view)%n)%n].ID
}

// Index returns the position of a voter, in [0, N), and whether id is a voter.
func (m *Membership) Index(id smr.NodeID) (int, bool) {
	i, ok := m.index[id]
	return i, ok
}

// Voter returns the voter at position i in [0, N).
func (m *Membership) Voter(i int) Member { return m.voters[i] }

// Voters returns the ids of the voters in ascending order, in a fresh slice.
func (m *Membership) Voters() []smr.NodeID {
	ids := make([]smr.NodeID, len(m.voters))
	for i, v := range m.voters {
		ids[i] = v.ID
	}
	return ids
}

// Members returns all members in ascending id order. The slice is shared: do not change it.
func (m *Membership) Members() []Member { return m.members }

// Member returns the member with the given id.
func (m *Membership) Member(id smr.NodeID) (Member, bool) {
	for _, x := range m.members {
		if x.ID == id {
			return x, true
		}
	}
	return Member{}, false
}

package client

import (
	"crypto/sha256"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/mutant"
)

// value stands for what a replica answered: equal values, equal answers. Data of at most 32 bytes
// is held as it is, longer data as its SHA-256: the vote that completes a quorum carries the data
// itself, so that none needs keeping, and a lying replica can make the client hold no more than
// this.
type value struct {
	code    uint8 // smr.Outcome or wire.QueryCode
	bytes   uint32
	sum     smr.Digest
	version smr.SeqNo // of a query's answer; zero for an ordered reply
}

func valueOf(code uint8, data []byte, version smr.SeqNo) value {
	v := value{code: code, bytes: uint32(len(data)), version: version}
	if len(data) <= len(v.sum) {
		copy(v.sum[:], data)
	} else {
		v.sum = sha256.Sum256(data)
	}
	return v
}

// vote is the newest answer of one replica about one call.
type vote struct {
	voter int32 // index in the membership
	value value
	seq   smr.SeqNo // what the replica claims: executed at (ordered) or through (query)
}

// record replaces voter's vote, or appends it, and returns the votes: at most one a voter.
func record(votes []vote, v vote) []vote {
	for i := range votes {
		if votes[i].voter == v.voter && !mutant.On(mutant.VoterCountedTwice) {
			votes[i] = v
			return votes
		}
	}
	return append(votes, v)
}

func voted(votes []vote, voter int) bool {
	for i := range votes {
		if votes[i].voter == int32(voter) {
			return true
		}
	}
	return false
}

// equal counts the votes for val.
func equal(votes []vote, val value) int {
	n := 0
	for i := range votes {
		if votes[i].value == val {
			n++
		}
	}
	return n
}

// attested returns a sequence number that at least k voters of val claim, or zero: with k = f+1 a
// correct replica stands behind it.
func attested(votes []vote, val value, k int) smr.SeqNo {
	for i := range votes {
		if votes[i].value != val {
			continue
		}
		n := 0
		for j := range votes {
			if votes[j].value == val && votes[j].seq == votes[i].seq {
				n++
			}
		}
		if n >= k {
			return votes[i].seq
		}
	}
	return 0
}

// kthHighest returns the k-th highest claimed sequence number, or zero with fewer votes.
func kthHighest(votes []vote, k int) smr.SeqNo {
	for i := range votes {
		above, same := 0, 0
		for j := range votes {
			switch {
			case votes[j].seq > votes[i].seq:
				above++
			case votes[j].seq == votes[i].seq:
				same++
			}
		}
		if above < k && above+same >= k {
			return votes[i].seq
		}
	}
	return 0
}

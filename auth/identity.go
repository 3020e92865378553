package auth

import (
	"fmt"

	"github.com/atlas-smr/smr"
)

// IdentityKind says in which number space an identity lives.
type IdentityKind uint8

// The kinds of identity.
const (
	IdentityNode   IdentityKind = 1 // replica or observer
	IdentityClient IdentityKind = 2
)

// Identity names the authenticated other end of a connection: a node or a client.
type Identity struct {
	Kind IdentityKind
	ID   uint64
}

// NodeIdentity returns the identity of a node.
func NodeIdentity(id smr.NodeID) Identity { return Identity{IdentityNode, uint64(id)} }

// ClientIdentity returns the identity of a client.
func ClientIdentity(id smr.ClientID) Identity { return Identity{IdentityClient, uint64(id)} }

// Node returns the node id and whether the identity is a node's.
func (i Identity) Node() (smr.NodeID, bool) { return smr.NodeID(i.ID), i.Kind == IdentityNode }

// Client returns the client id and whether the identity is a client's.
func (i Identity) Client() (smr.ClientID, bool) { return smr.ClientID(i.ID), i.Kind == IdentityClient }

// String renders "node 3" or "client 7".
func (i Identity) String() string {
	switch i.Kind {
	case IdentityNode:
		return fmt.Sprintf("node %d", i.ID)
	case IdentityClient:
		return fmt.Sprintf("client %d", i.ID)
	}
	return "nobody"
}

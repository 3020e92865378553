package sim

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/execution"
	"github.com/atlas-smr/smr/quorum"
)

// build makes keys, membership, replicas and clients.
func (c *cluster) build() error {
	keys := newKeyring(c.seed, c.plan.Ed25519)
	c.scheme = keys.scheme
	c.id = smr.ClusterID(sha256.Sum256(binary.BigEndian.AppendUint64([]byte("sim"), c.seed)))
	p := &c.plan
	members := make([]quorum.Member, p.Replicas)
	signers := make([]auth.Signer, p.Replicas)
	for i := range members {
		signers[i] = keys.signer(uint64(i + 1))
		members[i] = quorum.Member{ID: smr.NodeID(i + 1), Role: quorum.Voter, Key: signers[i].Public()}
	}
	var err error
	if c.members, err = quorum.New(c.id, 1, quorum.Byzantine, quorum.Byzantine.MaxFaults(p.Replicas), members, 0); err != nil {
		return err
	}
	admitted := make([]execution.Client, p.Clients+len(p.BadClients))
	for i := range admitted {
		s := keys.signer(uint64(1000 + i))
		if i >= p.Clients && p.BadClients[i-p.Clients] == "crafted-signatures" && p.Ed25519 {
			s = &craftedSigner{}
		}
		admitted[i] = execution.Client{ID: smr.ClientID(i + 1), Key: s.Public()}
		if i < p.Clients {
			c.clients = append(c.clients, newWorker(c, smr.ClientID(i+1), s))
			continue
		}
		b, err := newBadClient(c, admitted[i].ID, p.BadClients[i-p.Clients], s, keys)
		if err != nil {
			return err
		}
		c.badClients = append(c.badClients, b)
	}
	for i := range members {
		n, err := newNode(c, members[i].ID, false, signers[i], admitted)
		if err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
	}
	c.side = make([]bool, p.Replicas+1)
	var liars []AdversaryConfig
	for _, id := range p.Byzantine {
		n := c.nodes[id-1]
		n.byzantine = true
		if p.Behaviour == "twins" {
			if n.twin, err = newNode(c, id, true, signers[id-1], admitted); err != nil {
				return err
			}
			n.twin.byzantine = true
			continue
		}
		liars = append(liars, AdversaryConfig{
			Self: id, Membership: c.members, Verifier: auth.NewVerifier(c.members, c.scheme),
			Signer: signers[id-1], Rand: c.stream(streamAdversary, uint64(id)).Rand, Timeout: p.Timeout,
		})
	}
	return c.corrupt(liars)
}

// keyring derives keys from the seed: fast stand-ins, or real Ed25519.
type keyring struct {
	seed   uint64
	scheme auth.Scheme
	stand  *auth.StandIn
}

func newKeyring(seed uint64, real bool) keyring {
	if real {
		return keyring{seed: seed, scheme: auth.NewEd25519()}
	}
	s := auth.NewStandIn(seed)
	return keyring{seed: seed, scheme: s, stand: s}
}

func (k keyring) signer(id uint64) auth.Signer {
	if k.stand != nil {
		return k.stand.Signer(id)
	}
	b := binary.BigEndian.AppendUint64([]byte("sim key"), k.seed)
	h := sha256.Sum256(binary.BigEndian.AppendUint64(b, id))
	pair, err := auth.KeyFromSeed(h[:])
	if err != nil {
		panic(err) // the seed has the right length
	}
	return pair
}

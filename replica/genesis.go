package replica

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/quorum"
)

// Genesis is what all members of a cluster start from: who votes, who may ask, which protocol. Its
// digest is the cluster's id, so two nodes with different geneses never talk to each other. It is a
// JSON file that is never edited once the cluster exists.
type Genesis struct {
	Nonce    [32]byte // drawn at random by Generate: two clusters never share an id
	Protocol string   // name of the ordering, as in --protocol
	F        int      // faulty replicas tolerated
	Members  []Member // ascending id
	Clients  []ClientKey
	Admins   []smr.PublicKey
	// Threshold is the number of admin signatures a membership command takes.
	Threshold int
	Limits    Limits
}

// Member is one replica of the genesis membership.
type Member struct {
	ID    smr.NodeID
	Addr  string // host:port for peers and clients
	Admin string // host:port of the admin API
	Key   smr.PublicKey
}

// ClientKey admits a client.
type ClientKey struct {
	ID  smr.ClientID
	Key smr.PublicKey
}

// Limits are bounds that every replica must apply alike, since they decide what executes and when a
// checkpoint is due. Zero stands for the default.
type Limits struct {
	SessionsPerClient int    // sessions one client may hold; the least recently used goes first
	Sessions          int    // sessions of the whole cluster
	ReplyCacheBytes   int    // replies kept for one session
	CheckpointBytes   uint64 // decided bytes between checkpoints, at least
}

// defaultLimits are the limits of a genesis that names none.
var defaultLimits = Limits{
	SessionsPerClient: 16, Sessions: 16384, ReplyCacheBytes: 2 << 20, CheckpointBytes: 64 << 20,
}

// MaxGenesisBytes bounds a genesis file.
const MaxGenesisBytes = 4 << 20

// genesisFormat is the version of the file.
const genesisFormat = 1

// ErrGenesis is wrapped by every error of a genesis that cannot be used.
var ErrGenesis = errors.New("invalid genesis")

// protocolModels lists the orderings a genesis may name and the faults each is made for.
var protocolModels = map[string]quorum.Model{
	"pbft": quorum.Byzantine, "hotstuff": quorum.Byzantine, "vsr": quorum.Crash, "raft": quorum.Crash,
}

// Model returns the fault model of the genesis's protocol; zero if the protocol is unknown.
func (g *Genesis) Model() quorum.Model { return protocolModels[g.Protocol] }

// ProtocolModel returns the fault model of a protocol by name.
func ProtocolModel(name string) (quorum.Model, bool) {
	m, ok := protocolModels[name]
	return m, ok
}

// The file's own shape: keys in hex, names in the file's style.
type genesisFile struct {
	Format   int             `json:"format"`
	Nonce    hexBytes        `json:"nonce"`
	Protocol string          `json:"protocol"`
	F        int             `json:"f"`
	Members  []genesisMember `json:"members"`
	Clients  []genesisClient `json:"clients"`
	Admin    genesisAdmin    `json:"admin"`
	Limits   genesisLimits   `json:"limits"`
}

type genesisMember struct {
	ID    uint32   `json:"id"`
	Addr  string   `json:"address"`
	Admin string   `json:"admin"`
	Key   hexBytes `json:"key"`
}

type genesisClient struct {
	ID  uint64   `json:"id"`
	Key hexBytes `json:"key"`
}

type genesisAdmin struct {
	Threshold int        `json:"threshold"`
	Keys      []hexBytes `json:"keys"`
}

type genesisLimits struct {
	SessionsPerClient int    `json:"sessions_per_client"`
	Sessions          int    `json:"sessions"`
	ReplyCacheBytes   int    `json:"reply_cache_bytes"`
	CheckpointBytes   uint64 `json:"checkpoint_bytes"`
}

type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

func (h *hexBytes) UnmarshalText(t []byte) error {
	b, err := hex.DecodeString(string(t))
	*h = b
	return err
}

// ParseGenesis reads a genesis and checks it. Unknown fields are refused; all mistakes are reported
// together. Errors wrap ErrGenesis.
func ParseGenesis(b []byte) (*Genesis, error) {
	if len(b) > MaxGenesisBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrGenesis, len(b), MaxGenesisBytes)
	}
	var file genesisFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return nil, fmt.Errorf("%w: line %d: %w", ErrGenesis, 1+bytes.Count(b[:min(int(d.InputOffset()), len(b))], []byte("\n")), err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: data after the JSON object", ErrGenesis)
	}
	var bad []error
	key := func(what string, h hexBytes) (out [32]byte) {
		if len(h) != len(out) {
			bad = append(bad, fmt.Errorf("%s has %d bytes of hex, want 32", what, len(h)))
		}
		copy(out[:], h)
		return out
	}
	if file.Format != genesisFormat {
		return nil, fmt.Errorf("%w: format %d; this build reads format %d: use the smr version that made the cluster", ErrGenesis, file.Format, genesisFormat)
	}
	g := &Genesis{
		Nonce: key("nonce", file.Nonce), Protocol: file.Protocol, F: file.F, Threshold: file.Admin.Threshold,
		Limits: Limits(file.Limits),
	}
	for i, m := range file.Members {
		g.Members = append(g.Members, Member{ID: smr.NodeID(m.ID), Addr: m.Addr, Admin: m.Admin, Key: key(fmt.Sprintf("members[%d].key", i), m.Key)})
	}
	for i, c := range file.Clients {
		g.Clients = append(g.Clients, ClientKey{ID: smr.ClientID(c.ID), Key: key(fmt.Sprintf("clients[%d].key", i), c.Key)})
	}
	for i, k := range file.Admin.Keys {
		g.Admins = append(g.Admins, key(fmt.Sprintf("admin.keys[%d]", i), k))
	}
	g.Limits = g.Limits.withDefaults()
	if err := g.Validate(); err != nil {
		bad = append(bad, err)
	}
	if len(bad) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrGenesis, errors.Join(bad...))
	}
	return g, nil
}

// LoadGenesis reads a genesis file.
func LoadGenesis(path string) (*Genesis, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("genesis: %w", err)
	}
	g, err := ParseGenesis(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return g, nil
}

// Validate checks g and reports all mistakes together.
func (g *Genesis) Validate() error {
	var bad []error
	complain := func(format string, args ...any) { bad = append(bad, fmt.Errorf(format, args...)) }
	if g.Nonce == [32]byte{} {
		complain("nonce is missing")
	}
	if g.Model() == 0 {
		complain("protocol %q is unknown", g.Protocol)
	}
	addrs := make(map[string]string)
	for i, m := range g.Members {
		for _, a := range []struct{ name, addr string }{{"address", m.Addr}, {"admin", m.Admin}} {
			what := fmt.Sprintf("members[%d].%s", i, a.name)
			if err := checkAddr(a.addr); err != nil {
				complain("%s: %w", what, err)
			} else if other, ok := addrs[a.addr]; ok {
				complain("%s and %s are both %s", other, what, a.addr)
			}
			addrs[a.addr] = what
		}
	}
	keys := make(map[smr.PublicKey]string)
	own := func(what string, k smr.PublicKey) {
		if other, ok := keys[k]; ok {
			complain("%s and %s share a key", other, what)
		}
		keys[k] = what
	}
	for _, m := range g.Members {
		own(fmt.Sprintf("node %d", m.ID), m.Key)
	}
	for i, c := range g.Clients {
		if c.ID == 0 || i > 0 && c.ID <= g.Clients[i-1].ID {
			complain("client ids must be positive and ascending (clients[%d] has id %d)", i, c.ID)
		}
		own(fmt.Sprintf("client %d", c.ID), c.Key)
	}
	for i, k := range g.Admins {
		own(fmt.Sprintf("admin.keys[%d]", i), k)
	}
	if len(g.Admins) > 0 && g.Threshold < 1 || g.Threshold > len(g.Admins) || g.Threshold < 0 {
		complain("admin.threshold %d with %d admin keys", g.Threshold, len(g.Admins))
	}
	bad = append(bad, g.Limits.withDefaults().check()...)
	if len(bad) == 0 {
		if _, err := g.Membership(); err != nil {
			bad = append(bad, err)
		}
	}
	return errors.Join(bad...)
}

func (l Limits) withDefaults() Limits {
	if l.SessionsPerClient == 0 {
		l.SessionsPerClient = defaultLimits.SessionsPerClient
	}
	if l.Sessions == 0 {
		l.Sessions = defaultLimits.Sessions
	}
	if l.ReplyCacheBytes == 0 {
		l.ReplyCacheBytes = defaultLimits.ReplyCacheBytes
	}
	if l.CheckpointBytes == 0 {
		l.CheckpointBytes = defaultLimits.CheckpointBytes
	}
	return l
}

func (l Limits) check() (bad []error) {
	within := func(name string, v, low, high int) {
		if v < low || v > high {
			bad = append(bad, fmt.Errorf("limits.%s is %d, must be %d to %d", name, v, low, high))
		}
	}
	within("sessions_per_client", l.SessionsPerClient, 1, 1<<16)
	within("sessions", l.Sessions, l.SessionsPerClient, 1<<24)
	within("reply_cache_bytes", l.ReplyCacheBytes, 2<<20, 1<<30)
	if l.CheckpointBytes < 1<<16 {
		bad = append(bad, fmt.Errorf("limits.checkpoint_bytes is %d, must be at least 65536", l.CheckpointBytes))
	}
	return bad
}

// checkListenAddr checks host:port; port 0 stands for any free one.
func checkListenAddr(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not host:port", addr)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q has no port from 0 to 65535", addr)
	}
	return nil
}

// checkAddr checks an address that others dial.
func checkAddr(addr string) error {
	if err := checkListenAddr(addr); err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(addr)
	if port == "0" {
		return fmt.Errorf("%q has port 0, which nobody can dial", addr)
	}
	if host == "" || strings.ContainsAny(host, " /") {
		return fmt.Errorf("%q names no host", addr)
	}
	return nil
}

// Marshal returns the genesis file's content.
func (g *Genesis) Marshal() []byte {
	b, err := json.MarshalIndent(g.file(), "", "  ")
	if err != nil {
		panic(err) // a genesisFile holds nothing that JSON cannot say
	}
	return append(b, '\n')
}

func (g *Genesis) file() genesisFile {
	f := genesisFile{
		Format: genesisFormat, Nonce: g.Nonce[:], Protocol: g.Protocol, F: g.F,
		Members: []genesisMember{}, Clients: []genesisClient{},
		Admin: genesisAdmin{Threshold: g.Threshold, Keys: []hexBytes{}}, Limits: genesisLimits(g.Limits.withDefaults()),
	}
	for _, m := range g.Members {
		f.Members = append(f.Members, genesisMember{uint32(m.ID), m.Addr, m.Admin, m.Key[:]})
	}
	for _, c := range g.Clients {
		f.Clients = append(f.Clients, genesisClient{uint64(c.ID), c.Key[:]})
	}
	for _, k := range g.Admins {
		f.Admin.Keys = append(f.Admin.Keys, k[:])
	}
	return f
}

// Digest returns the cluster's id: SHA-256 over the genesis in its compact form, so that white space
// and defaults left out do not matter.
func (g *Genesis) Digest() smr.ClusterID {
	b, err := json.Marshal(g.file())
	if err != nil {
		panic(err)
	}
	h := sha256.New()
	h.Write([]byte("atlas-smr genesis v1\x00"))
	h.Write(b)
	return smr.ClusterID(h.Sum(nil))
}

// Membership returns the membership of the first epoch.
func (g *Genesis) Membership() (*quorum.Membership, error) {
	ms := make([]quorum.Member, len(g.Members))
	for i, m := range g.Members {
		ms[i] = quorum.Member{ID: m.ID, Role: quorum.Voter, Key: m.Key, Addr: m.Addr}
	}
	return quorum.New(g.Digest(), 1, g.Model(), g.F, ms, 0)
}

// Member returns the member with the given id.
func (g *Genesis) Member(id smr.NodeID) (Member, bool) {
	for _, m := range g.Members {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// Client returns the admitted key of a client.
func (g *Genesis) Client(id smr.ClientID) (ClientKey, bool) {
	for _, c := range g.Clients {
		if c.ID == id {
			return c, true
		}
	}
	return ClientKey{}, false
}

// memberIDs lists the node ids, for messages.
func (g *Genesis) memberIDs() string {
	ids := make([]string, len(g.Members))
	for i, m := range g.Members {
		ids[i] = strconv.FormatUint(uint64(m.ID), 10)
	}
	return strings.Join(ids, ", ")
}

package replica

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/quorum"
)

// made generates a cluster of four in a fresh directory.
func made(t *testing.T, o GenerateOptions) (string, *Genesis) {
	t.Helper()
	o.Dir, o.F = filepath.Join(t.TempDir(), "cluster"), -1
	g, err := Generate(o, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o.Dir, g
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestAGeneratedClusterLoads(t *testing.T) {
	dir, g := made(t, GenerateOptions{Nodes: 7, F: -1, Clients: 3})
	m, err := g.Membership()
	if err != nil || m.N() != 7 || m.F() != 2 || m.Model() != quorum.Byzantine {
		t.Fatal(m, err)
	}
	for i, c := range g.Members {
		n, err := LoadNodeConfig(filepath.Join(dir, "node-"+string(rune('1'+i)), "config.toml"))
		if err != nil {
			t.Fatal(err)
		}
		if n.Node != c.ID || n.Genesis.Digest() != g.Digest() || n.ListenAddr != c.Addr || n.AdminAddr != c.Admin || n.Durability != "strict" {
			t.Errorf("%+v", n)
		}
		if want := filepath.Join(dir, "node-"+string(rune('1'+i)), "data"); n.DataDir != want {
			t.Errorf("data %s, want %s", n.DataDir, want)
		}
	}
	if g.Members[6].Addr != "127.0.0.1:7412" || g.Members[6].Admin != "127.0.0.1:7413" {
		t.Error("ports of replica 7:", g.Members[6])
	}
	for _, name := range []string{"client-1", "client-3"} {
		if _, err := LoadClientConfig(filepath.Join(dir, name, "config.toml")); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"node-1", "client-1"} {
		if tomls, _ := filepath.Glob(filepath.Join(dir, name, "*.toml")); len(tomls) != 1 {
			t.Error(name, "has", tomls)
		}
	}
}

func TestAnExistingDirectoryIsRefusedAndUntouched(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "precious"), "x")
	_, err := Generate(GenerateOptions{Dir: dir}, nil)
	if !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Error("the directory was changed:", entries)
	}
}

func TestAFailedGenerateLeavesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cluster")
	boom := errors.New("disk full")
	calls := 0
	_, err := Generate(GenerateOptions{Dir: dir}, func(string, smr.ClusterID, smr.NodeID) error {
		if calls++; calls == 3 {
			return boom
		}
		return nil
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("half a cluster stays behind")
	}
}

func TestImpossibleClustersAreRefusedWithARemedy(t *testing.T) {
	for name, c := range map[string]struct {
		o    GenerateOptions
		want string
	}{
		"too few":  {GenerateOptions{Nodes: 3, F: 1}, "use -n 4"},
		"ports":    {GenerateOptions{BasePort: 65530, Nodes: 4}, "--base-port"},
		"protocol": {GenerateOptions{Protocol: "paxos"}, "paxos"},
		"clients":  {GenerateOptions{Clients: -1}, "client"},
	} {
		c.o.Dir = filepath.Join(t.TempDir(), "x")
		if _, err := Generate(c.o, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAllMistakesAreReportedWithLineAndRemedy(t *testing.T) {
	dir, _ := made(t, GenerateOptions{})
	path := filepath.Join(dir, "node-2", "config.toml")
	write(t, path, `node = "two"
durabilty = "strict"
durability = "fast"
listen = "nowhere"
admin = "0.0.0.0:7401"
[limits]
pool_mib = 1
client_ops = 3.5

[ordering]
timeout = "soon"
pipeline = 0
`)
	_, err := LoadNodeConfig(path)
	if !errors.Is(err, ErrConfig) {
		t.Fatal(err)
	}
	for _, want := range []string{
		":1: node is a string: write node = ",
		":2: durabilty is no setting: did you mean durability?",
		`:3: durability is "fast": use one of strict, relaxed, memory`,
		`:4: listen "nowhere" is not host:port`,
		":5: admin is \"0.0.0.0:7401\"",
		":7: limits.pool_mib is 1: use 2 to 16384",
		":8: limits.client_ops is a number with a fraction",
		`:11: ordering.timeout is "soon"`,
		":12: ordering.pipeline is 0: use 1 to 1024",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 9 {
		t.Errorf("%d mistakes reported, planted 9:\n%v", n, err)
	}
}

func TestWrongFilesAreNamed(t *testing.T) {
	dir, _ := made(t, GenerateOptions{Clients: 2})
	other, _ := made(t, GenerateOptions{})
	node := filepath.Join(dir, "node-1")
	load := func() error { _, err := LoadNodeConfig(filepath.Join(node, "config.toml")); return err }
	swap := func(name, from string) {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(node, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(err error, want string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
	swap("key.pem", filepath.Join(dir, "node-2", "key.pem"))
	expect(load(), "is not node 1's key in the genesis: use the key.pem that was made for node 1")
	swap("key.pem", filepath.Join(other, "node-1", "key.pem"))
	expect(load(), "is not node 1's key")
	swap("genesis.json", filepath.Join(other, "genesis.json"))
	if err := load(); err != nil {
		t.Error("a node moved to the other cluster whole:", err)
	}
	if err := os.Chmod(filepath.Join(node, "key.pem"), 0o644); err != nil {
		t.Fatal(err)
	}
	expect(load(), "chmod 600")
	swap("key.pem", filepath.Join(node, "config.toml"))
	if err := os.Chmod(filepath.Join(node, "key.pem"), 0o600); err != nil {
		t.Fatal(err)
	}
	expect(load(), "no PEM block")
	if err := os.Remove(filepath.Join(node, "genesis.json")); err != nil {
		t.Fatal(err)
	}
	if err := load(); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, ErrKey) {
		t.Error("both missing genesis and bad key are to be told:", err)
	}
	_, err := LoadClientConfig(filepath.Join(dir, "node-2", "config.toml"))
	expect(err, "this is a node's configuration")
	write(t, filepath.Join(node, "config.toml"), "node = 1\nnode = 2\n")
	expect(load(), "config.toml:2")
}

func TestClientSettings(t *testing.T) {
	dir, _ := made(t, GenerateOptions{})
	path := filepath.Join(dir, "client-1", "config.toml")
	write(t, path, "client = 1\nsession = \"../s\"\ntimeout = \"5s\"\n")
	c, err := LoadClientConfig(path)
	if err != nil || c.SessionFile != filepath.Join(dir, "s") || c.Timeout != 5*time.Second {
		t.Errorf("%+v %v", c, err)
	}
	write(t, path, "client = 9\n")
	if _, err := LoadClientConfig(path); err == nil || !strings.Contains(err.Error(), "does not admit") {
		t.Error(err)
	}
}

func TestAddressesReplaceThoseOfTheGenesis(t *testing.T) {
	dir, _ := made(t, GenerateOptions{})
	node, client := filepath.Join(dir, "node-1", "config.toml"), filepath.Join(dir, "client-1", "config.toml")
	write(t, node, "node = 1\n[addresses]\n2 = \"gateway:9402\"\n\"3\" = \"10.0.0.3:1\"\n")
	write(t, client, "client = 1\naddresses = {4 = \"gateway:9404\"}\n")
	n, err := LoadNodeConfig(node)
	if err != nil || len(n.Addresses) != 2 || n.Addresses[2] != "gateway:9402" || n.Addresses[3] != "10.0.0.3:1" {
		t.Errorf("%+v %v", n, err)
	}
	if r := n.Replica(protocol.Factory{}, nil); r.Addresses[2] != "gateway:9402" {
		t.Errorf("%+v", r)
	}
	c, err := LoadClientConfig(client)
	if err != nil || len(c.Addresses) != 1 || c.Config(nil).Addresses[4] != "gateway:9404" {
		t.Errorf("%+v %v", c, err)
	}
	write(t, node, "node = 1\n[addresses]\n1 = \"h:1\"\n2 = \"h:0\"\n3 = 7\n9 = \"h:1\"\nx = \"h:1\"\n")
	_, err = LoadNodeConfig(node)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		":3: addresses.1 is for this node itself: use listen",
		`:4: addresses.2 "h:0" has port 0`,
		":5: addresses.3 is a number",
		":6: addresses.9 is for no member of the genesis: the genesis names nodes 1",
		":7: addresses.x names no node",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 5 {
		t.Errorf("%d mistakes reported, planted 5:\n%v", n, err)
	}
}

func TestGenesisDigestCoversContentNotLayout(t *testing.T) {
	_, g := made(t, GenerateOptions{})
	compact := bytes.ReplaceAll(bytes.ReplaceAll(g.Marshal(), []byte("\n"), nil), []byte("  "), nil)
	same, err := ParseGenesis(compact)
	if err != nil || same.Digest() != g.Digest() {
		t.Fatal("layout changes the cluster id", err)
	}
	for name, edit := range map[string]func(*Genesis){
		"nonce": func(g *Genesis) { g.Nonce[0]++ }, "f": func(g *Genesis) { g.F = 0 },
		"address": func(g *Genesis) { g.Members[2].Addr = "127.0.0.1:9" }, "key": func(g *Genesis) { g.Members[0].Key[3]++ },
		"client": func(g *Genesis) { g.Clients[0].Key[0]++ }, "admin": func(g *Genesis) { g.Admins[0][0]++ },
		"limits": func(g *Genesis) { g.Limits.Sessions-- }, "protocol": func(g *Genesis) { g.Protocol = "hotstuff" },
	} {
		x, err := ParseGenesis(g.Marshal())
		if err != nil {
			t.Fatal(err)
		}
		if edit(x); x.Digest() == g.Digest() {
			t.Errorf("%s is not covered", name)
		}
	}
}

func TestBadGenesesAreRefused(t *testing.T) {
	_, g := made(t, GenerateOptions{})
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown field": {`"f":`, `"e": 1, "f":`, "unknown field"},
		"format":        {`"format": 1`, `"format": 2`, "format 2"},
		"faults":        {`"f": 1`, `"f": 2`, "cannot tolerate f=2"},
		"protocol":      {`"pbft"`, `"best"`, `"best" is unknown`},
		"same address":  {`:7402"`, `:7400"`, "are both"},
		"address":       {`"127.0.0.1:7400"`, `"7400"`, "not host:port"},
		"reply limit":   {`"reply_cache_bytes": 2097152`, `"reply_cache_bytes": 1`, "reply_cache_bytes"},
		"short nonce":   {`"nonce": "`, `"nonce": "ab`, "nonce has 33 bytes"},
		"threshold":     {`"threshold": 1`, `"threshold": 2`, "threshold 2 with 1"},
	} {
		text := strings.Replace(string(g.Marshal()), c.old, c.new, 1)
		if text == string(g.Marshal()) {
			t.Fatal(name, "changes nothing")
		}
		if _, err := ParseGenesis([]byte(text)); !errors.Is(err, ErrGenesis) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"", "null", "[]", "{}", string(g.Marshal()) + "{}"} {
		if _, err := ParseGenesis([]byte(text)); !errors.Is(err, ErrGenesis) {
			t.Errorf("%.20q: %v", text, err)
		}
	}
}

func FuzzParseGenesis(f *testing.F) {
	g, err := Generate(GenerateOptions{Dir: filepath.Join(f.TempDir(), "c")}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(g.Marshal())
	f.Add([]byte(`{"format":1,"members":[{"id":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := ParseGenesis(b)
		if err != nil {
			return
		}
		again, err := ParseGenesis(g.Marshal())
		if err != nil || again.Digest() != g.Digest() {
			t.Errorf("an accepted genesis does not survive Marshal: %v", err)
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte("node = 1\n[limits]\npool_mib = 3\n"))
	f.Add([]byte("limits = {pool_mib = \"x\"}\n[[a]]\nb=1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadNodeConfig(path); err == nil {
			t.Error("accepted without genesis and key")
		}
	})
}

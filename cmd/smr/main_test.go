package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/atlas-smr/smr/internal/localcluster"
	"github.com/atlas-smr/smr/replica"
)

// actAsSMR makes the test binary be smr in the processes that the commands under test start of
// themselves.
const actAsSMR = "SMR_TEST_ACT_AS_SMR"

func TestMain(m *testing.M) {
	// A fuzz worker inherits the variable and is no command.
	if os.Getenv(actAsSMR) != "" && !slices.Contains(os.Args, "-test.fuzzworker") {
		main()
		return
	}
	os.Setenv(actAsSMR, "1")
	os.Unsetenv(configVariable)
	os.Exit(m.Run())
}

// smrCommand runs a command line in this process.
func smrCommand(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	code = execute(ctx, args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// want runs a command line and compares the exit code and what stdout is (or, if it ends in "...",
// begins with).
func want(t *testing.T, code int, stdout string, args ...string) {
	t.Helper()
	got, out, errs := smrCommand(t, "", args...)
	prefix, open := strings.CutSuffix(stdout, "...")
	if got != code || open && !strings.HasPrefix(out, prefix) || !open && out != stdout {
		t.Errorf("smr %s: exit %d, want %d; stdout %q, want %q; stderr %s", strings.Join(args, " "), got, code, out, stdout, errs)
	}
}

// refused runs a command line that must fail with code and say text.
func refused(t *testing.T, code int, text string, args ...string) {
	t.Helper()
	got, _, errs := smrCommand(t, "", args...)
	if got != code || !strings.Contains(errs, text) {
		t.Errorf("smr %s: exit %d, want %d; stderr %q lacks %q", strings.Join(args, " "), got, code, errs, text)
	}
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "help" || c.Name() == "completion" {
			return
		}
		if c.Example == "" || c.Short == "" {
			t.Errorf("%s has no example or no short text", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{}).newRootCommand())
}

func TestWrongCommandLinesAreUsageErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, c := range []struct {
		text string
		args []string
	}{
		{"unknown command", []string{"frobnicate"}},
		{"unknown command", []string{"kv", "frobnicate"}},
		{"unknown flag", []string{"demo", "--fast"}},
		{"accepts 1 arg", []string{"kv", "get"}},
		{"--log-level", []string{"version", "--log-level", "loud"}},
		{"--log-format", []string{"version", "--log-format", "xml"}},
		{"--replicas 3", []string{"demo", "--replicas", "3"}},
		{"--outstanding 4 is the total", []string{"bench", "--outstanding", "4"}},
		{"--payload", []string{"bench", "--payload", "3"}},
		{"which configuration?", []string{"run"}},
		{"no configuration: there is no ./smr-cluster", []string{"kv", "get", "x"}},
		{"is a directory", []string{"run", "-c", "."}},
		{"no such file", []string{"status", "-c", "nowhere.toml"}},
		{"which column is the key?", []string{"kv", "import", "x.csv"}},
		{"key of 5000 bytes", []string{"kv", "put", strings.Repeat("k", 5000), "v"}},
		{"this version runs pbft", []string{"init", "--protocol", "raft"}},
	} {
		refused(t, exitUsage, c.text, c.args...)
	}
}

func TestInitRefusesWhatIsThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	want(t, 0, `{"cluster":"...`, "init", "-n", "4", "-o", dir, "--json")
	before, _ := os.ReadFile(filepath.Join(dir, "genesis.json"))
	refused(t, exitFailed, "already exists: choose another directory", "init", "-o", dir)
	if after, _ := os.ReadFile(filepath.Join(dir, "genesis.json")); !bytes.Equal(before, after) {
		t.Error("the genesis was overwritten")
	}
	refused(t, exitFailed, "use -n 7, or -f 1", "init", "-n", "4", "-f", "2", "-o", dir+"2")
}

// startCluster starts a cluster of this binary and returns it and the path of the client's
// configuration.
func startCluster(t *testing.T) (*localcluster.Cluster, string) {
	t.Helper()
	c, err := newLocalCluster(t.TempDir(), 4, 2, "relaxed")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(slog.New(slog.NewTextHandler(t.Output(), nil))) })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := (&demo{cluster: c}).startAll(ctx); err != nil {
		t.Fatal(err)
	}
	return c, filepath.Join(c.Dir, "client-1", "config.toml")
}

func TestAClusterServesKV(t *testing.T) {
	c, config := startCluster(t)
	t.Setenv(configVariable, config)
	want(t, 0, "", "kv", "put", "greeting", "hello")
	want(t, 0, "hello\n", "kv", "get", "greeting")
	want(t, 0, `{"status":"ok","key":"greeting","value":"hello","version":...`, "kv", "get", "greeting", "--json")
	refused(t, exitFailed, "not found", "kv", "get", "nothing")
	want(t, 0, "", "kv", "cas", "greeting", "hello", "hi")
	refused(t, exitFailed, `mismatch: the value is "hi"`, "kv", "cas", "greeting", "hello", "hey")
	refused(t, exitFailed, "mismatch", "kv", "cas", "--absent", "greeting", "hey")
	want(t, 0, "", "kv", "cas", "--absent", "other", "x")
	want(t, 0, "greeting\thi\nother\tx\n", "kv", "scan")
	want(t, 0, "greeting\thi\n", "kv", "scan", "--prefix", "gr")
	want(t, 0, "", "kv", "del", "other")
	refused(t, exitFailed, "not found", "kv", "del", "other")
	if code, _, errs := smrCommand(t, "binary \xff\x00", "kv", "put", "b", "-"); code != 0 {
		t.Error(errs)
	}
	want(t, 0, "binary \xff\x00\n", "kv", "get", "b")
	want(t, 0, `{"status":"ok","key":"b","value_base64":"YmluYXJ5IP8A"...`, "kv", "get", "b", "--json")
	want(t, 0, "", "kv", "del", "b")

	file := filepath.Join(t.TempDir(), "people.csv")
	if err := os.WriteFile(file, []byte("id,name\n1,Ada\n2\n3,Grace\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, exitFailed, "row 2 (line 3): 1 fields, the header has 2", "kv", "import", file, "--key", "id", "--value", "name")
	want(t, 0, "Ada\n", "kv", "get", "1")
	refused(t, exitFailed, "1 of 3 rows were rejected: see "+file+".rejected", "kv", "import", file, "--key", "id", "--value", "name", "--keep-going")
	want(t, 0, "1\tAda\n3\tGrace\ngreeting\thi\n", "kv", "dump")
	if b, _ := os.ReadFile(file + ".rejected"); string(b) != "row 2 (line 3): 1 fields, the header has 2\n" {
		t.Errorf("rejected: %q", b)
	}
	refused(t, exitFailed, "remove it or choose another with --rejected", "kv", "import", file, "--key", "id", "--keep-going")

	var roots []string
	for i := 1; i <= 4; i++ {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		if _, err := c.CaughtUp(ctx); err != nil {
			t.Fatal(err)
		}
		cancel()
		code, out, errs := smrCommand(t, "", "kv", "dump", "--replica", string(rune('0'+i)), "--json")
		lines := strings.Split(strings.TrimSpace(out), "\n")
		var end dumpEnd
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &end); err != nil || code != 0 || end.Pairs != 3 || end.Root == "" {
			t.Fatalf("dump of replica %d: exit %d, %q %s", i, code, out, errs)
		}
		roots = append(roots, end.Root)
	}
	for _, r := range roots {
		if r != roots[0] {
			t.Error("the replicas' roots differ:", roots)
		}
	}
	refused(t, exitUsage, "the cluster has replicas 1 to 4", "kv", "dump", "--replica", "5")

	code, out, errs := smrCommand(t, "", "status", "--json")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var sum clusterStatus
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &sum); err != nil || code != 0 || len(lines) != 5 || sum.Up != 4 || !sum.OK || sum.Primary != 1 {
		t.Errorf("status: exit %d\n%s%s", code, out, errs)
	}
	if _, out, _ := smrCommand(t, "", "status", "-v"); !strings.Contains(out, "normal*") || !strings.Contains(out, "count ops-executed") {
		t.Error(out)
	}
	whatKeepsAReplicaFromRunning(t, c)
	if err := c.Kill(3, 4); err != nil {
		t.Fatal(err)
	}
	refused(t, exitFailed, "2 of 4 replicas are up and executing", "status")
	refused(t, exitFailed, "are at least 3 of the 4 replicas up?", "kv", "put", "x", "y", "--timeout", "700ms")
	refused(t, exitFailed, "does not answer on its admin address", "kv", "dump", "--replica", "3")
}

func whatKeepsAReplicaFromRunning(t *testing.T, c *localcluster.Cluster) {
	t.Helper()
	node := func(i string) string { return filepath.Join(c.Dir, "node-"+i, "config.toml") }
	refused(t, exitFailed, "in use", "run", "-c", node("1"))
	elsewhere := filepath.Join(c.Dir, "node-1", "elsewhere.toml")
	if err := os.WriteFile(elsewhere, []byte("node = 1\ndata = \"../node-9/data\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, exitFailed, "smr init", "run", "-c", elsewhere) // a wiped disk
	o := replica.GenerateOptions{Dir: filepath.Join(c.Dir, "second"), Ports: [][2]int{{1, 2}, {3, 4}, {5, 6}, {7, 8}}, F: -1}
	for i := range o.Ports {
		m := c.Genesis.Members[i]
		o.Ports[i] = [2]int{portOf(t, m.Addr), portOf(t, m.Admin)}
	}
	if _, err := replica.Generate(o, localcluster.InitStorage); err != nil {
		t.Fatal(err)
	}
	second := func(i string) string { return filepath.Join(c.Dir, "second", "node-"+i) }
	refused(t, exitFailed, "stop the process that uses the port", "run", "-c", filepath.Join(second("1"), "config.toml"))
	if err := os.WriteFile(elsewhere, []byte("node = 1\ndata = \""+second("1")+"/data\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, exitFailed, "belongs to another cluster", "run", "-c", elsewhere)
	if err := os.WriteFile(elsewhere, []byte("node = 1\nkey = \"../node-2/key.pem\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	refused(t, exitUsage, "is not node 1's key in the genesis", "run", "-c", elsewhere)
	// A client of another genesis is not let in.
	refused(t, exitFailed, "no answer", "kv", "get", "greeting", "-c", filepath.Join(c.Dir, "second", "client-1", "config.toml"), "--timeout", "700ms")
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atlas-smr/smr/sim"
)

func smrSim(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = execute(ctx, append([]string{"sim"}, args...), strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

func TestSimCountsEveryKindOfFaultAndEverySize(t *testing.T) {
	code, out, errs := smrSim(t.Context(), "--seeds", "6", "--json")
	if code != 0 {
		t.Fatalf("code %d: %s", code, errs)
	}
	var sum simSummary
	if err := json.Unmarshal([]byte(lastLine(out)), &sum); err != nil {
		t.Fatal(err)
	}
	seeds := uint64(0)
	for _, n := range sum.N {
		seeds += n
	}
	if sum.Seeds != 6 || seeds != 6 || sum.Events == 0 || sum.TraceHash == "" {
		t.Errorf("summary %+v", sum)
	}
	for _, k := range sim.FaultKinds() {
		if _, ok := sum.Faults[k]; !ok {
			t.Errorf("no count of %s", k)
		}
	}
}

func TestSimMistakesListWhatThereIs(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--seed 1 --scenario rain", "power-loss"},
		{"--seed 1 --protocol zab", "pbft"},
		{"--seed 1 --rain", "--scenario"},
		{"--seed 1 --replicas 3", "4 to 31"},
		{"--seed 1 --seeds 2", "--minutes"},
		{"", "--minutes"},
		{"--seeds 2 --trace x", "--seed"},
	} {
		code, out, errs := smrSim(t.Context(), strings.Fields(c.args)...)
		if code != exitUsage || !strings.Contains(errs, c.want) || out != "" {
			t.Errorf("smr sim %s: code %d, stdout %q, stderr %q", c.args, code, out, errs)
		}
	}
}

func TestSimThatIsInterruptedSaysWhatItDid(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	code, out, errs := smrSim(ctx, "--seeds", "1000", "--json")
	var sum simSummary
	if err := json.Unmarshal([]byte(lastLine(out)), &sum); err != nil {
		t.Fatal(err)
	}
	if code == 0 || !sum.Interrupted || sum.Seeds == 1000 || !strings.Contains(errs, "interrupted") {
		t.Errorf("code %d, %+v, %s", code, sum, errs)
	}
}

func TestSimRunsUntilTheTimeIsUp(t *testing.T) {
	code, out, errs := smrSim(t.Context(), "--minutes", "0.005", "--json")
	var sum simSummary
	if err := json.Unmarshal([]byte(lastLine(out)), &sum); err != nil {
		t.Fatal(err)
	}
	if code != 0 || sum.Interrupted {
		t.Errorf("code %d, %+v, %s", code, sum, errs)
	}
}

func TestSimReplaysItsTracesAndRefusesOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace")
	if code, _, errs := smrSim(t.Context(), "--seed", "5", "--scenario", "calm", "--trace", path); code != 0 {
		t.Fatal(errs)
	}
	if code, out, errs := smrSim(t.Context(), "--replay", path); code != 0 || !strings.HasPrefix(out, "seed 5: calm") {
		t.Errorf("code %d: %s%s", code, out, errs)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, text, want string }{
		{"older", strings.Replace(string(b), "version 2", "version 1", 1), "version 1; this build reads version 2"},
		{"no trace", "hello\n", "does not begin with its version"},
		{"empty", "", "empty"},
		{"cut short", string(b[:len(b)/2]), "cut short"},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if code, _, errs := smrSim(t.Context(), "--replay", path); code == 0 || !strings.Contains(errs, c.want) {
			t.Errorf("%s: code %d: %s", c.name, code, errs)
		}
	}
}

package main

import (
	"encoding/json"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
)

func portOf(t *testing.T, addr string) int {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestTheDatasetIsWhole(t *testing.T) {
	rows, err := loadDataset()
	if err != nil || len(rows) != 34924 {
		t.Fatal(len(rows), err)
	}
	if r := rows[0x41]; r.key != "0041" || string(r.value) != `{"code":"0041","name":"LATIN CAPITAL LETTER A","category":"Lu"}` {
		t.Errorf("%+v %s", r, r.value)
	}
}

func TestDemoSurvivesItsKills(t *testing.T) {
	code, out, errs := smrCommand(t, "", "demo", "--rows", "1500", "--rate", "1500", "--json")
	var r demoResult
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("exit %d: %s\n%s", code, out, errs)
	}
	if r.Replicas != 4 || r.F != 1 || r.Kills != 6 || r.ViewChanges < 1 || !r.ok() || r.Acknowledged != r.Requests || r.Acknowledged < 1500 {
		t.Errorf("%+v\n%s", r, errs)
	}
	for _, want := range []string{"kill -9 of the primary", "kill -9 of a backup", "kill -9 of all 4", "is back and votes", "leads"} {
		if !strings.Contains(errs, want) {
			t.Errorf("%q is not told:\n%s", want, errs)
		}
	}
}

func TestPercentiles(t *testing.T) {
	var d []time.Duration
	for i := range 1000 {
		d = append(d, time.Duration(i+1)*time.Microsecond)
	}
	if a, b, c := percentile(d, 0.5), percentile(d, 0.99), percentile(d, 0.999); a != 500 || b != 990 || c != 999 {
		t.Error(a, b, c)
	}
	if percentile(nil, 0.5) != 0 || percentile(d[:1], 0.999) != 1 {
		t.Error("edges")
	}
}

func TestBenchMeasures(t *testing.T) {
	code, out, errs := smrCommand(t, "", "bench", "--duration", "500ms", "--warmup", "200ms", "--outstanding", "32", "--durability", "memory", "--json")
	var r benchResult
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != 0 {
		t.Fatalf("exit %d: %s\n%s", code, out, errs)
	}
	if r.Ops == 0 || r.P50 == 0 || r.P999 < r.P50 || r.RSS == 0 || r.CPUPerOp == 0 || r.Errors != 0 || r.Clients != 8 || r.Durability != "memory" {
		t.Errorf("%s", out)
	}
}

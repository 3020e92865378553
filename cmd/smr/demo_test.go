package main

import (
	"encoding/json"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/kv"
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

// written is an acknowledged put and the store that holds exactly such ones.
func written(n int) (events []event, v view) {
	values, versions := map[string]string{}, map[string]smr.SeqNo{}
	for i := range n {
		k := fmt.Sprintf("k%d", i)
		values[k], versions[k] = "v"+k, smr.SeqNo(i+1)
		events = append(events, event{req: kv.Put(k, "v"+k), rep: kv.Reply{Status: kv.StatusOK}, seq: smr.SeqNo(i + 1)})
	}
	v.who, v.keys = "replica 1", n
	v.read = func(k string) ([]byte, smr.SeqNo, bool) {
		value, ok := values[k]
		return []byte(value), versions[k], ok
	}
	return events, v
}

func TestCompareFindsLossAndRepetition(t *testing.T) {
	events, good := written(10)
	if v := compare(events, []view{good, good}); v.lost != 0 || v.duplicated != 0 {
		t.Fatalf("%+v", v)
	}
	alter := func(change func(k string, value []byte, version smr.SeqNo) ([]byte, smr.SeqNo, bool)) view {
		bad := good
		bad.read = func(k string) ([]byte, smr.SeqNo, bool) {
			value, version, ok := good.read(k)
			if k == "k3" {
				return change(k, value, version)
			}
			return value, version, ok
		}
		return bad
	}
	gone := alter(func(string, []byte, smr.SeqNo) ([]byte, smr.SeqNo, bool) { return nil, 0, false })
	gone.keys--
	if v := compare(events, []view{good, gone}); v.lost != 1 || v.duplicated != 0 {
		t.Errorf("a missing key: %+v", v)
	}
	old := alter(func(_ string, _ []byte, version smr.SeqNo) ([]byte, smr.SeqNo, bool) {
		return []byte("old"), version, true
	})
	if v := compare(events, []view{old}); v.lost != 1 {
		t.Errorf("another value: %+v", v)
	}
	again := alter(func(_ string, value []byte, _ smr.SeqNo) ([]byte, smr.SeqNo, bool) { return value, 99, true })
	if v := compare(events, []view{again}); v.lost != 0 || v.duplicated != 1 {
		t.Errorf("executed again: %+v", v)
	}
	more := good
	more.keys++
	if v := compare(events, []view{more}); v.duplicated != 1 {
		t.Errorf("a key nobody wrote: %+v", v)
	}
}

func TestLinearizabilityCheckTellsRightFromWrong(t *testing.T) {
	ok := func(op kv.Request, call, ret time.Duration) event {
		return event{req: op, rep: kv.Reply{Status: kv.StatusOK}, call: call, ret: ret}
	}
	got := func(value string, call, ret time.Duration) event {
		return event{req: kv.Get("k"), rep: kv.Reply{Status: kv.StatusOK, Found: true, Value: []byte(value)}, call: call, ret: ret}
	}
	none := func(call, ret time.Duration) event {
		return event{req: kv.Get("k"), rep: kv.Reply{Status: kv.StatusNotFound}, call: call, ret: ret}
	}
	mismatch := func(found string, call, ret time.Duration) event {
		return event{req: kv.CAS("k", "x", "y"), rep: kv.Reply{Status: kv.StatusMismatch, Found: found != "", Value: []byte(found)}, call: call, ret: ret}
	}
	for name, c := range map[string]struct {
		events []event
		ok     bool
	}{
		"overlapping":     {[]event{ok(kv.Put("k", "1"), 0, 10), none(1, 2), got("1", 3, 4), got("1", 11, 12)}, true},
		"stale read":      {[]event{ok(kv.Put("k", "1"), 0, 1), ok(kv.Put("k", "2"), 2, 3), got("1", 4, 5)}, false},
		"lost write":      {[]event{ok(kv.Put("k", "1"), 0, 1), none(2, 3)}, false},
		"back in time":    {[]event{ok(kv.Put("k", "1"), 0, 10), got("1", 1, 2), none(3, 4)}, false},
		"delete":          {[]event{ok(kv.Put("k", "1"), 0, 1), ok(kv.Delete("k"), 2, 3), none(4, 5)}, true},
		"two deletes":     {[]event{ok(kv.Put("k", "1"), 0, 1), ok(kv.Delete("k"), 2, 3), ok(kv.Delete("k"), 4, 5)}, false},
		"cas":             {[]event{ok(kv.Put("k", "x"), 0, 1), ok(kv.CAS("k", "x", "y"), 2, 3), got("y", 4, 5)}, true},
		"two cas":         {[]event{ok(kv.Put("k", "x"), 0, 1), ok(kv.CAS("k", "x", "y"), 2, 9), ok(kv.CAS("k", "x", "z"), 2, 9)}, false},
		"cas on nothing":  {[]event{mismatch("", 0, 1)}, true},
		"wrong mismatch":  {[]event{ok(kv.Put("k", "x"), 0, 1), mismatch("x", 2, 3)}, false},
		"create":          {[]event{ok(kv.Create("k", "1"), 0, 1), got("1", 2, 3)}, true},
		"create on value": {[]event{ok(kv.Put("k", "1"), 0, 1), ok(kv.Create("k", "2"), 2, 3)}, false},
	} {
		key, good, finished := linearizable(c.events, time.Minute)
		if good != c.ok || !finished || !good && key != "k" {
			t.Errorf("%s: %v, want %v (%q, finished %v)", name, good, c.ok, key, finished)
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

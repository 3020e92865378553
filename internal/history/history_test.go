package history

import (
	"fmt"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/kv"
)

// always says that every key is written once.
func always(string) bool { return true }

// written is an acknowledged put and the store that holds exactly such ones.
func written(n int) (events []Event, v View) {
	values, versions := map[string]string{}, map[string]smr.SeqNo{}
	for i := range n {
		k := fmt.Sprintf("k%d", i)
		values[k], versions[k] = "v"+k, smr.SeqNo(i+1)
		events = append(events, Event{Req: kv.Put(k, "v"+k), Rep: kv.Reply{Status: kv.StatusOK}, Seq: smr.SeqNo(i + 1)})
	}
	v.Who, v.Keys = "replica 1", n
	v.Read = func(k string) ([]byte, smr.SeqNo, bool) {
		value, ok := values[k]
		return []byte(value), versions[k], ok
	}
	return events, v
}

func TestCompareFindsLossAndRepetition(t *testing.T) {
	events, good := written(10)
	if v := Compare(events, []View{good, good}, always); v.Lost != 0 || v.Duplicated != 0 {
		t.Fatalf("%+v", v)
	}
	alter := func(change func(k string, value []byte, version smr.SeqNo) ([]byte, smr.SeqNo, bool)) View {
		bad := good
		bad.Read = func(k string) ([]byte, smr.SeqNo, bool) {
			value, version, ok := good.Read(k)
			if k == "k3" {
				return change(k, value, version)
			}
			return value, version, ok
		}
		return bad
	}
	gone := alter(func(string, []byte, smr.SeqNo) ([]byte, smr.SeqNo, bool) { return nil, 0, false })
	gone.Keys--
	if v := Compare(events, []View{good, gone}, always); v.Lost != 1 || v.Duplicated != 0 {
		t.Errorf("a missing key: %+v", v)
	}
	old := alter(func(_ string, _ []byte, version smr.SeqNo) ([]byte, smr.SeqNo, bool) {
		return []byte("old"), version, true
	})
	if v := Compare(events, []View{old}, always); v.Lost != 1 {
		t.Errorf("another value: %+v", v)
	}
	open := append([]Event(nil), events...)
	open[3].Open = true
	if v := Compare(open, []View{good, gone}, always); v.Lost != 0 || v.Duplicated != 0 {
		t.Errorf("a missing key whose write nobody knows about: %+v", v)
	}
	if v := Compare(open, []View{old}, always); v.Lost != 1 {
		t.Errorf("another value than the one of an open write: %+v", v)
	}
	again := alter(func(_ string, value []byte, _ smr.SeqNo) ([]byte, smr.SeqNo, bool) { return value, 99, true })
	if v := Compare(events, []View{again}, always); v.Lost != 0 || v.Duplicated != 1 {
		t.Errorf("executed again: %+v", v)
	}
	more := good
	more.Keys++
	if v := Compare(events, []View{more}, always); v.Duplicated != 1 {
		t.Errorf("a key nobody wrote: %+v", v)
	}
}

func TestLinearizabilityCheckTellsRightFromWrong(t *testing.T) {
	ok := func(op kv.Request, call, ret time.Duration) Event {
		return Event{Req: op, Rep: kv.Reply{Status: kv.StatusOK}, Call: call, Ret: ret}
	}
	got := func(value string, call, ret time.Duration) Event {
		return Event{Req: kv.Get("k"), Rep: kv.Reply{Status: kv.StatusOK, Found: true, Value: []byte(value)}, Call: call, Ret: ret}
	}
	none := func(call, ret time.Duration) Event {
		return Event{Req: kv.Get("k"), Rep: kv.Reply{Status: kv.StatusNotFound}, Call: call, Ret: ret}
	}
	mismatch := func(found string, call, ret time.Duration) Event {
		return Event{Req: kv.CAS("k", "x", "y"), Rep: kv.Reply{Status: kv.StatusMismatch, Found: found != "", Value: []byte(found)}, Call: call, Ret: ret}
	}
	open := func(op kv.Request, call time.Duration) Event { return Event{Req: op, Call: call, Open: true} }
	for name, c := range map[string]struct {
		events []Event
		ok     bool
	}{
		"overlapping":      {[]Event{ok(kv.Put("k", "1"), 0, 10), none(1, 2), got("1", 3, 4), got("1", 11, 12)}, true},
		"stale read":       {[]Event{ok(kv.Put("k", "1"), 0, 1), ok(kv.Put("k", "2"), 2, 3), got("1", 4, 5)}, false},
		"lost write":       {[]Event{ok(kv.Put("k", "1"), 0, 1), none(2, 3)}, false},
		"back in time":     {[]Event{ok(kv.Put("k", "1"), 0, 10), got("1", 1, 2), none(3, 4)}, false},
		"delete":           {[]Event{ok(kv.Put("k", "1"), 0, 1), ok(kv.Delete("k"), 2, 3), none(4, 5)}, true},
		"two deletes":      {[]Event{ok(kv.Put("k", "1"), 0, 1), ok(kv.Delete("k"), 2, 3), ok(kv.Delete("k"), 4, 5)}, false},
		"cas":              {[]Event{ok(kv.Put("k", "x"), 0, 1), ok(kv.CAS("k", "x", "y"), 2, 3), got("y", 4, 5)}, true},
		"two cas":          {[]Event{ok(kv.Put("k", "x"), 0, 1), ok(kv.CAS("k", "x", "y"), 2, 9), ok(kv.CAS("k", "x", "z"), 2, 9)}, false},
		"cas on nothing":   {[]Event{mismatch("", 0, 1)}, true},
		"wrong mismatch":   {[]Event{ok(kv.Put("k", "x"), 0, 1), mismatch("x", 2, 3)}, false},
		"create":           {[]Event{ok(kv.Create("k", "1"), 0, 1), got("1", 2, 3)}, true},
		"open, seen late":  {[]Event{open(kv.Put("k", "1"), 0), none(1, 2), got("1", 3, 4)}, true},
		"open, never seen": {[]Event{open(kv.Put("k", "1"), 0), none(1, 2), open(kv.Delete("k"), 3), open(kv.Get("k"), 3)}, true},
		"open, twice":      {[]Event{open(kv.Put("k", "1"), 0), got("1", 1, 2), ok(kv.Put("k", "2"), 3, 4), got("1", 5, 6)}, false},
		"open cas":         {[]Event{ok(kv.Put("k", "x"), 0, 1), open(kv.CAS("k", "y", "z"), 2), got("z", 3, 4)}, false},
		"create on value":  {[]Event{ok(kv.Put("k", "1"), 0, 1), ok(kv.Create("k", "2"), 2, 3)}, false},
	} {
		key, good, finished := Linearizable(c.events, time.Minute)
		if good != c.ok || !finished || !good && key != "k" {
			t.Errorf("%s: %v, want %v (%q, finished %v)", name, good, c.ok, key, finished)
		}
	}
}

package check_test

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/sim/check"
)

var large = flag.Bool("large", false, "also exhaust the bounds that take minutes")

// bounds are the spaces that the tests exhaust; large ones by flag.
var bounds = []struct {
	check.Options
	large bool
}{
	{Options: check.Options{Fault: check.Byzantine, Seqs: 1, Views: 2, Variants: 2}},
	{Options: check.Options{Fault: check.Byzantine, Seqs: 2, Views: 1, Variants: 2}},
	{Options: check.Options{Fault: check.Byzantine, Seqs: 2, Views: 2, Variants: 1}},
	{Options: check.Options{Fault: check.Byzantine, Seqs: 2, Views: 1, Variants: 2, Crashes: 1}},
	{Options: check.Options{Fault: check.Byzantine, Seqs: 1, Views: 2, Variants: 1, Crashes: 1}},
	{Options: check.Options{Fault: check.Crash, Seqs: 2, Views: 1, Victim: 1, Crashes: 1}},
	{Options: check.Options{Fault: check.Crash, Seqs: 1, Views: 2, Victim: 1, Crashes: 1}},
	{Options: check.Options{Fault: check.Crash, Seqs: 1, Views: 2, Victim: 2, Crashes: 1}},
	{Options: check.Options{Fault: check.Crash, Seqs: 1, Views: 2, Victim: 3, Crashes: 1}, large: true},
	{Options: check.Options{Fault: check.Byzantine, Seqs: 1, Views: 3, Variants: 2}, large: true},
	{Options: check.Options{Fault: check.Byzantine, Seqs: 2, Views: 2, Variants: 2}, large: true},
}

func label(o check.Options) string {
	s := fmt.Sprintf("%s, %d seqs, %d views", o.Fault, o.Seqs, o.Views)
	if o.Fault == check.Crash {
		return fmt.Sprintf("%s, victim %d", s, o.Victim)
	}
	if o.Crashes > 0 {
		s += ", one more crashes"
	}
	return fmt.Sprintf("%s, %d variants", s, o.Variants)
}

func TestNoReachableStateIsWrong(t *testing.T) {
	for _, b := range bounds {
		t.Run(label(b.Options), func(t *testing.T) {
			if b.large && !*large {
				t.Log("left out: give -large")
				return
			}
			o := b.Options
			o.Factory, o.Replicas = pbft.Factory(), 4
			began := time.Now()
			r, err := check.Run(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if r.Violation != "" || !r.Exhausted {
				t.Fatalf("exhausted %v, violation %q\n%s", r.Exhausted, r.Violation, strings.Join(r.Trace, "\n"))
			}
			if r.States < 100 || r.Depth < 5 {
				t.Errorf("only %d states, depth %d", r.States, r.Depth)
			}
			t.Log(r.Speed(time.Since(began)))
		})
	}
}

// planted is the production machine with a rule of the log or the gate left out.
type planted struct {
	protocol.Explorable
	forget uint8 // vote state of this name does not survive a restart
	early  bool  // votes do not wait for the disk
}

func (p planted) Clone() protocol.Explorable {
	p.Explorable = p.Explorable.Clone()
	return p
}

func (p planted) Start(now time.Time, rec protocol.Recovered, out *protocol.Effects) {
	var kept []protocol.Record
	for _, s := range rec.State {
		if s.Name != p.forget {
			kept = append(kept, s)
		}
	}
	rec.State = kept
	p.Explorable.Start(now, rec, out)
}

func (p planted) hasten(out *protocol.Effects) {
	if p.early {
		for _, o := range out.SendDurable {
			if o.To == protocol.Everyone {
				out.Send = append(out.Send, o)
			}
		}
	}
}

func (p planted) Receive(now time.Time, from smr.NodeID, m protocol.Message, out *protocol.Effects) {
	p.Explorable.Receive(now, from, m, out)
	p.hasten(out)
}

func (p planted) Held(now time.Time, ids []smr.BundleID, out *protocol.Effects) {
	p.Explorable.Held(now, ids, out)
	p.hasten(out)
}

func TestPlantedFaultsOfLogAndGateAreFound(t *testing.T) {
	for _, c := range []struct {
		name  string
		plant planted
		want  string
	}{
		{"a restart forgets the own prepare", planted{forget: 5}, "prepares"},
		{"a restart forgets the own timeout", planted{forget: 2}, "timeout"},
		{"a restart forgets the lock", planted{forget: 3}, "hides the lock"},
		{"a restart forgets that it led", planted{forget: 4}, "proposes"},
		{"votes do not wait for the disk", planted{early: true}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := ""
			for _, o := range []check.Options{
				{Fault: check.Byzantine, Seqs: 1, Views: 1, Variants: 2},
				{Fault: check.Crash, Seqs: 2, Views: 1, Victim: 1},
				{Fault: check.Crash, Seqs: 1, Views: 2, Victim: 1},
			} {
				o.Factory, o.Replicas, o.Crashes = pbft.Factory(), 4, 1
				o.Factory.New = func(p protocol.Params) protocol.Ordering {
					x := c.plant
					x.Explorable = pbft.New(p).(protocol.Explorable)
					return x
				}
				r, err := check.Run(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				if found = r.Violation; found != "" {
					t.Logf("%s, %d states: %s\n%s", label(o), r.States, found, strings.Join(r.Trace, "\n"))
					if len(r.Trace) == 0 {
						t.Error("no trace")
					}
					break
				}
			}
			if found == "" || !strings.Contains(found, c.want) {
				t.Errorf("found %q", found)
			}
		})
	}
}

func TestARunStopsWhenToldTo(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	o := check.Options{Factory: pbft.Factory(), Fault: check.Byzantine, Replicas: 4, Seqs: 2, Views: 2, Variants: 2, Progress: func(check.Result) { stop() }}
	r, err := check.Run(ctx, o)
	if err != nil || r.Exhausted || r.States == 0 || r.Frontier == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	o.Limit, o.Progress = 100, nil
	if r, err = check.Run(t.Context(), o); err != nil || r.Exhausted || r.States < 100 || r.States > 1000 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestTwoRunsExploreTheSame(t *testing.T) {
	o := check.Options{Factory: pbft.Factory(), Fault: check.Byzantine, Replicas: 4, Seqs: 1, Views: 2, Variants: 2}
	a, errA := check.Run(t.Context(), o)
	b, errB := check.Run(t.Context(), o)
	if errA != nil || errB != nil || fmt.Sprint(a) != fmt.Sprint(b) {
		t.Errorf("%+v\n%+v", a, b)
	}
}

func TestBoundsThatAreNoneAreRefused(t *testing.T) {
	_, err := check.Run(t.Context(), check.Options{Factory: pbft.Factory(), Fault: "slow", Replicas: 5, Views: 9})
	for _, want := range []string{"byzantine, crash", "5 replicas", "0 sequence numbers", "9 views"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

package pbft

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/protocol"
)

// TestScripts runs the scripts in testdata on the test cluster with a fixed seed and no loss but
// what the script asks for. Commands:
//
//	cluster n=N                    a fresh cluster, started; delays of 1 ms, no disk delay
//	submit [count=K] [only=I]      K bundles that every replica gets, or I alone: the others must fetch them
//	run [ms=M] [trace] [watch=I]   time passes; prints events, decisions only with trace, what I receives
//	settle                         runs until everything is decided everywhere
//	crash, start node=I            start recovers from what was synced
//	cut node=I, heal               nothing passes to or from I
//	mute node=I kind=K [to=J]      I's messages of this kind are lost (0: everyone's; J: those to J alone)
//	delay node=I kind=K [to=J] ms=M   they arrive so much later
//	byzantine node=I equivocate|withhold|lie   before the node first leads
//	withhold                       the next bundle is known to replica 1 alone, and its bytes to nobody else
//	stable seq=S                   a checkpoint is certified and durable everywhere: the logs go up to it
//	handover                       the primary passes leadership on
//	status                         one line a replica
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if strings.Contains(path, "fuzz") {
			t.Skip("corpus")
		}
		s := &script{t: t}
		datadriven.RunTest(t, path, s.run)
	})
}

type script struct {
	t *testing.T
	c *cluster
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	arg := func(name string, def int) int {
		v := strconv.Itoa(def)
		d.MaybeScanArgs(t, name, &v)
		n, err := strconv.Atoi(v)
		if err != nil {
			d.Fatalf(t, "%s: %v", name, err)
		}
		return n
	}
	var trace strings.Builder
	if s.c != nil {
		s.c.trace = &trace
	}
	c := s.c
	switch d.Cmd {
	case "cluster":
		c = newCluster(t, arg("n", 4), 1)
		c.maxDelay, c.maxSync = time.Millisecond, 0
		c.boot()
		s.c = c
		return s.status()
	case "submit":
		only := arg("only", 0)
		for range arg("count", 1) {
			if id := c.submitTo(only); only != 0 {
				c.after(0, func() { c.learns(c.nodes[only-1], id) })
			}
		}
		return ""
	case "run":
		c.watch = smr.NodeID(arg("watch", 0))
		c.elapse(time.Duration(arg("ms", 100)) * time.Millisecond)
		c.watch = 0
		return s.tell(trace.String(), d.HasArg("trace"))
	case "settle":
		c.await(30 * time.Second)
		return s.tell(trace.String(), d.HasArg("trace")) + fmt.Sprintf("all decided: %d sequence numbers, %d bundles\n", len(c.decided), len(c.all))
	case "crash":
		c.crash(c.nodes[arg("node", 1)-1])
		return ""
	case "start":
		c.start(c.nodes[arg("node", 1)-1])
		return s.tell(trace.String(), false)
	case "cut":
		x := smr.NodeID(arg("node", 1))
		c.filter = func(from, to smr.NodeID, _ protocol.Message) bool { return from != x && to != x }
		return ""
	case "mute":
		meant := s.match(d, arg)
		c.filter = func(from, to smr.NodeID, m protocol.Message) bool { return !meant(from, to, m) }
		return ""
	case "delay":
		meant, by := s.match(d, arg), time.Duration(arg("ms", 10))*time.Millisecond
		c.lag = func(from, to smr.NodeID, m protocol.Message) time.Duration {
			if meant(from, to, m) {
				return by
			}
			return 0
		}
		return ""
	case "heal":
		c.filter, c.lag = nil, nil
		return ""
	case "stable":
		s.stable(smr.SeqNo(arg("seq", 1)))
		return s.tell(trace.String(), false)
	case "byzantine":
		c.faulty[smr.NodeID(arg("node", 1))] = &traitor{equivocate: d.HasArg("equivocate"), withhold: d.HasArg("withhold"), lie: d.HasArg("lie"), loose: d.HasArg("equivocate")}
		return ""
	case "withhold":
		c.made++
		id := smr.BundleID{0xff, byte(c.made)}
		c.missing[id] = true
		c.learns(c.nodes[0], id)
		return s.tell(trace.String(), false)
	case "handover":
		for _, x := range c.nodes {
			if x.alive && x.ord.Status().Leading {
				c.run(x, func(out *protocol.Effects) { x.ord.HandOver(c.now, 0, out) })
				return s.tell(trace.String(), false)
			}
		}
		return "nobody leads"
	case "status":
		return s.status()
	}
	d.Fatalf(t, "unknown command %q", d.Cmd)
	return ""
}

// match returns whether a message is one that a command names.
func (s *script) match(d *datadriven.TestData, arg func(string, int) int) func(from, to smr.NodeID, m protocol.Message) bool {
	x, y := smr.NodeID(arg("node", 1)), smr.NodeID(arg("to", 0))
	var kind string
	d.ScanArgs(s.t, "kind", &kind)
	k, ok := map[string]uint8{
		"proposal": kindProposal, "prepare": kindPrepare, "commit": kindCommit, "certificate": kindCertificate, "timeout": kindTimeout, "heartbeat": kindHeartbeat, "answer": kindAnswer,
	}[kind]
	if !ok {
		d.Fatalf(s.t, "unknown kind %q", kind)
	}
	return func(from, to smr.NodeID, m protocol.Message) bool {
		return (x == 0 || from == x) && (y == 0 || to == y) && m.Kind() == k
	}
}

// stable gives every live replica the certificate of a checkpoint, and its log loses what lies below.
func (s *script) stable(at smr.SeqNo) {
	c := s.c
	var votes []*auth.Vote
	for i := range c.m.Quorum() {
		votes = append(votes, c.sign(c.m.Voter(i).ID, auth.KindRoot, 0, at, smr.Digest{9}))
	}
	root, err := auth.NewVerifier(c.m, c.scheme).Certify(votes)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, x := range c.nodes {
		if !x.alive {
			continue
		}
		c.run(x, func(out *protocol.Effects) { x.ord.Stable(c.now, auth.CheckpointCert{Cert: root}, out) })
		x.truncate(at)
	}
}

// tell returns the trace without drops, and without decisions unless all is asked for.
func (s *script) tell(trace string, all bool) string {
	var b strings.Builder
	for _, line := range strings.SplitAfter(trace, "\n") {
		if strings.Contains(line, ": drop ") || !all && strings.Contains(line, ": decide ") {
			continue
		}
		b.WriteString(line)
	}
	return b.String()
}

func (s *script) status() string {
	var b strings.Builder
	for _, x := range s.c.nodes {
		if !x.alive {
			fmt.Fprintf(&b, "%d: down\n", x.id)
			continue
		}
		st := x.ord.Status()
		fmt.Fprintf(&b, "%d: view %d primary %d tip %d decided %d", x.id, st.View, st.Primary, st.Tip, st.Decided)
		if st.Leading {
			b.WriteString(" leading")
		}
		if st.Changing {
			b.WriteString(" changing")
		}
		b.WriteString("\n")
	}
	return b.String()
}

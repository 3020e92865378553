package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/localcluster"
	"github.com/atlas-smr/smr/internal/pb/adminpb"
	"github.com/atlas-smr/smr/replica"
)

// nodeStatus is what one replica said, or why it did not.
type nodeStatus struct {
	member replica.Member
	reply  *adminpb.StatusReply
	err    error
}

// clusterStatus sums up what the replicas that answered say. Claims of single replicas: to look at,
// not to act on.
type clusterStatus struct {
	Cluster  string `json:"cluster"`
	Protocol string `json:"protocol"`
	Replicas int    `json:"replicas"`
	F        int    `json:"f"`
	Up       int    `json:"up"`
	View     uint64 `json:"view"`
	Primary  uint32 `json:"primary"`
	Executed uint64 `json:"executed"`
	MaxLag   uint64 `json:"max_lag"`
	Fenced   int    `json:"fenced"`
	OK       bool   `json:"ok"` // a quorum is up and executes
}

func (a *app) newStatusCommand() *cobra.Command {
	var (
		config  string
		asJSON  bool
		verbose bool
		wait    time.Duration
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what every replica is doing",
		Long: `status asks each replica's admin API, which listens on loopback: replicas on other machines show as
down. lag counts the batches a replica is behind the furthest one. The exit code is 0 if a quorum is up
and executing.`,
		Example: "  smr status\n  smr status -v\n  smr status -c smr-cluster/node-1/config.toml --json | tail -1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := configPath(config, defaultClientConfig)
			if err != nil {
				return err
			}
			g, err := loadGenesisOf(path)
			if err != nil {
				return err
			}
			nodes := askAll(cmd.Context(), g, wait)
			sum := summarise(g, nodes)
			out := cmd.OutOrStdout()
			if asJSON {
				err = printStatusJSON(out, nodes, sum)
			} else {
				err = printStatus(out, nodes, sum, verbose)
			}
			if err == nil && !sum.OK {
				err = fmt.Errorf("%d of %d replicas are up and executing: too few for a quorum", sum.Up-sum.Fenced, sum.Replicas)
			}
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringVarP(&config, "config", "c", "", "a client's or replica's configuration file")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object a replica, the summary last")
	fl.BoolVarP(&verbose, "verbose", "v", false, "show connections and counters too")
	fl.DurationVar(&wait, "timeout", 3*time.Second, "how long to wait for a replica")
	return cmd
}

// askAll asks all replicas at once.
func askAll(ctx context.Context, g *replica.Genesis, wait time.Duration) []nodeStatus {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	out := make([]nodeStatus, len(g.Members))
	var wg sync.WaitGroup
	for i, m := range g.Members {
		wg.Go(func() {
			out[i].member = m
			resp, err := localcluster.AdminClient(m.Admin).Status(ctx, connect.NewRequest(&adminpb.StatusRequest{}))
			if err != nil {
				out[i].err = err
				return
			}
			if resp.Msg.Cluster != clusterOf(g) || smr.NodeID(resp.Msg.Node) != m.ID {
				out[i].err = fmt.Errorf("%s is node %d of another cluster (%.16s)", m.Admin, resp.Msg.Node, resp.Msg.Cluster)
				return
			}
			out[i].reply = resp.Msg
		})
	}
	wg.Wait()
	return out
}

func summarise(g *replica.Genesis, nodes []nodeStatus) clusterStatus {
	s := clusterStatus{Cluster: clusterOf(g), Protocol: g.Protocol, Replicas: len(nodes), F: g.F}
	quorum := len(nodes)
	if m, err := g.Membership(); err == nil {
		quorum = m.Quorum()
	}
	for _, n := range nodes {
		if n.reply == nil {
			continue
		}
		s.Up++
		if n.reply.Fenced != "" {
			s.Fenced++
		}
		if n.reply.View >= s.View {
			s.View, s.Primary = n.reply.View, n.reply.Primary
		}
		s.Executed = max(s.Executed, n.reply.Executed)
	}
	for _, n := range nodes {
		if n.reply != nil {
			s.MaxLag = max(s.MaxLag, s.Executed-n.reply.Executed)
		}
	}
	s.OK = s.Up-s.Fenced >= quorum
	return s
}

func printStatusJSON(out io.Writer, nodes []nodeStatus, sum clusterStatus) error {
	for _, n := range nodes {
		var line any = map[string]any{"node": n.member.ID, "up": false, "error": fmt.Sprint(n.err)}
		if n.reply != nil {
			b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(n.reply)
			if err != nil {
				return err
			}
			line = json.RawMessage(b)
		}
		if err := printJSON(out, line); err != nil { // compacts
			return err
		}
	}
	return printJSON(out, sum)
}

func printStatus(out io.Writer, nodes []nodeStatus, sum clusterStatus, verbose bool) error {
	fmt.Fprintf(out, "cluster %.16s  %s, %d replicas, tolerates %d\n", sum.Cluster, sum.Protocol, sum.Replicas, sum.F)
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "node\tmode\tview\tprimary\ttip\tprepared\tdecided\texecuted\tstable\tlag\tpool\tpeers\tdrops\tnote")
	for _, n := range nodes {
		r := n.reply
		if r == nil {
			fmt.Fprintf(t, "%d\tdown\t\t\t\t\t\t\t\t\t\t\t\t%s\n", n.member.ID, shortError(n.err))
			continue
		}
		mode := r.Mode
		if r.Leading {
			mode += "*"
		}
		fmt.Fprintf(t, "%d\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d/%d\t%d\t%s\n", r.Node, mode, r.View, r.Primary, r.Tip, r.Prepared,
			r.Decided, r.Executed, r.Stable, sum.Executed-r.Executed, r.PoolBundles, peersUp(r), sum.Replicas-1, total(r.Drops), note(r))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if verbose {
		for _, n := range nodes {
			if n.reply != nil {
				printDetail(out, n.reply)
			}
		}
	}
	return nil
}

func printDetail(out io.Writer, r *adminpb.StatusReply) {
	fmt.Fprintf(out, "\nnode %d: %s, %s, up %v, %d MiB, %d sessions, %d log syncs of %s\n", r.Node, r.Version, r.Durability,
		(time.Duration(r.UptimeMs) * time.Millisecond).Round(time.Second), r.RssBytes>>20, r.Sessions, r.Syncs,
		time.Duration(mean(r.SyncUs, r.Syncs))*time.Microsecond)
	for _, c := range r.Connections {
		state := "down"
		if c.Up {
			state = "up"
		}
		fmt.Fprintf(out, "  %s %d %s %s, %d bytes queued\n", c.Kind, c.Id, c.Addr, state, c.QueuedBytes)
	}
	for _, m := range []struct {
		what string
		n    map[string]uint64
	}{{"dropped", r.Drops}, {"count", r.Counts}} {
		for _, k := range slices.Sorted(maps.Keys(m.n)) {
			if m.n[k] > 0 {
				fmt.Fprintf(out, "  %s %s %d\n", m.what, k, m.n[k])
			}
		}
	}
}

func peersUp(r *adminpb.StatusReply) (n int) {
	for _, c := range r.Connections {
		if c.Kind == "node" && c.Up {
			n++
		}
	}
	return n
}

func total(m map[string]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

func mean(sum, n uint64) uint64 {
	if n == 0 {
		return 0
	}
	return sum / n
}

// note says what is out of the ordinary.
func note(r *adminpb.StatusReply) string {
	var notes []string
	if r.Fenced != "" {
		notes = append(notes, "FENCED: "+r.Fenced)
	}
	if r.Changing {
		notes = append(notes, "changing view")
	}
	if !r.Voting {
		notes = append(notes, "not voting")
	}
	if r.ReadsClosed {
		notes = append(notes, "reads closed")
	}
	if r.Transfer != "" {
		notes = append(notes, r.Transfer)
	}
	return strings.Join(notes, "; ")
}

func shortError(err error) string {
	if connect.CodeOf(err) == connect.CodeUnavailable {
		return "no answer"
	}
	return err.Error()
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/history"
	"github.com/atlas-smr/smr/internal/localcluster"
	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/replica"
)

// dumpEnd is the last line of a dump with --json.
type dumpEnd struct {
	Pairs   int    `json:"pairs"`
	Replica uint32 `json:"replica,omitempty"`
	Seq     uint64 `json:"seq,omitempty"`
	Root    string `json:"root,omitempty"`
}

func (a *app) newDumpCommand(f *kvFlags) *cobra.Command {
	var node uint32
	cmd := &cobra.Command{
		Use:   "dump [--replica I]",
		Short: "Print all keys and values",
		Long: `dump prints every pair in key order. By default it is a scan in pages, each of which a quorum agrees on.
With --replica I it prints what replica I holds, as it says itself over its admin API on this machine:
to compare replicas, not to be trusted alone.`,
		Example: "  smr kv dump > all.tsv\n  smr kv dump --replica 2 --json | tail -1",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := newPairWriter(cmd.OutOrStdout(), f.json)
			if !cmd.Flags().Changed("replica") {
				return a.withClient(cmd, f, true, func(ctx context.Context, c *kvClient, cfg *replica.ClientConfig) error {
					err := scanPages(ctx, c, cfg.Timeout, kv.Scan("", "", 0), 0, out.pair)
					return endDump(err, out, cmd.OutOrStdout(), dumpEnd{Pairs: out.n})
				})
			}
			path, err := configPath(f.config, defaultClientConfig)
			if err != nil {
				return err
			}
			g, err := loadGenesisOf(path)
			if err != nil {
				return err
			}
			m, ok := g.Member(smr.NodeID(node))
			if !ok {
				return usagef("--replica %d: the cluster has replicas 1 to %d", node, len(g.Members))
			}
			st, end, err := history.Dump(cmd.Context(), localcluster.AdminClient(m.Admin))
			if err != nil {
				return explainAdmin(err, m)
			}
			err = eachPair(st, out.pair)
			return endDump(err, out, cmd.OutOrStdout(), dumpEnd{out.n, node, end.Seq, end.Root})
		},
	}
	cmd.Flags().Uint32Var(&node, "replica", 0, "print what this replica holds itself")
	return cmd
}

func endDump(err error, w *pairWriter, out io.Writer, end dumpEnd) error {
	if err = errors.Join(err, w.flush()); err != nil || !w.json {
		return err
	}
	return printJSON(out, end)
}

// loadGenesisOf reads the genesis that a client's or a node's configuration names.
func loadGenesisOf(path string) (*replica.Genesis, error) {
	c, err := replica.LoadClientConfig(path)
	if err == nil {
		return c.Genesis, nil
	}
	if n, nerr := replica.LoadNodeConfig(path); nerr == nil {
		return n.Genesis, nil
	}
	return nil, err
}

func explainAdmin(err error, m replica.Member) error {
	if connect.CodeOf(err) == connect.CodeUnavailable {
		return fmt.Errorf("replica %d does not answer on its admin address %s (%w): is it running on this machine? 'smr status' shows all", m.ID, m.Admin, err)
	}
	return fmt.Errorf("replica %d: %w", m.ID, err)
}

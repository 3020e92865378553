package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/atlas-smr/smr/internal/localcluster"
	"github.com/atlas-smr/smr/protocol"
	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/replica"
)

// orderings are the protocols this binary can run.
var orderings = map[string]func() protocol.Factory{"pbft": pbft.Factory}

// ordering returns the factory of a protocol by name.
func ordering(name string) (protocol.Factory, error) {
	f, ok := orderings[name]
	if !ok {
		return protocol.Factory{}, usagef("protocol %q: this version runs pbft", name)
	}
	return f(), nil
}

// initResult is what init made.
type initResult struct {
	Cluster  string `json:"cluster"`
	Dir      string `json:"dir"`
	Protocol string `json:"protocol"`
	Replicas int    `json:"replicas"`
	F        int    `json:"f"`
	Clients  int    `json:"clients"`
}

func (a *app) newInitCommand() *cobra.Command {
	var (
		o      replica.GenerateOptions
		asJSON bool
	)
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a new cluster: genesis, keys and configuration files",
		Long: `init writes a directory with genesis.json and a folder for every replica and client, each with its
key.pem, a copy of the genesis and a config.toml. Copy each folder to its machine and run
'smr run -c node-I/config.toml' there. Replica I listens on port base+2(I-1) for peers and clients
and on the next one for the admin API, on loopback.

Whoever holds a key.pem is that replica or client: keep it to the machine that needs it. admin-1 holds
the key that signs changes of membership; it belongs on no replica.`,
		Example: "  smr init -n 4\n  smr init -n 7 -f 2 --clients 3 -o /srv/smr --host 10.0.0.5 --base-port 9000\n  smr init -n 4 --host red,green,blue,white",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := ordering(o.Protocol); err != nil {
				return err
			}
			g, err := replica.Generate(o, localcluster.InitStorage)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return printJSON(out, initResult{clusterOf(g), o.Dir, g.Protocol, len(g.Members), g.F, len(g.Clients)})
			}
			fmt.Fprintf(out, "cluster %s in %s: %d replicas (%s, tolerates %d), %d client(s)\n", g.Digest(), o.Dir, len(g.Members), g.Protocol, g.F, len(g.Clients))
			fmt.Fprintf(out, "start each replica:  smr run -c %s/node-1/config.toml\n", o.Dir)
			_, err = fmt.Fprintf(out, "use it:              smr kv put -c %s/client-1/config.toml greeting hello\n", o.Dir)
			return err
		},
	}
	fl := cmd.Flags()
	fl.IntVarP(&o.Nodes, "nodes", "n", 4, "number of replicas")
	fl.IntVarP(&o.F, "faults", "f", -1, "faulty replicas to tolerate (default: as many as n can)")
	fl.StringVar(&o.Protocol, "protocol", "pbft", "ordering protocol")
	fl.IntVar(&o.Clients, "clients", 1, "number of client identities")
	fl.StringVarP(&o.Dir, "output", "o", "./smr-cluster", "directory to make; it must not exist")
	fl.StringSliceVar(&o.Hosts, "host", []string{"127.0.0.1"}, "host name or address: one for all replicas, or one each, separated by commas")
	fl.IntVar(&o.BasePort, "base-port", 7400, "first port")
	fl.StringVar(&o.Durability, "durability", "strict", "strict, relaxed or memory")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

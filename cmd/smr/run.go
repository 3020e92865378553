package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/internal/localcluster"
	"github.com/atlas-smr/smr/internal/pb/adminpb"
	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/replica"
	"github.com/atlas-smr/smr/state"
)

// drainTimeout bounds how long a replica that was told to end finishes what it has.
const drainTimeout = 10 * time.Second

func (a *app) newRunCommand() *cobra.Command {
	var config, profile, where string
	cmd := &cobra.Command{
		Use:   "run -c FILE",
		Short: "Run one replica of the key-value service",
		Long: `run runs the replica that FILE describes until it is told to end. SIGTERM and interrupt drain it: it
takes no more requests, finishes what it has and exits with 0; a second signal ends it at once. Killing
it in any other way loses nothing either.

--state says where this replica keeps the pairs: in memory, or on disk (under the data directory) when
they are more than memory holds. It is this replica's own business: others may choose otherwise, and it
may change from run to run.`,
		Example: "  smr run -c smr-cluster/node-1/config.toml\n  smr run -c smr-cluster/node-2/config.toml --state disk",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, err := configPath(config, "")
			if err != nil {
				return err
			}
			c, err := replica.LoadNodeConfig(path)
			if err != nil {
				return err
			}
			stop, err := startProfile(profile)
			if err != nil {
				return err
			}
			defer stop()
			log := a.logger(cmd.ErrOrStderr())
			service, closeState, err := openState(where, c.DataDir, log)
			if err != nil {
				return err
			}
			return errors.Join(runReplica(cmd.Context(), c, service, log), closeState())
		},
	}
	cmd.Flags().StringVarP(&config, "config", "c", "", "the replica's configuration file")
	cmd.Flags().StringVar(&where, "state", "memory", "where the pairs are kept: memory or disk")
	cmd.Flags().StringVar(&profile, "cpuprofile", "", "write a CPU profile to this file at the end")
	return cmd
}

// openState returns the key-value service on state in memory or under the data directory, and what
// closes the state after the replica has ended.
func openState(where, data string, log *slog.Logger) (service smr.Service, closeState func() error, err error) {
	switch where {
	case "memory":
		return kv.Service(), func() error { return nil }, nil
	case "disk":
		// The directory proves nothing about this node's votes: whether it may run is for storage to say.
		if _, err := os.Stat(data); err != nil {
			return nil, nil, fmt.Errorf("data directory: %w", err)
		}
		m, err := state.OpenPebble(filepath.Join(data, "state"), state.PebbleOptions{Logger: log})
		if err != nil {
			return nil, nil, err
		}
		return kv.On(m).Service(), m.Close, nil
	}
	return nil, nil, fmt.Errorf("--state %q: want memory or disk", where)
}

// runReplica runs a replica until ctx ends, then drains it; a signal during that ends it at once.
func runReplica(ctx context.Context, c *replica.NodeConfig, service smr.Service, log *slog.Logger) error {
	factory, err := ordering(c.Genesis.Protocol)
	if err != nil {
		return err
	}
	cfg := c.Replica(factory, log)
	cfg.Ready = func() {
		log.Info("replica is up", "node", uint64(c.Node), "cluster", c.Genesis.Digest().String(), "listen", c.ListenAddr, "admin", c.AdminAddr, "data", c.DataDir)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- replica.Run(running, cfg, service) }()
	select {
	case err := <-ended:
		return explainRun(c, err)
	case <-ctx.Done():
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(again)
	log.Info("draining; a second signal ends at once")
	drain, cancel := context.WithTimeout(running, drainTimeout)
	defer cancel()
	if _, err := localcluster.AdminClient(c.AdminAddr).Drain(drain, connect.NewRequest(&adminpb.DrainRequest{})); err != nil {
		log.Warn("cannot drain: ending at once", "err", err)
		stop()
	}
	select {
	case err = <-ended:
	case <-again:
		stop()
		err = <-ended
	case <-drain.Done():
		log.Warn("not drained in time: ending", "after", drainTimeout)
		stop()
		err = <-ended
	}
	return explainRun(c, err)
}

// explainRun adds the remedy to what can keep a replica from running.
func explainRun(c *replica.NodeConfig, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w: stop the process that uses the port, or set another listen (%s) or admin (%s) address in %s", err, c.ListenAddr, c.AdminAddr, c.Path)
	}
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		return fmt.Errorf("%w: set listen (%s) in %s to an address of this machine, such as \"0.0.0.0:PORT\"", err, c.ListenAddr, c.Path)
	}
	return err
}

// startProfile starts a CPU profile, if path is not empty, and returns what ends it.
func startProfile(path string) (stop func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { pprof.StopCPUProfile(); f.Close() }, nil
}

// clusterOf renders a cluster id in full.
func clusterOf(g *replica.Genesis) string { return smr.Digest(g.Digest()).Hex() }

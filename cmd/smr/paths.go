package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/internal/localcluster"
	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/replica"
)

// configVariable names the configuration file where no flag does.
const configVariable = "SMR_CONFIG"

// defaultClientConfig is the client's configuration where nothing names one.
const defaultClientConfig = "./smr-cluster/client-1/config.toml"

// configPath returns the configuration file: the flag's, else the environment's, else def; where def
// is empty there must be one of the former.
func configPath(flag, def string) (string, error) {
	path, from := flag, "-c"
	if path == "" && def != "" {
		path, from = os.Getenv(configVariable), "$"+configVariable
	}
	if path == "" {
		path, from = def, ""
	}
	if path == "" {
		return "", usagef("which configuration? give -c FILE, such as -c smr-cluster/node-1/config.toml ('smr init' makes one)")
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && from == "":
		return "", usagef("no configuration: there is no %s here; give -c FILE, set $%s, or make a cluster with 'smr init'", path, configVariable)
	case err != nil:
		return "", usagef("%s %s: %v", from, path, err)
	case info.IsDir():
		return "", usagef("%s %s is a directory: give the config.toml in it", from, path)
	}
	return path, nil
}

// kvClient is a client of the key-value service.
type kvClient = client.Client[kv.Request, kv.Reply]

// openKV makes a client of the cluster that c describes. It waits for no replica.
func openKV(ctx context.Context, c *replica.ClientConfig, log *slog.Logger) (*kvClient, error) {
	return client.Open(ctx, c.Config(log), kv.RequestCodec{}, kv.ReplyCodec{})
}

// newLocalCluster makes the files of a cluster of this binary below dir.
func newLocalCluster(dir string, nodes, clients int, durability string) (*localcluster.Cluster, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return localcluster.New(dir, exe, replica.GenerateOptions{Nodes: nodes, F: -1, Clients: clients, Durability: durability})
}

// explainTimeout says what a call that ended with its time limit may mean.
func explainTimeout(err error, g *replica.Genesis, limit time.Duration) error {
	if !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	m, merr := g.Membership()
	if merr != nil {
		return err
	}
	return fmt.Errorf("%w (no answer in %v: are at least %d of the %d replicas up? see 'smr status')", err, limit, m.Quorum(), m.N())
}

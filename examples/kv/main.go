// Command kv serves the key-value application of package kv: what 'smr run' does, as the main of a
// program of your own. Use it with 'smr kv'.
//
//	smr init && go run ./examples/kv -c smr-cluster/node-1/config.toml   # and 2, 3, 4
package main

import (
	"context"
	"flag"
	"log"
	"log/slog"
	"os/signal"
	"syscall"

	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/replica"
)

func main() {
	config := flag.String("c", "smr-cluster/node-1/config.toml", "the replica's configuration file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	c, err := replica.LoadNodeConfig(*config)
	if err == nil {
		err = replica.Run(ctx, c.Replica(pbft.Factory(), slog.Default()), kv.Service())
	}
	if err != nil {
		log.Fatal(err)
	}
}

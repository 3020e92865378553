// Command counter is the smallest complete application: one number that survives f liars.
//
//	smr init && go run ./examples/counter -c smr-cluster/node-1/config.toml   # and 2, 3, 4
//	go run ./examples/counter -c smr-cluster/client-1/config.toml -add 5
package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/replica"
)

type counter struct {
	smr.MonolithicState
	n int64
}

func (c *counter) Execute(_ *smr.Context, add int64) int64  { c.n += add; return c.n }
func (c *counter) Query(_ *smr.QueryContext, _ int64) int64 { return c.n }
func (c *counter) State() smr.State                         { return c }
func (c *counter) Freeze() smr.Frozen                       { return frozen(c.n) }
func (c *counter) Restore(r io.Reader) error                { return binary.Read(r, binary.BigEndian, &c.n) }

type frozen int64

func (f frozen) WriteTo(w io.Writer) (int64, error) { return 8, binary.Write(w, binary.BigEndian, f) }
func (frozen) Release()                             {}

var number smr.JSONCodec[int64]

func main() {
	config, add := flag.String("c", "", "configuration file"), flag.Int64("add", 0, "add to the counter, as a client")
	flag.Parse()
	if *add == 0 {
		node, err := replica.LoadNodeConfig(*config)
		if err == nil {
			err = replica.Run(context.Background(), node.Replica(pbft.Factory(), slog.Default()), smr.NewService(&counter{}, number, number))
		}
		log.Fatal(err)
	}
	user, err := replica.LoadClientConfig(*config)
	if err != nil {
		log.Fatal(err)
	}
	c, err := client.Open(context.Background(), user.Config(nil), number, number)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.Do(context.Background(), *add))
}

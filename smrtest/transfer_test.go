package smrtest_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/internal/pb/adminpb"
	"github.com/atlas-smr/smr/internal/pb/adminpb/adminpbconnect"
	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/replica"
	"github.com/atlas-smr/smr/smrtest"
)

// A replica that was away for longer than any log reaches comes back under load, and then carries the
// cluster while another is away.
func TestAReplicaAwayForLongerThanTheLogsReachComesBackUnderLoad(t *testing.T) {
	c := smrtest.ClusterWith(t, 4, kv.Service, pbft.Factory(), smrtest.ClusterOptions{
		Limits: replica.Limits{CheckpointBytes: 1 << 16}, LogBytes: 1,
	})
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	db := client.New(c.Client(1), kv.RequestCodec{}, kv.ReplyCodec{})
	var written atomic.Int64
	put := func() {
		k := written.Add(1)
		value := append(bytes.Repeat([]byte{byte(k)}, 8<<10), fmt.Sprint(k)...)
		if _, err := db.Do(ctx, kv.Put(fmt.Sprintf("key %d", k%200), string(value))); err != nil {
			t.Errorf("put %d: %v", k, err)
		}
	}
	for range 20 {
		put()
	}
	c.Stop(4)
	for range 150 {
		put()
	}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 3 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					put()
				}
			}
		})
	}
	c.Start(4)
	back := awaitTransfer(ctx, t, c, 4)
	close(stop)
	load.Wait()
	if back.StateTransfer.BytesMoved == 0 || back.StateTransfer.Installed == 0 {
		t.Fatalf("%+v", back.StateTransfer)
	}
	for _, s := range back.StateTransfer.Sources {
		if s.Wrong > 0 {
			t.Errorf("correct source %d is blamed: %+v", s.Node, s)
		}
	}
	c.Stop(2) // from here on a quorum needs the one that came back
	for range 20 {
		put()
	}
	got, err := db.Query(ctx, kv.Get(fmt.Sprintf("key %d", written.Load()%200)))
	if err != nil || !got.Found {
		t.Fatalf("%+v %v", got.Found, err)
	}
}

// awaitTransfer asks replica i for its status until it took over a checkpoint and caught up.
func awaitTransfer(ctx context.Context, t *testing.T, c *smrtest.Running, i int) *adminpb.StatusReply {
	t.Helper()
	api := adminpbconnect.NewAdminClient(http.DefaultClient, "http://"+c.AdminAddr(i))
	for {
		r, err := api.Status(ctx, connect.NewRequest(&adminpb.StatusRequest{}))
		if err != nil {
			t.Fatal(err)
		}
		s := r.Msg
		if s.StateTransfer.GetInstalled() > 0 && s.Mode == "normal" && s.Executed > s.StateTransfer.Seq && s.Lag < 100 {
			return s
		}
	}
}

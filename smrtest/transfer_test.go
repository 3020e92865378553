package smrtest_test

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/internal/pb/adminpb"
	"github.com/atlas-smr/smr/internal/pb/adminpb/adminpbconnect"
	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/replica"
	"github.com/atlas-smr/smr/smrtest"
)

// album is monolithic state: slots of bytes. An op is a slot and what to put there.
type album struct {
	smr.MonolithicState
	slots [200][]byte
}

func (a *album) Execute(_ *smr.Context, op []byte) []byte {
	if len(op) > 0 {
		a.slots[int(op[0])%len(a.slots)] = bytes.Clone(op)
	}
	return op[:min(1, len(op))]
}

func (a *album) Query(_ *smr.QueryContext, op []byte) []byte { return op }
func (a *album) State() smr.State                            { return a }
func (a *album) Freeze() smr.Frozen                          { return albumCopy(a.slots) }

func (a *album) Restore(r io.Reader) error {
	var slots albumCopy
	if err := gob.NewDecoder(r).Decode(&slots); err != nil {
		return err
	}
	a.slots = slots
	return nil
}

type albumCopy [200][]byte

func (c albumCopy) WriteTo(w io.Writer) (int64, error) { return 0, gob.NewEncoder(w).Encode(c) }
func (albumCopy) Release()                             {}

// A replica that was away for longer than any log reaches comes back under load, and then carries the
// cluster while as many others are away as it tolerates.
func TestAReplicaAwayForLongerThanTheLogsReachComesBackUnderLoad(t *testing.T) {
	monolithic := func() smr.Service {
		return smr.NewService[[]byte, []byte](&album{}, smr.BytesCodec{}, smr.BytesCodec{})
	}
	for name, x := range map[string]struct {
		n       int
		service func() smr.Service
	}{
		"divisible, four": {4, kv.Service}, "divisible, seven": {7, kv.Service},
		"monolithic, four": {4, monolithic}, "monolithic, seven": {7, monolithic},
	} {
		t.Run(name, func(t *testing.T) { comeBack(t, x.n, x.service) })
	}
}

func comeBack(t *testing.T, n int, service func() smr.Service) {
	c := smrtest.ClusterWith(t, n, service, pbft.Factory(), smrtest.ClusterOptions{
		Limits: replica.Limits{CheckpointBytes: 1 << 16}, LogBytes: 1,
	})
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	raw := client.New(c.Client(1), smr.BytesCodec{}, smr.BytesCodec{})
	var written atomic.Int64
	put := func() {
		k := written.Add(1)
		value := append(bytes.Repeat([]byte{byte(k)}, 8<<10), fmt.Sprint(k)...)
		op, err := kv.RequestCodec{}.Append(nil, kv.Put(fmt.Sprintf("key %d", k%200), string(value)))
		if err == nil {
			_, err = raw.Do(ctx, op)
		}
		if err != nil {
			t.Errorf("put %d: %v", k, err)
		}
	}
	for range 20 {
		put()
	}
	c.Stop(n)
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
	c.Start(n)
	back := awaitTransfer(ctx, t, c, n)
	close(stop)
	load.Wait()
	if back.StateTransfer.BytesMoved == 0 {
		t.Fatalf("%+v", back.StateTransfer)
	}
	for _, s := range back.StateTransfer.Sources {
		if s.Wrong > 0 {
			t.Errorf("correct source %d is blamed: %+v", s.Node, s)
		}
	}
	for i := range (n - 1) / 3 { // from here on a quorum needs the one that came back
		c.Stop(i + 2)
	}
	for range 20 {
		put()
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

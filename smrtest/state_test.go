package smrtest

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/internal/history"
	"github.com/atlas-smr/smr/internal/localcluster"
	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/replica"
	"github.com/atlas-smr/smr/state"
)

// Replicas whose state is in memory and replicas whose state is on disk are one cluster: through
// checkpoints, restarts from them, and restarts of a state on disk that ran ahead of its checkpoint.
func TestReplicasAgreeWhetherStateIsInMemoryOrOnDisk(t *testing.T) {
	disks := map[int]vfs.FS{3: vfs.NewMem(), 4: vfs.NewMem()}
	open := map[int]*state.Pebble{}
	service := func(i int) smr.Service {
		if disks[i] == nil {
			return kv.Service()
		}
		m, err := state.OpenPebble("state", state.PebbleOptions{FS: disks[i], CacheBytes: 1 << 20})
		if err != nil {
			t.Error(err)
			return nil
		}
		open[i] = m
		return kv.On(m).Service()
	}
	c := cluster(t, 4, ClusterOptions{Limits: replica.Limits{CheckpointBytes: 200 << 10}}, service, pbft.Factory())
	stop := func(i int) {
		c.Stop(i)
		if m := open[i]; m != nil {
			delete(open, i)
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(func() {
		for i := range 4 {
			stop(i + 1)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	db := client.New(c.Client(1), kv.RequestCodec{}, kv.ReplyCodec{})
	round := 0
	write := func() {
		t.Helper()
		round++
		var all sync.WaitGroup
		for i := range 300 {
			req := kv.Put(fmt.Sprintf("key%03d", i*7%300), bytes.Repeat([]byte{byte('a' + round)}, 3000))
			if i%11 == 0 {
				req = kv.Delete(fmt.Sprintf("key%03d", i))
			}
			all.Go(func() {
				if _, err := db.Do(ctx, req); err != nil {
					t.Errorf("%v: %v", req.Op, err)
				}
			})
		}
		all.Wait()
	}
	write()
	sameRoots(ctx, t, c)
	for _, i := range []int{3, 1} {
		stop(i)
		write()
		c.Start(i)
		write()
		sameRoots(ctx, t, c)
	}
	for _, name := range []string{"*.ckpt", "parts/*.pack"} {
		if found, err := filepath.Glob(filepath.Join(c.dir, "node-3", "data", "checkpoints", name)); err != nil || len(found) == 0 {
			t.Errorf("replica 3 has no checkpoint of its state in parts: no %s (%v)", name, err)
		}
	}
}

// sameRoots waits until all replicas stand at one sequence number and compares their roots.
func sameRoots(ctx context.Context, t *testing.T, c *Running) {
	t.Helper()
	for {
		roots := map[string]bool{}
		seqs := map[uint64]bool{}
		for i := range len(c.replicas) {
			_, end, err := history.Dump(ctx, localcluster.AdminClient(c.AdminAddr(i+1)))
			if err != nil {
				t.Fatal(err)
			}
			roots[end.Root], seqs[end.Seq] = true, true
		}
		if len(seqs) > 1 {
			continue // somebody is behind, or catches up
		}
		if len(roots) > 1 {
			t.Fatalf("roots differ at %v: %v", seqs, roots)
		}
		return
	}
}

package smrtest_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/atlas-smr/smr/client"
	"github.com/atlas-smr/smr/kv"
	"github.com/atlas-smr/smr/protocol/pbft"
	"github.com/atlas-smr/smr/smrtest"
)

// A cluster serves, goes on without its primary, takes it back, and survives the restart of all.
func TestAClusterLosesNothingAcrossTheLossOfItsPrimaryAndOfAll(t *testing.T) {
	c := smrtest.Cluster(t, 4, kv.Service, pbft.Factory())
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	db := client.New(c.Client(1), kv.RequestCodec{}, kv.ReplyCodec{})
	written := 0
	put := func(n int) {
		t.Helper()
		var all sync.WaitGroup
		for range n {
			written++
			key := fmt.Sprintf("key %d", written)
			all.Go(func() {
				if _, err := db.Do(ctx, kv.Put(key, key)); err != nil {
					t.Errorf("put: %v", err)
				}
			})
		}
		all.Wait()
	}
	check := func() {
		t.Helper()
		for i := 1; i <= written; i++ {
			key := fmt.Sprintf("key %d", i)
			got, err := db.Query(ctx, kv.Get(key))
			if err != nil || string(got.Value) != key {
				t.Fatalf("%s: %q %v", key, got.Value, err)
			}
		}
	}
	put(50)
	check()
	c.Stop(1) // the primary of view 0
	put(50)
	c.Start(1)
	put(50)
	check()
	for i := 1; i <= 4; i++ {
		c.Stop(i)
	}
	for i := 1; i <= 4; i++ {
		c.Start(i)
	}
	check()
	put(10)
	check()
}

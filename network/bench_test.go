package network_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/network"
	"github.com/atlas-smr/smr/network/networktest"
	"github.com/atlas-smr/smr/wire"
)

// BenchmarkAllToAll sends 200-byte frames from each of four replicas to every other; an op is one
// frame delivered.
func BenchmarkAllToAll(b *testing.B) {
	for name, fabric := range map[string]func() networktest.Fabric{"tcp": networktest.TCP, "memory": networktest.Memory} {
		b.Run(name, func(b *testing.B) {
			g := networktest.Start(b, fabric(), 4, network.Limits{})
			var got atomic.Int64
			for _, r := range g.Recs {
				r.Answer = func(networktest.Got) error { got.Add(1); return nil }
			}
			payload := make([]byte, 200)
			b.ReportAllocs()
			b.ResetTimer()
			var sent int64
			for sent < int64(b.N) {
				for i, node := range g.Nodes {
					for j := range g.Nodes {
						if i != j && node.Protocol().Send(auth.NodeIdentity(g.Peers[j].ID), wire.ClassProtocol, 1, payload) {
							sent++
						}
					}
				}
				for sent-got.Load() > 20000 {
					time.Sleep(50 * time.Microsecond)
				}
			}
			for got.Load() < sent {
				time.Sleep(50 * time.Microsecond)
			}
			b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "frames/s")
		})
	}
}

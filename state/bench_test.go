package state

import (
	"fmt"
	"testing"
	"time"
)

// BenchmarkFreeze measures a capture of a gigabyte in memory (or what -short leaves of it), and the
// digests after one key changed.
func BenchmarkFreeze(b *testing.B) {
	n := 1 << 20
	if testing.Short() {
		n = 1 << 14
	}
	m := NewMemory()
	value := make([]byte, 1000)
	for i := range n {
		must(b, m.Set(fmt.Sprintf("key%08d", i), value))
	}
	f := m.Freeze()
	start := time.Now()
	infos, err := f.Parts()
	must(b, err)
	all := time.Since(start)
	f.Release()
	var hash time.Duration
	b.ResetTimer()
	for i := range b.N {
		must(b, m.Set(fmt.Sprintf("key%08d", i%n), value))
		f := m.Freeze()
		b.StopTimer()
		start := time.Now()
		_, err := f.Parts()
		must(b, err)
		f.Release()
		hash += time.Since(start)
		b.StartTimer()
	}
	b.ReportMetric(float64(len(infos)), "parts")
	b.ReportMetric(float64(all.Milliseconds()), "ms-hash-all")
	b.ReportMetric(float64(hash.Microseconds())/float64(b.N), "us-hash-changed")
}

// BenchmarkSet measures a change among a million keys: the tree alone, and the map on it.
func BenchmarkSet(b *testing.B) {
	const n = 1 << 20
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("key%08d", i*7919%n)
	}
	value := make([]byte, 128)
	b.Run("tree", func(b *testing.B) {
		var t Tree[[]byte]
		for _, k := range keys {
			t.Set(k, value)
		}
		for i := 0; b.Loop(); i++ {
			t.Set(keys[i%n], value)
		}
	})
	b.Run("memory", func(b *testing.B) {
		m := NewMemory()
		for _, k := range keys {
			must(b, m.Set(k, value))
		}
		for i := 0; b.Loop(); i++ {
			must(b, m.Set(keys[i%n], value))
		}
	})
	b.Run("pebble", func(b *testing.B) {
		m, err := OpenPebble(b.TempDir(), PebbleOptions{})
		must(b, err)
		for _, k := range keys {
			must(b, m.Set(k, value))
		}
		for i := 0; b.Loop(); i++ {
			must(b, m.Set(keys[i%n], value))
		}
		must(b, m.Close())
	})
}

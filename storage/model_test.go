package storage

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol"
)

// TestMemoryFollowsTheModel drives Memory at random against two maps: what is durable and what is
// there now.
func TestMemoryFollowsTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := NewMemory(Strict)
		type model map[uint8]smr.SeqNo
		var pending []model
		durable, now := model{}, model{}
		token, count := uint64(0), smr.SeqNo(0)
		copyOf := func(a model) model {
			b := model{}
			for k, v := range a {
				b[k] = v
			}
			return b
		}
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				token++
				count++
				name := rapid.Uint8Range(1, 4).Draw(rt, "name")
				m.Append(token, []protocol.Record{vote(name, count)}, nil)
				now = copyOf(now)
				now[name] = count
				pending = append(pending, now)
			},
			"sync": func(rt *rapid.T) {
				if m.SyncNow() != token {
					rt.Fatalf("token %d, want %d", m.DurableToken(), token)
				}
				durable, pending = now, nil
			},
			"crash": func(rt *rapid.T) {
				keep := rapid.IntRange(0, len(pending)).Draw(rt, "keep")
				m.Crash(func(int) int { return keep })
				if keep > 0 {
					durable = pending[keep-1]
				}
				now, pending, token = durable, nil, 0
			},
			"": func(rt *rapid.T) {
				rec, err := m.Recover()
				if err != nil {
					rt.Fatal(err)
				}
				if len(rec.State) != len(now) || !slices.IsSortedFunc(rec.State, func(a, b protocol.Record) int { return int(a.Name) - int(b.Name) }) {
					rt.Fatalf("%v, want %v", rec.State, now)
				}
				for _, r := range rec.State {
					if now[r.Name] != r.Seq {
						rt.Fatalf("name %d is at %d, want %d", r.Name, r.Seq, now[r.Name])
					}
				}
			},
		})
	})
}

package state

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// checkNodes verifies the B-tree's shape.
func checkNodes(t *rapid.T, n *node[int], root bool) int {
	if len(n.items) > maxItems || !root && len(n.items) < minItems {
		t.Fatalf("node of %d items", len(n.items))
	}
	if len(n.children) == 0 {
		return 0
	}
	if len(n.children) != len(n.items)+1 {
		t.Fatalf("%d items and %d children", len(n.items), len(n.children))
	}
	depth := checkNodes(t, n.children[0], false)
	for _, c := range n.children[1:] {
		if d := checkNodes(t, c, false); d != depth {
			t.Fatalf("leaves at depths %d and %d", d, depth)
		}
	}
	return depth + 1
}

func same(t *rapid.T, tree *Tree[int], model map[string]int) {
	keys := slices.Sorted(maps.Keys(model))
	if tree.Len() != len(keys) {
		t.Fatalf("Len %d, want %d", tree.Len(), len(keys))
	}
	i := 0
	tree.Ascend("", func(k string, v int) bool {
		if k != keys[i] || v != model[k] {
			t.Fatalf("item %d is %q=%d, want %q=%d", i, k, v, keys[i], model[keys[i]])
		}
		i++
		return true
	})
	if i != len(keys) {
		t.Fatalf("visited %d of %d", i, len(keys))
	}
	for _, k := range []string{"", "k", "k1", "k12", "k12x", "k4", "k499", "k9999", "l"} {
		j, found := slices.BinarySearch(keys, k)
		neighbour(t, tree.Below, k, keys[:j])
		if found {
			j++
		}
		neighbour(t, tree.Floor, k, keys[:j])
	}
	if tree.root != nil {
		checkNodes(t, tree.root, true)
	}
}

// neighbour checks that find(k) is the last of below.
func neighbour(t *rapid.T, find func(string) (string, int, bool), k string, below []string) {
	at, _, ok := find(k)
	if ok != (len(below) > 0) || ok && at != below[len(below)-1] {
		t.Fatalf("the key before %q is %q, %v; want the last of %d", k, at, ok, len(below))
	}
}

func TestTreeEqualsAMapAndItsClonesDoNotChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type pair struct {
			tree  *Tree[int]
			model map[string]int
		}
		live := []pair{{&Tree[int]{}, map[string]int{}}}
		space := rapid.IntRange(1, 5000).Draw(t, "space")
		for range rapid.IntRange(1, 12).Draw(t, "rounds") {
			p := &live[rapid.IntRange(0, len(live)-1).Draw(t, "tree")]
			start, n := rapid.IntRange(0, space).Draw(t, "start"), rapid.IntRange(1, 600).Draw(t, "n")
			step := rapid.IntRange(1, 7).Draw(t, "step")
			del := rapid.Bool().Draw(t, "delete")
			for i := range n {
				k := fmt.Sprintf("k%d", (start+i*step)%space)
				if del {
					want, had := p.model[k]
					if old, ok := p.tree.Delete(k); ok != had || old != want {
						t.Fatalf("Delete(%q) = %d, %v; want %d, %v", k, old, ok, want, had)
					}
					delete(p.model, k)
				} else {
					want, had := p.model[k]
					if old, ok := p.tree.Set(k, i); ok != had || old != want {
						t.Fatalf("Set(%q) = %d, %v; want %d, %v", k, old, ok, want, had)
					}
					p.model[k] = i
				}
			}
			if rapid.Bool().Draw(t, "clone") {
				live = append(live, pair{p.tree.Clone(), maps.Clone(p.model)})
			}
			for _, p := range live {
				same(t, p.tree, p.model)
			}
			from := fmt.Sprintf("k%d", start)
			p.tree.Ascend(from, func(k string, _ int) bool {
				if k < from {
					t.Fatalf("Ascend(%q) visits %q", from, k)
				}
				return true
			})
		}
	})
}

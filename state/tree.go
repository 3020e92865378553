package state

import "sort"

// treeDegree bounds nodes: all but the root hold between treeDegree-1 and 2*treeDegree-1 items.
const treeDegree = 32

const (
	maxItems = 2*treeDegree - 1
	minItems = treeDegree - 1
)

// Tree is an ordered map from strings to values: a B-tree whose nodes are copied on write. A Tree
// belongs to one goroutine at a time, but a tree and its clones may be used by different ones. The
// zero value is empty and ready.
type Tree[V any] struct {
	root  *node[V]
	count int
	owner *owner // nodes with this owner are this tree's alone
}

// owner marks the nodes that a tree may change in place.
type owner struct{ _ byte }

type item[V any] struct {
	key   string
	value V
}

// node is an inner node if it has children, one more than items; a leaf otherwise.
type node[V any] struct {
	owner    *owner
	items    []item[V]
	children []*node[V]
}

// Len returns the number of keys.
func (t *Tree[V]) Len() int { return t.count }

// Clone returns a copy in constant time. Neither sees later changes of the other. Values are shared:
// they must not be changed in place.
func (t *Tree[V]) Clone() *Tree[V] {
	t.owner = nil // what was ours is shared from now on
	c := *t
	return &c
}

// mine returns n, or a copy of it that t may change.
func (t *Tree[V]) mine(n *node[V]) *node[V] {
	if t.owner == nil {
		t.owner = new(owner)
	}
	if n.owner == t.owner {
		return n
	}
	c := &node[V]{owner: t.owner, items: make([]item[V], len(n.items), maxItems)}
	copy(c.items, n.items)
	if len(n.children) > 0 {
		c.children = make([]*node[V], len(n.children), maxItems+1)
		copy(c.children, n.children)
	}
	return c
}

func (t *Tree[V]) child(n *node[V], i int) *node[V] {
	c := t.mine(n.children[i])
	n.children[i] = c
	return c
}

// find returns the position of key, or of the first item above it.
func (n *node[V]) find(key string) (int, bool) {
	i := sort.Search(len(n.items), func(i int) bool { return n.items[i].key >= key })
	return i, i < len(n.items) && n.items[i].key == key
}

// Get returns the value of key.
func (t *Tree[V]) Get(key string) (v V, ok bool) {
	for n := t.root; n != nil; {
		i, found := n.find(key)
		if found {
			return n.items[i].value, true
		}
		if len(n.children) == 0 {
			break
		}
		n = n.children[i]
	}
	return v, false
}

// Set sets the value of key and returns the value it had, if any.
func (t *Tree[V]) Set(key string, v V) (old V, had bool) {
	if t.root == nil {
		if t.owner == nil {
			t.owner = new(owner)
		}
		t.root = &node[V]{owner: t.owner, items: make([]item[V], 0, maxItems)}
	}
	t.root = t.mine(t.root)
	if len(t.root.items) >= maxItems {
		old := t.root
		t.root = &node[V]{owner: t.owner, items: make([]item[V], 0, maxItems), children: make([]*node[V], 1, maxItems+1)}
		t.root.children[0] = old
		t.split(t.root, 0)
	}
	n := t.root
	for {
		i, found := n.find(key)
		if found {
			return n.replace(i, v), true
		}
		if len(n.children) == 0 {
			n.items = insert(n.items, i, item[V]{key, v})
			t.count++
			return old, false
		}
		if len(n.children[i].items) >= maxItems {
			t.split(n, i)
			if key == n.items[i].key {
				return n.replace(i, v), true
			}
			if key > n.items[i].key {
				i++
			}
		}
		n = t.child(n, i)
	}
}

// replace puts v in the place of the value of item i, which it returns.
func (n *node[V]) replace(i int, v V) V {
	old := n.items[i].value
	n.items[i].value = v
	return old
}

// split halves the full child i of n, whose middle item moves up. n is t's own.
func (t *Tree[V]) split(n *node[V], i int) {
	left := t.child(n, i)
	mid := left.items[minItems]
	right := &node[V]{owner: t.owner, items: make([]item[V], 0, maxItems)}
	right.items = append(right.items, left.items[minItems+1:]...)
	clear(left.items[minItems:])
	left.items = left.items[:minItems]
	if len(left.children) > 0 {
		right.children = make([]*node[V], 0, maxItems+1)
		right.children = append(right.children, left.children[minItems+1:]...)
		clear(left.children[minItems+1:])
		left.children = left.children[:minItems+1]
	}
	n.items = insert(n.items, i, mid)
	n.children = insert(n.children, i+1, right)
}

// Delete removes key and returns the value it had, if any.
func (t *Tree[V]) Delete(key string) (old V, had bool) {
	if old, had = t.Get(key); !had {
		return old, false
	}
	t.root = t.mine(t.root)
	t.remove(t.root, key)
	t.count--
	if len(t.root.items) == 0 {
		if len(t.root.children) == 0 {
			t.root = nil
		} else {
			t.root = t.root.children[0]
		}
	}
	return old, true
}

// remove takes key, which is there, out of the subtree of n. n is t's own and, the root apart, has
// an item to spare.
func (t *Tree[V]) remove(n *node[V], key string) {
	i, found := n.find(key)
	if len(n.children) == 0 {
		n.items = cut(n.items, i)
		return
	}
	if len(n.children[i].items) <= minItems {
		t.fill(n, i)
		t.remove(n, key)
		return
	}
	c := t.child(n, i)
	if found {
		n.items[i] = t.removeMax(c)
		return
	}
	t.remove(c, key)
}

// removeMax takes the highest item out of the subtree of n, which has an item to spare.
func (t *Tree[V]) removeMax(n *node[V]) item[V] {
	for len(n.children) > 0 {
		if last := len(n.children) - 1; len(n.children[last].items) <= minItems {
			t.fill(n, last)
			continue
		}
		n = t.child(n, len(n.children)-1)
	}
	last := len(n.items) - 1
	it := n.items[last]
	n.items = cut(n.items, last)
	return it
}

// fill gives child i of n an item more: from a neighbour that has one to spare, else by merging.
func (t *Tree[V]) fill(n *node[V], i int) {
	switch {
	case i > 0 && len(n.children[i-1].items) > minItems:
		c, left := t.child(n, i), t.child(n, i-1)
		last := len(left.items) - 1
		c.items = insert(c.items, 0, n.items[i-1])
		n.items[i-1] = left.items[last]
		left.items = cut(left.items, last)
		if k := len(left.children) - 1; k >= 0 {
			c.children = insert(c.children, 0, left.children[k])
			left.children = cut(left.children, k)
		}
	case i < len(n.items) && len(n.children[i+1].items) > minItems:
		c, right := t.child(n, i), t.child(n, i+1)
		c.items = append(c.items, n.items[i])
		n.items[i] = right.items[0]
		right.items = cut(right.items, 0)
		if len(right.children) > 0 {
			c.children = append(c.children, right.children[0])
			right.children = cut(right.children, 0)
		}
	default:
		if i == len(n.items) {
			i--
		}
		c, right := t.child(n, i), n.children[i+1]
		c.items = append(append(c.items, n.items[i]), right.items...)
		c.children = append(c.children, right.children...)
		n.items = cut(n.items, i)
		n.children = cut(n.children, i+1)
	}
}

// Floor returns the highest key at or below key, and its value.
func (t *Tree[V]) Floor(key string) (at string, v V, ok bool) {
	for n := t.root; n != nil; {
		i, found := n.find(key)
		if found {
			return n.items[i].key, n.items[i].value, true
		}
		if i > 0 {
			at, v, ok = n.items[i-1].key, n.items[i-1].value, true
		}
		if len(n.children) == 0 {
			break
		}
		n = n.children[i]
	}
	return at, v, ok
}

// Below returns the highest key below key, and its value.
func (t *Tree[V]) Below(key string) (at string, v V, ok bool) {
	for n := t.root; n != nil; {
		i, _ := n.find(key)
		if i > 0 {
			at, v, ok = n.items[i-1].key, n.items[i-1].value, true
		}
		if len(n.children) == 0 {
			break
		}
		n = n.children[i]
	}
	return at, v, ok
}

// Ascend calls fn for every key at or above from, in order, until fn returns false. fn must not
// change t.
func (t *Tree[V]) Ascend(from string, fn func(key string, v V) bool) {
	if t.root != nil {
		t.root.ascend(from, fn)
	}
}

func (n *node[V]) ascend(from string, fn func(string, V) bool) bool {
	i := 0
	if from != "" {
		i, _ = n.find(from)
	}
	for ; i <= len(n.items); i++ {
		if len(n.children) > 0 {
			if !n.children[i].ascend(from, fn) {
				return false
			}
			from = "" // what follows is all above it
		}
		if i < len(n.items) && !fn(n.items[i].key, n.items[i].value) {
			return false
		}
	}
	return true
}

func insert[E any](s []E, i int, e E) []E {
	s = append(s, e)
	copy(s[i+1:], s[i:])
	s[i] = e
	return s
}

// cut removes s[i], leaving no reference behind.
func cut[E any](s []E, i int) []E {
	copy(s[i:], s[i+1:])
	clear(s[len(s)-1:])
	return s[:len(s)-1]
}

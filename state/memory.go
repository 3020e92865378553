package state

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/atlas-smr/smr"
)

// Memory is a [Map] in memory. Its methods return no error but [ErrLimit]. A capture takes constant
// time, whatever the map holds; the nodes that change afterwards are copied.
type Memory struct {
	smr.DivisibleState
	tree  *Tree[[]byte]
	parts partition
	meta  []byte
}

// NewMemory returns an empty map.
func NewMemory() *Memory {
	m := new(Memory)
	m.parts.bounds = defaultBounds
	_ = m.Reset()
	return m
}

// Reset implements smr.Divisible.
func (m *Memory) Reset() error {
	m.tree, m.meta = &Tree[[]byte]{}, nil
	m.parts.reset()
	return nil
}

// Get implements Map.
func (m *Memory) Get(key string) ([]byte, bool, error) {
	v, ok := m.tree.Get(key)
	return v, ok, nil
}

// Set implements Map.
func (m *Memory) Set(key string, value []byte) error {
	if err := checkPair(key, value); err != nil {
		return err
	}
	p := m.parts.announce(key)
	old, had := m.tree.Set(key, value)
	if had {
		return m.parts.change((*treeSource)(m.tree), p, 0, fieldSize(len(value))-fieldSize(len(old)))
	}
	return m.parts.change((*treeSource)(m.tree), p, 1, pairSize(key, value))
}

// Delete implements Map.
func (m *Memory) Delete(key string) (bool, error) {
	old, had := m.tree.Delete(key)
	if !had {
		return false, nil
	}
	return true, m.parts.change((*treeSource)(m.tree), m.parts.announce(key), -1, -pairSize(key, old))
}

// Scan implements Map.
func (m *Memory) Scan(from, to string, fn func(key string, value []byte) bool) error {
	return (*treeSource)(m.tree).scan(from, to, fn)
}

// Len implements Map.
func (m *Memory) Len() int { return m.tree.Len() }

// Meta implements Map.
func (m *Memory) Meta() []byte { return m.meta }

// SetMeta implements Map.
func (m *Memory) SetMeta(meta []byte) error {
	if len(meta) > MaxMetaBytes {
		return fmt.Errorf("%w: meta of %d bytes, at most %d", ErrLimit, len(meta), MaxMetaBytes)
	}
	m.meta = meta
	return nil
}

// Freeze implements smr.Divisible, in constant time.
func (m *Memory) Freeze() smr.FrozenParts {
	return &frozen{tree: m.parts.capture(), header: appendHeader(nil, m.parts.next, m.meta), src: (*treeSource)(m.tree.Clone())}
}

// treeSource is a tree as a source.
type treeSource Tree[[]byte]

func (s *treeSource) scan(from, to string, fn func(key string, value []byte) bool) error {
	(*Tree[[]byte])(s).Ascend(from, func(key string, value []byte) bool {
		return (to == "" || key < to) && fn(key, value)
	})
	return nil
}

// memoryWriter gathers the state to be in a clone of the tree.
type memoryWriter struct {
	*restoring
	m    *Memory
	tree *Tree[[]byte]
}

// Begin implements smr.Divisible.
func (m *Memory) Begin() smr.PartWriter {
	w := &memoryWriter{m: m, tree: m.tree.Clone()}
	w.restoring = newRestoring(&m.parts, m.meta)
	return w
}

// Put implements smr.PartWriter.
func (w *memoryWriter) Put(info smr.PartInfo, data []byte) error {
	if info.ID == headerPart {
		return w.putHeader(data)
	}
	// A part must be whole before it replaces anything.
	p, err := decodePart(info.ID, data, func(_, _ []byte) error { return nil })
	if err != nil {
		return err
	}
	var gone []string
	w.tree.Ascend(p.low, func(key string, _ []byte) bool {
		if !p.covers(key) {
			return false
		}
		gone = append(gone, key)
		return true
	})
	for _, key := range gone {
		w.tree.Delete(key)
	}
	if _, err = decodePart(info.ID, data, func(key, value []byte) error {
		w.tree.Set(string(key), bytes.Clone(value))
		return nil
	}); err != nil {
		return err
	}
	return w.put(p, info.Digest)
}

// Commit implements smr.PartWriter.
func (w *memoryWriter) Commit() error {
	parts, err := w.finish()
	if err != nil {
		return err
	}
	m := w.m
	m.tree, m.meta = w.tree, w.meta
	m.parts.install(parts, w.next)
	return nil
}

// Abort implements smr.PartWriter.
func (w *memoryWriter) Abort() { w.tree = nil }

// ReadParts returns a map with the content of another whose parts lie in b, one after the other in the
// order of their ids: a dump. It has the same pairs and the same meta; its parts have other ids, so it
// cannot stand for the other one in a replica. Errors wrap ErrPart.
func ReadParts(b []byte) (*Memory, error) {
	_, meta, b, err := takeHeader(b)
	if err != nil {
		return nil, err
	}
	m := NewMemory()
	r := &restoring{next: firstPart, meta: meta, parts: make(map[smr.PartID]*part)}
	for len(b) > 0 {
		var p *part
		p, b, err = takePart(r.next, b, func(key, value []byte) error {
			m.tree.Set(string(key), bytes.Clone(value))
			return nil
		})
		if err != nil {
			return nil, err
		}
		r.parts[p.id] = p
		r.next++
	}
	list, err := r.finish()
	if err != nil {
		return nil, err
	}
	m.meta = meta
	m.parts.install(list, r.next)
	return m, nil
}

// restoring is what a PartWriter knows of the parts to be.
type restoring struct {
	next  smr.PartID
	meta  []byte
	parts map[smr.PartID]*part
}

func newRestoring(t *partition, meta []byte) *restoring {
	r := &restoring{next: t.next, meta: meta, parts: make(map[smr.PartID]*part, t.parts.Len())}
	t.parts.Ascend("", func(_ string, p *part) bool {
		r.parts[p.id] = p
		return true
	})
	return r
}

func (r *restoring) putHeader(data []byte) (err error) {
	r.next, r.meta, err = decodeHeader(data)
	return err
}

func (r *restoring) put(p *part, digest smr.Digest) error {
	p.sum = known(digest)
	r.parts[p.id] = p
	return nil
}

// Delete implements smr.PartWriter.
func (r *restoring) Delete(id smr.PartID) error {
	if id == headerPart {
		return fmt.Errorf("%w: the header cannot be deleted", ErrPart)
	}
	if _, ok := r.parts[id]; !ok {
		return fmt.Errorf("%w: there is no part %d to delete", ErrPart, id)
	}
	delete(r.parts, id)
	return nil
}

// finish returns the parts in the order of their keys, if they cover all keys and no key twice.
func (r *restoring) finish() ([]*part, error) {
	list := make([]*part, 0, len(r.parts))
	for _, p := range r.parts { // order-free: sorted below
		list = append(list, p)
	}
	slices.SortFunc(list, func(p, q *part) int {
		if p.low != q.low {
			if p.low < q.low {
				return -1
			}
			return 1
		}
		return byID(p, q)
	})
	low := ""
	for i, p := range list {
		if p.low != low || i > 0 && low == "" || p.id >= r.next {
			return nil, fmt.Errorf("%w: part %d (of at most %d) begins at %q where one must begin at %q", ErrPart, p.id, r.next, p.low, low)
		}
		low = p.high
	}
	if len(list) == 0 || low != "" {
		return nil, fmt.Errorf("%w: no part covers the keys from %q on", ErrPart, low)
	}
	return list, nil
}

// install makes list, in the order of keys, the parts of t.
func (t *partition) install(list []*part, next smr.PartID) {
	t.gen++
	t.next, t.hot, t.parts = next, nil, Tree[*part]{}
	for _, p := range list {
		t.parts.Set(p.low, p)
	}
}

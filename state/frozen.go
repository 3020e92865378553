package state

import (
	"crypto/sha256"
	"fmt"
	"slices"

	"github.com/atlas-smr/smr"
)

// frozen is a captured map. It implements smr.FrozenParts.
type frozen struct {
	tree    *Tree[*part]
	header  []byte
	src     source
	list    []*part // ascending by id; made when first asked for
	buf     []byte
	hashed  func(p *part, digest smr.Digest) error // told of every digest that had to be computed
	release func() error
}

func (f *frozen) parts() []*part {
	if f.list == nil {
		f.list = make([]*part, 0, f.tree.Len())
		f.tree.Ascend("", func(_ string, p *part) bool {
			f.list = append(f.list, p)
			return true
		})
		slices.SortFunc(f.list, byID)
	}
	return f.list
}

func byID(p, q *part) int { return compare(p.id, q.id) }

func compare(a, b smr.PartID) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Parts implements smr.FrozenParts.
func (f *frozen) Parts() ([]smr.PartInfo, error) {
	parts := f.parts()
	out := make([]smr.PartInfo, 0, 1+len(parts))
	out = append(out, smr.PartInfo{ID: headerPart, Bytes: uint64(len(f.header)), Digest: sha256.Sum256(f.header)})
	for _, p := range parts {
		digest, ok := p.sum.get()
		if !ok {
			var err error
			if f.buf, err = appendPart(f.buf[:0], p, f.src); err != nil {
				return nil, err
			}
			digest = sha256.Sum256(f.buf)
			p.sum.set(digest)
			if f.hashed != nil {
				if err := f.hashed(p, digest); err != nil {
					return nil, err
				}
			}
		}
		out = append(out, smr.PartInfo{ID: p.id, Bytes: uint64(p.size()), Digest: digest})
	}
	return out, nil
}

// ReadPart implements smr.FrozenParts.
func (f *frozen) ReadPart(dst []byte, id smr.PartID) ([]byte, error) {
	if id == headerPart {
		return append(dst, f.header...), nil
	}
	parts := f.parts()
	i, ok := slices.BinarySearchFunc(parts, id, func(p *part, id smr.PartID) int { return compare(p.id, id) })
	if !ok {
		return dst, fmt.Errorf("%w: there is no part %d", ErrPart, id)
	}
	return appendPart(dst, parts[i], f.src)
}

// Release implements smr.FrozenParts.
func (f *frozen) Release() {
	if f.release != nil {
		_ = f.release()
	}
	*f = frozen{}
}

package execution

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/protocol/transfer"
	"github.com/atlas-smr/smr/state"
)

// ledger is an application on a divisible map: "k=v" sets, "k" deletes.
type ledger struct{ m state.Map }

func (l *ledger) State() smr.State { return l.m }

func (l *ledger) Execute(ctx *smr.Context, op []byte) []byte {
	k, v, set := bytes.Cut(op, []byte("="))
	var err error
	if set {
		err = l.m.Set(string(k), bytes.Repeat(v, 1000))
	} else {
		_, err = l.m.Delete(string(k))
	}
	if err != nil {
		ctx.Fence(err)
	}
	return fmt.Append(nil, l.m.Len())
}

func (l *ledger) Query(*smr.QueryContext, []byte) []byte { return nil }

func ledgerCore(t testing.TB, m state.Map) *Core {
	t.Helper()
	return newCore(t, smr.NewService[[]byte, []byte](&ledger{m}, smr.BytesCodec{}, smr.BytesCodec{}))
}

// shelf keeps checkpoints by parts, as storage does, and is the newest of them to read.
type shelf struct {
	held  map[smr.Digest][]byte
	list  []transfer.Part
	given int // parts that came with their bytes
	read  int // parts read
	rest  []byte
	next  int
}

func (s *shelf) Keep(p transfer.Part) bool {
	if s.held[p.Digest] == nil {
		return false
	}
	s.list = append(s.list, p)
	return true
}

func (s *shelf) Part(p transfer.Part, data []byte) error {
	s.given++
	s.list = append(s.list, p)
	s.held[p.Digest] = bytes.Clone(data)
	return nil
}

func (s *shelf) PartList() []transfer.Part { return s.list }

func (s *shelf) ReadPart(dst []byte, i int) ([]byte, error) {
	s.read++
	return append(dst, s.held[s.list[i].Digest]...), nil
}

func (s *shelf) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		if s.next == len(s.list) {
			return 0, io.EOF
		}
		s.rest = s.held[s.list[s.next].Digest]
		s.next++
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// write takes a checkpoint of c to the shelf.
func (s *shelf) write(t testing.TB, c *Core) Written {
	t.Helper()
	if s.held == nil {
		s.held = map[smr.Digest][]byte{}
	}
	s.list, s.given, s.read, s.next, s.rest = nil, 0, 0, 0, nil
	snap, err := c.Freeze()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Release()
	w, err := snap.Write(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := transfer.CheckShape(w.Meta, w.Parts); err != nil || w.Root != transfer.Root(w.Meta, w.Parts) {
		t.Fatalf("shape %v, root %v", err, w.Root)
	}
	return w
}

func root(t testing.TB, c *Core) smr.Digest {
	t.Helper()
	r, err := c.RootOf()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Replicas with one state in memory and on disk, restarted and restored at different times, have one
// root all along.
func TestRootsOfDivisibleStateDoNotDependOnTheReplicasHistory(t *testing.T) {
	disk, err := state.OpenPebble("a", state.PebbleOptions{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = disk.Close() }()
	cores := []*Core{ledgerCore(t, state.NewMemory()), ledgerCore(t, disk)}
	for _, c := range cores {
		apply(t, c, open(1, 1))
	}
	session := smr.NewSessionID(1, 0)
	op := smr.OpNumber(1)
	step := func(i int) {
		text := fmt.Sprintf("key%03d=%c", i*37%400, 'a'+i%26)
		if i%7 == 6 {
			text = fmt.Sprintf("key%03d", i*11%400)
		}
		b := ops(1, session, op, op, text)
		op++
		for _, c := range cores {
			apply(t, c, b)
		}
	}
	var s shelf
	for i := range 900 {
		step(i)
		if i%90 != 89 {
			continue
		}
		want := s.write(t, cores[0])
		for k, c := range cores[1:] {
			if got := root(t, c); got != want.Root {
				t.Fatalf("after %d ops core %d has root %v, not %v", i, 1+k, got, want.Root)
			}
		}
		if i == 449 {
			late := ledgerCore(t, state.NewMemory())
			if err := late.Restore(want.Meta, &s); err != nil {
				t.Fatal(err)
			}
			cores = append(cores, late)
		}
	}
	if len(s.list) < 4 {
		t.Fatalf("%d parts: the state never divided", len(s.list))
	}
}

// A checkpoint hands over the parts that changed since the last one; a restore reads those that
// differ, and takes away what is too much.
func TestOnlyChangedPartsAreStoredAndRestored(t *testing.T) {
	c := ledgerCore(t, state.NewMemory())
	apply(t, c, open(1, 1))
	session := smr.NewSessionID(1, 0)
	for i := range 900 {
		apply(t, c, ops(1, session, smr.OpNumber(i+1), smr.OpNumber(i+1), fmt.Sprintf("key%03d=v", i)))
	}
	var s shelf
	s.write(t, c)
	all := len(s.list)
	apply(t, c, ops(1, session, 901, 901, "key450=changed"))
	w := s.write(t, c)
	if table := int(w.Meta.TableParts); s.given > 1+table {
		t.Errorf("%d of %d parts were stored for one that changed (and %d of the session table)", s.given, all, table)
	}
	// A replica that went on, and is taken back.
	for i := range 100 {
		apply(t, c, ops(1, session, smr.OpNumber(902+i), smr.OpNumber(902+i), fmt.Sprintf("key45%d=%c", i%10, 'a'+i%26)))
	}
	if err := c.Restore(w.Meta, &s); err != nil {
		t.Fatal(err)
	}
	if got := root(t, c); got != w.Root || c.Executed() != w.Meta.Seq {
		t.Errorf("root %v at %d, want %v at %d", got, c.Executed(), w.Root, w.Meta.Seq)
	}
	if s.read > 3 {
		t.Errorf("%d of %d parts were read", s.read, all)
	}
}

func TestGenesisEmptiesWhatAnEarlierRunLeft(t *testing.T) {
	m := state.NewMemory()
	if err := m.Set("left", []byte("over")); err != nil {
		t.Fatal(err)
	}
	c := ledgerCore(t, m)
	if err := c.Genesis(); err != nil {
		t.Fatal(err)
	}
	if got, want := root(t, c), root(t, ledgerCore(t, state.NewMemory())); got != want || m.Len() != 0 {
		t.Errorf("root %v, want that of a new instance, %v", got, want)
	}
}

// broken is divisible state whose parts are not what they should be.
type broken struct {
	smr.DivisibleState
	infos []smr.PartInfo
	data  []byte
	err   error
}

func (b *broken) Freeze() smr.FrozenParts        { return b }
func (b *broken) Reset() error                   { return b.err }
func (b *broken) Begin() smr.PartWriter          { return b }
func (b *broken) Parts() ([]smr.PartInfo, error) { return b.infos, b.err }
func (b *broken) ReadPart(dst []byte, _ smr.PartID) ([]byte, error) {
	return append(dst, b.data...), b.err
}
func (b *broken) Release()                               {}
func (b *broken) Put(smr.PartInfo, []byte) error         { return b.err }
func (b *broken) Delete(smr.PartID) error                { return b.err }
func (b *broken) Commit() error                          { return b.err }
func (b *broken) Abort()                                 {}
func (b *broken) State() smr.State                       { return b }
func (b *broken) Execute(*smr.Context, []byte) []byte    { return nil }
func (b *broken) Query(*smr.QueryContext, []byte) []byte { return nil }

// A checkpoint of parts that are out of order, too long or other than their digests is not written.
func TestPartsThatAreWrongAreNotStored(t *testing.T) {
	part := func(id smr.PartID, n uint64) smr.PartInfo { return smr.PartInfo{ID: id, Bytes: n} }
	disk := errors.New("disk")
	for name, b := range map[string]*broken{
		"order":    {infos: []smr.PartInfo{part(2, 1), part(2, 1)}},
		"empty":    {infos: []smr.PartInfo{part(1, 0)}},
		"too long": {infos: []smr.PartInfo{part(1, smr.MaxPartBytes+1)}},
		"digest":   {infos: []smr.PartInfo{part(1, 1)}, data: []byte("x")},
		"error":    {err: disk},
	} {
		c := newCore(t, smr.NewService[[]byte, []byte](b, smr.BytesCodec{}, smr.BytesCodec{}))
		snap, err := c.Freeze()
		if err != nil {
			t.Fatal(err)
		}
		if _, err = snap.Write(ToWriter(io.Discard)); err == nil || b.err != nil && !errors.Is(err, disk) {
			t.Errorf("%s: %v", name, err)
		}
		snap.Release()
	}
}

// State that could not be restored must not be executed on.
func TestAFailedRestoreOfPartsFences(t *testing.T) {
	var s shelf
	w := s.write(t, ledgerCore(t, state.NewMemory()))
	c := newCore(t, smr.NewService[[]byte, []byte](&broken{err: errors.New("disk")}, smr.BytesCodec{}, smr.BytesCodec{}))
	if err := c.Restore(w.Meta, &s); !errors.Is(err, ErrFenced) || c.Fenced() == nil {
		t.Errorf("%v", err)
	}
	other, _ := journalService()
	mono := newCore(t, other)
	if err := mono.Restore(w.Meta, &s); err == nil || mono.Fenced() != nil {
		t.Errorf("a checkpoint of another kind of state: %v", err)
	}
}

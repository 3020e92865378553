package transfer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/atlas-smr/smr"
)

func TestMetaLayout(t *testing.T) {
	m := Meta{
		Seq: 1, Epoch: 2, View: 3, Time: -4, Kind: StateDivisible, TableParts: 1, Parts: 3, Table: 5, Bytes: 16,
		Chain: smr.Digest{7}, Membership: smr.Digest{8},
	}
	b := m.Append(nil)
	if len(b) != MetaBytes || binary.BigEndian.Uint64(b[40:]) != 2 {
		t.Fatal("layout")
	}
	if got, err := DecodeMeta(b); err != nil || got != m {
		t.Fatalf("%+v %v", got, err)
	}
	if _, err := DecodeMeta(b[1:]); !errors.Is(err, ErrShape) {
		t.Fatal("short meta taken")
	}
}

func TestMetaOfNoCheckpointIsRefused(t *testing.T) {
	good := Meta{Seq: 1, Kind: StateMonolithic, TableParts: 1, Parts: 3, Table: 9, Bytes: 9 + StreamPartBytes + 1}
	if _, err := DecodeMeta(good.Append(nil)); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Meta){
		"more table parts than parts": func(m *Meta) { m.TableParts = 4 },
		"10^9 parts":                  func(m *Meta) { m.Parts = 1e9 },
		"all the parts there are":     func(m *Meta) { m.Parts, m.TableParts = math.MaxUint64, math.MaxUint64 },
		"more bytes than parts hold":  func(m *Meta) { m.Bytes = math.MaxUint64 },
		"fewer bytes than parts":      func(m *Meta) { m.Bytes = 9 },
		"table longer than all":       func(m *Meta) { m.Table = math.MaxUint64 },
		"table cut otherwise":         func(m *Meta) { m.Table = StreamPartBytes + 1; m.Bytes += StreamPartBytes },
		"stream cut otherwise":        func(m *Meta) { m.Parts++ },
		"a kind that is none":         func(m *Meta) { m.Kind = 3 },
		"parts of no state":           func(m *Meta) { m.Kind = StateNone },
	} {
		m := good
		change(&m)
		if _, err := DecodeMeta(m.Append(nil)); !errors.Is(err, ErrShape) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// divisible makes a checkpoint whose session table has one part and whose state has the given parts.
func divisible(seq smr.SeqNo, state map[smr.PartID]string, ids ...smr.PartID) (Meta, []Part, [][]byte) {
	table := []byte("table")
	parts := []Part{{Section: SectionTable, Bytes: uint32(len(table)), Digest: sha256.Sum256(table)}}
	data := [][]byte{table}
	m := Meta{Seq: seq, Kind: StateDivisible, TableParts: 1, Table: uint64(len(table)), Bytes: uint64(len(table))}
	for _, id := range ids {
		b := []byte(state[id])
		parts = append(parts, Part{Section: SectionApplication, ID: id, Bytes: uint32(len(b)), Digest: sha256.Sum256(b)})
		data = append(data, b)
		m.Bytes += uint64(len(b))
	}
	m.Parts = uint64(len(parts))
	return m, parts, data
}

func TestRootBindsOrderIdentityLengthAndNumberOfParts(t *testing.T) {
	state := map[smr.PartID]string{2: "two", 5: "five!", 9: "five!"}
	m, parts, _ := divisible(7, state, 2, 5, 9)
	if err := CheckShape(m, parts); err != nil {
		t.Fatal(err)
	}
	root := Root(m, parts)
	for name, change := range map[string]func([]Part) []Part{
		"swapped":        func(p []Part) []Part { p[2], p[3] = p[3], p[2]; return p },
		"swapped ids":    func(p []Part) []Part { p[2].Digest, p[1].Digest = p[1].Digest, p[2].Digest; return p },
		"other id":       func(p []Part) []Part { p[3].ID = 10; return p },
		"other length":   func(p []Part) []Part { p[3].Bytes--; return p },
		"other section":  func(p []Part) []Part { p[0].Section = SectionApplication; return p },
		"one lacking":    func(p []Part) []Part { return p[:3] },
		"one more":       func(p []Part) []Part { return append(p, p[3]) },
		"overlapping id": func(p []Part) []Part { p[3].ID = 5; return p },
	} {
		changed := change(append([]Part(nil), parts...))
		if Root(m, changed) == root {
			t.Errorf("%s: same root", name)
		}
	}
	if longer := m; true {
		longer.Bytes++
		if Root(longer, parts) == root {
			t.Error("the root does not bind the size")
		}
	}
}

func TestShapeRefusesWhatAMetaDoesNotAllow(t *testing.T) {
	state := map[smr.PartID]string{2: "two", 5: "five!", 9: "nine"}
	m, good, _ := divisible(7, state, 2, 5, 9)
	for name, change := range map[string]func([]Part) []Part{
		"order":    func(p []Part) []Part { p[2], p[3] = p[3], p[2]; return p },
		"twice":    func(p []Part) []Part { p[3].ID = 5; return p },
		"section":  func(p []Part) []Part { p[1].Section = SectionTable; return p },
		"empty":    func(p []Part) []Part { p[1].Bytes = 0; return p },
		"too long": func(p []Part) []Part { p[1].Bytes = MaxPartBytes + 1; return p },
		"short":    func(p []Part) []Part { return p[:3] },
		"extra":    func(p []Part) []Part { return append(p, Part{Section: SectionApplication, ID: 10, Bytes: 1}) },
		"sum":      func(p []Part) []Part { p[3].Bytes--; return p },
		"table id": func(p []Part) []Part { p[0].ID = 1; return p },
	} {
		if err := CheckShape(m, change(append([]Part(nil), good...))); !errors.Is(err, ErrShape) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A checkpoint's meta has one encoding.
func FuzzDecodeMeta(f *testing.F) {
	m, _, _ := divisible(7, map[smr.PartID]string{1: "x"}, 1)
	f.Add(m.Append(nil))
	f.Add(make([]byte, MetaBytes-1))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := DecodeMeta(b); err == nil && !bytes.Equal(m.Append(nil), b) {
			t.Fatal("two encodings of one meta")
		}
	})
}

package smrtest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/atlas-smr/smr"
)

// capture takes a capture of an application's state. The function it returns reads it out, as bytes
// that are equal for equal states, and releases it; it is called once.
func capture(t testing.TB, s smr.State) (read func() []byte, ok bool) {
	t.Helper()
	switch s := s.(type) {
	case smr.Monolithic:
		f := s.Freeze()
		return func() []byte { return write(t, f) }, true
	case smr.Divisible:
		f := s.Freeze()
		return func() []byte { return appendParts(readParts(t, f)) }, true
	}
	return nil, false
}

// part is a part of divisible state with its bytes.
type part struct {
	smr.PartInfo
	data []byte
}

// readParts reads a capture out and checks what it says of its parts.
func readParts(t testing.TB, f smr.FrozenParts) []part {
	t.Helper()
	defer f.Release()
	infos, err := f.Parts()
	if err != nil {
		t.Errorf("Parts: %v", err)
		return nil
	}
	var out []part
	for i, info := range infos {
		prefix := []byte("kept")
		b, err := f.ReadPart(prefix, info.ID)
		if err != nil || !bytes.HasPrefix(b, prefix) {
			t.Errorf("ReadPart of %d gives %d bytes, which must follow those given, and %v", info.ID, len(b), err)
			return nil
		}
		b = b[len(prefix):]
		if uint64(len(b)) != info.Bytes || len(b) == 0 || len(b) > smr.MaxPartBytes || sha256.Sum256(b) != info.Digest {
			t.Errorf("part %d is listed with %d bytes and digest %v; it has %d (1 to %d) and %v",
				info.ID, info.Bytes, info.Digest, len(b), smr.MaxPartBytes, smr.Digest(sha256.Sum256(b)))
		}
		if i > 0 && info.ID <= infos[i-1].ID {
			t.Errorf("part %d is listed after part %d: ids must ascend", info.ID, infos[i-1].ID)
		}
		out = append(out, part{info, b})
	}
	return out
}

func appendParts(parts []part) (b []byte) {
	for _, p := range parts {
		b = binary.BigEndian.AppendUint64(b, uint64(p.ID))
		b = binary.BigEndian.AppendUint64(b, uint64(len(p.data)))
		b = append(b, p.data...)
	}
	return b
}

func splitParts(b []byte) (parts []part) {
	for len(b) > 0 {
		n := 16 + int(binary.BigEndian.Uint64(b[8:]))
		data := b[16:n]
		parts = append(parts, part{smr.PartInfo{
			ID: smr.PartID(binary.BigEndian.Uint64(b)), Bytes: uint64(len(data)), Digest: sha256.Sum256(data),
		}, data})
		b = b[n:]
	}
	return parts
}

// restore makes s what capture read out, as a replica does: of divisible state only the parts that
// differ are put.
func restore(t testing.TB, s smr.State, b []byte) error {
	t.Helper()
	switch s := s.(type) {
	case smr.Monolithic:
		return s.Restore(iotest{bytes.NewReader(b)})
	case smr.Divisible:
		have := readParts(t, s.Freeze())
		w := s.Begin()
		if err := put(w, have, splitParts(b)); err != nil {
			w.Abort()
			return err
		}
		return w.Commit()
	}
	return nil
}

func put(w smr.PartWriter, have, want []part) error {
	for _, p := range want {
		at := slices.IndexFunc(have, func(h part) bool { return h.ID == p.ID })
		same := at >= 0 && have[at].Digest == p.Digest
		if at >= 0 {
			have = slices.Delete(have, at, at+1)
		}
		if same {
			continue
		}
		data := bytes.Clone(p.data)
		if err := w.Put(p.PartInfo, data); err != nil {
			return err
		}
		clear(data) // it is the caller's again
	}
	for _, p := range have {
		if err := w.Delete(p.ID); err != nil {
			return err
		}
	}
	return nil
}

// divisible checks what only divisible state must do: go back from a later state by the parts that
// differ, give up a replacement without a trace, and start afresh.
func divisible(t testing.TB, later smr.State, earlier []byte, fresh func() smr.Service) {
	t.Helper()
	d, ok := later.(smr.Divisible)
	if !ok {
		return
	}
	read := func() []byte { return appendParts(readParts(t, d.Freeze())) }
	before := read()
	d.Begin().Abort()
	if !bytes.Equal(read(), before) {
		t.Errorf("a replacement that was given up at once changed the state")
	}
	if err := restore(t, d, earlier); err != nil {
		t.Errorf("going back to an earlier state: %v", err)
	}
	if !bytes.Equal(read(), earlier) {
		t.Errorf("a state that went back to an earlier one has other parts")
	}
	if err := d.Reset(); err != nil {
		t.Errorf("Reset: %v", err)
	}
	genesis, _ := capture(t, fresh().State())
	if !bytes.Equal(read(), genesis()) {
		t.Errorf("after Reset the state is not that of a new instance")
	}
}

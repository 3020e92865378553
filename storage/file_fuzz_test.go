package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// image is the file of a checkpoint whose footer is right, whatever it describes.
func image(parts, descriptor []byte) []byte {
	tail := binary.BigEndian.AppendUint64(bytes.Clone(descriptor), uint64(len(descriptor)))
	tail = binary.LittleEndian.AppendUint32(tail, crc32.Checksum(tail, castagnoli))
	return append(append(append([]byte(checkpointMagic), parts...), tail...), checkpointMagic...)
}

// imageSink keeps an image.
type imageSink struct{ bytes.Buffer }

func (*imageSink) commit(*Descriptor) error { return nil }
func (*imageSink) abort()                   {}

// A checkpoint file that opens reads as many bytes as it says, or is corrupt. Every input is tried
// as the file, and behind a right footer.
func FuzzCheckpointFile(f *testing.F) {
	sink := &imageSink{}
	w, err := newCheckpointWriter(4, sink)
	if err != nil {
		f.Fatal(err)
	}
	meta, list, parts := stream(4, 10)
	_ = w.Part(list[0], parts)
	d, err := w.Commit(meta)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sink.Bytes(), []byte{})
	f.Add(parts, appendDescriptor(nil, d))
	f.Fuzz(func(t *testing.T, parts, descriptor []byte) {
		for _, b := range [][]byte{parts, image(parts, descriptor)} {
			r, err := openCheckpoint("x", bytes.NewReader(b), int64(len(b)), func() error { return nil })
			if err != nil {
				if !errors.Is(err, ErrCorrupt) {
					t.Fatalf("untyped error %v", err)
				}
				continue
			}
			n, err := io.Copy(io.Discard, r)
			if err != nil && !errors.Is(err, ErrCorrupt) {
				t.Fatalf("untyped error %v", err)
			}
			if err == nil && uint64(n) != r.Bytes {
				t.Fatalf("%d bytes read, %d described", n, r.Bytes)
			}
			if (r.verify() == nil) != (err == nil) {
				t.Fatal("verify and Read disagree")
			}
		}
	})
}

// The small text files of a data directory are read or refused; their checksums are put right.
func FuzzDirectoryFiles(f *testing.F) {
	f.Add(run{mode: Relaxed, clean: true}.text())
	f.Add(identityText(testID))
	f.Add([]byte("mode strict\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fsys := vfs.NewMem()
		if err := fsys.MkdirAll("d", 0o700); err != nil {
			t.Fatal(err)
		}
		for _, text := range [][]byte{b, sumText(string(b))} {
			for _, name := range []string{runFile, identityFile} {
				if err := writeFile(fsys, "d", name, text); err != nil {
					t.Fatal(err)
				}
			}
			if r, ran, err := readRun(fsys, "d"); err == nil && ran {
				if err := writeFile(fsys, "d", runFile, r.text()); err != nil {
					t.Fatal(err)
				}
				if again, _, err := readRun(fsys, "d"); err != nil || again != r {
					t.Fatalf("%+v reads back as %+v: %v", r, again, err)
				}
			}
			if err := checkIdentity(fsys, "d", testID); err != nil && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrCorrupt) &&
				!errors.Is(err, ErrOtherCluster) && !errors.Is(err, ErrOtherNode) {
				t.Fatalf("untyped error %v", err)
			}
		}
	})
}

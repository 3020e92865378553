package execution

import (
	"bytes"
	"testing"

	"github.com/atlas-smr/smr/protocol/transfer"
)

// A core takes a checkpoint whole or not at all, and what it takes it writes again.
func FuzzCoreRestore(f *testing.F) {
	svc, _ := journalService()
	c := newCore(f, svc)
	s := opened(f, apply(f, c, open(1, 5))[1])
	apply(f, c, ops(1, s, 1, 1, "a", "b"))
	frozen, err := c.Freeze()
	if err != nil {
		f.Fatal(err)
	}
	var stream bytes.Buffer
	w, err := frozen.Write(ToWriter(&stream))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(w.Meta.Append(nil), stream.Bytes())
	f.Add(make([]byte, transfer.MetaBytes), []byte{})
	f.Fuzz(func(t *testing.T, meta, b []byte) {
		m, err := transfer.DecodeMeta(meta)
		if err != nil {
			return
		}
		svc, _ := journalService()
		c := newCore(t, svc)
		before, _ := c.RootOf()
		if err := c.Restore(m, bytes.NewReader(b)); err != nil {
			if after, _ := c.RootOf(); after != before || c.Executed() != 0 {
				t.Fatal("a refused checkpoint changed the state")
			}
			return
		}
		frozen, err := c.Freeze()
		if err != nil {
			t.Fatal(err)
		}
		var again bytes.Buffer
		w, err := frozen.Write(ToWriter(&again))
		if err != nil {
			t.Fatal(err)
		}
		if c.Executed() != m.Seq || w.Meta.Table != m.Table || !bytes.Equal(again.Bytes()[:m.Table], b[:m.Table]) {
			t.Fatal("what was restored is written otherwise")
		}
	})
}

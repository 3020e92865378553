package network

import (
	"bytes"
	"errors"
	"testing"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/wire"
)

// A first frame is taken only with a lane there is, and refused only for a reason.
func FuzzHello(f *testing.F) {
	cluster, self := smr.ClusterID{1}, auth.NodeIdentity(2)
	for lane := range wire.Lane(wire.Lanes) {
		b, err := helloFrame(cluster, self, lane)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	other, _ := helloFrame(smr.ClusterID{2}, self, 0)
	f.Add(other)
	f.Add(wire.AppendFrame(nil, wire.ClassPing, wire.KindOnly, nil))
	f.Fuzz(func(t *testing.T, in []byte) {
		lane, err := readHello(wire.NewFrameReader(bytes.NewReader(in), 512), cluster, self)
		var reason Reason
		if err != nil && !errors.As(err, &reason) {
			t.Fatalf("no reason: %v", err)
		}
		if err == nil && lane >= wire.Lanes {
			t.Fatalf("lane %d", lane)
		}
	})
}

package network

import (
	"bytes"
	"net"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
	"github.com/atlas-smr/smr/wire"
)

// helloFrame encodes the first frame of this end.
func helloFrame(cluster smr.ClusterID, self auth.Identity, lane wire.Lane) ([]byte, error) {
	payload, err := (&wirepb.Hello{
		Cluster: cluster[:], Kind: uint32(self.Kind), Id: self.ID, Lane: uint32(lane),
		MinVersion: wire.Version, MaxVersion: wire.Version,
	}).MarshalVT()
	return wire.AppendFrame(nil, wire.ClassHandshake, wire.KindOnly, payload), err
}

// readHello reads the other end's first frame and checks it against the identity its key proved.
// It returns the lane it names. Errors are Reasons.
func readHello(r *wire.FrameReader, cluster smr.ClusterID, proven auth.Identity) (wire.Lane, error) {
	class, kind, payload, err := r.ReadFrame()
	if err != nil || class != wire.ClassHandshake || kind != wire.KindOnly {
		return 0, RefusedHello
	}
	var h wirepb.Hello
	if h.UnmarshalVT(payload) != nil {
		return 0, RefusedHello
	}
	switch {
	case !bytes.Equal(h.Cluster, cluster[:]):
		return 0, RefusedCluster
	case h.Kind != uint32(proven.Kind) || h.Id != proven.ID:
		return 0, RefusedIdentity
	case h.MinVersion > wire.Version || h.MaxVersion < wire.Version:
		return 0, RefusedVersion
	case h.Lane >= wire.Lanes:
		return 0, RefusedLane
	}
	return wire.Lane(h.Lane), nil
}

// timedStream sets deadlines on a connection: every complete frame must arrive within idle of the
// one before. The reader's goroutine owns it.
type timedStream struct {
	net.Conn
	idle  time.Duration
	since time.Time // when the last frame was done with
	set   time.Time // the since of the deadline in force
}

// Read implements io.Reader. Deadlines are moved only when they would move noticeably.
func (s *timedStream) Read(p []byte) (int, error) {
	if s.idle > 0 && s.since.Sub(s.set) > s.idle/16 {
		s.set = s.since
		if err := s.Conn.SetReadDeadline(s.since.Add(s.idle)); err != nil {
			return 0, err
		}
	}
	return s.Conn.Read(p)
}

package replica

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/atlas-smr/smr/internal/pb/adminpb"
	"github.com/atlas-smr/smr/internal/pb/adminpb/adminpbconnect"
)

type fakeSource struct {
	state   []byte
	fail    error
	drained chan struct{}
}

func (f *fakeSource) Status() *adminpb.StatusReply {
	return &adminpb.StatusReply{Node: 3, Drops: map[string]uint64{"garbage frame": 2}}
}

func (f *fakeSource) Snapshot(_ context.Context, w io.Writer) (*adminpb.DumpEnd, error) {
	for i := 0; i < len(f.state); i += 1000 {
		if _, err := w.Write(f.state[i:min(i+1000, len(f.state))]); err != nil {
			return nil, err
		}
	}
	return &adminpb.DumpEnd{Seq: 9, Bytes: uint64(len(f.state))}, f.fail
}

func (f *fakeSource) Drain() { close(f.drained) }

func TestAdminAPIServesStatusDumpAndDrain(t *testing.T) {
	src := &fakeSource{state: bytes.Repeat([]byte("state"), 100_000), drained: make(chan struct{})}
	s, err := serveAdmin("127.0.0.1:0", src, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := context.Background()
	c := adminpbconnect.NewAdminClient(http.DefaultClient, "http://"+s.Addr())
	st, err := c.Status(ctx, connect.NewRequest(&adminpb.StatusRequest{}))
	if err != nil || st.Msg.Node != 3 || st.Msg.Drops["garbage frame"] != 2 {
		t.Fatal(st, err)
	}
	dump := func() (got []byte, end *adminpb.DumpEnd, err error) {
		stream, err := c.Dump(ctx, connect.NewRequest(&adminpb.DumpRequest{}))
		if err != nil {
			return nil, nil, err
		}
		defer stream.Close()
		for stream.Receive() {
			got = append(got, stream.Msg().GetData()...)
			end = stream.Msg().GetEnd()
		}
		return got, end, stream.Err()
	}
	got, end, err := dump()
	if err != nil || !bytes.Equal(got, src.state) || end == nil || end.Seq != 9 {
		t.Error(len(got), end, err)
	}
	src.fail = errors.New("fenced")
	if _, end, err := dump(); err == nil || end != nil || !strings.Contains(err.Error(), "fenced") {
		t.Error("a dump that broke off looks whole:", end, err)
	}
	if _, err := c.Drain(ctx, connect.NewRequest(&adminpb.DrainRequest{})); err != nil {
		t.Fatal(err)
	}
	<-src.drained
	http.DefaultClient.CloseIdleConnections()
}

func TestAdminAPIStaysOnThisMachine(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "example.org:0"} {
		if s, err := serveAdmin(addr, &fakeSource{}, slog.New(slog.DiscardHandler)); !errors.Is(err, ErrAdminAddr) {
			t.Errorf("%s: %v", addr, err)
			if s != nil {
				s.Close()
			}
		}
	}
	s, err := serveAdmin("127.0.0.1:0", &fakeSource{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	req, _ := http.NewRequest("POST", "http://"+s.Addr()+adminpbconnect.AdminStatusProcedure, strings.NewReader("{}"))
	req.Header.Set("Content-Type", "application/json")
	req.Host = "evil.example:7401"
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Error("a rebound name is served:", resp.Status)
	}
	http.DefaultClient.CloseIdleConnections()
}

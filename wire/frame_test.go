package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
	"github.com/atlas-smr/smr/internal/pb/wirepb"
)

func TestReadFrameRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		in   []byte
		want error
	}{
		"nothing":             {nil, io.EOF},
		"half a length":       {[]byte{0, 0}, io.ErrUnexpectedEOF},
		"half a header":       {[]byte{0, 0, 0, 3, 1}, io.ErrUnexpectedEOF},
		"half a payload":      {[]byte{0, 0, 0, 9, 1, 6, 0, 1}, io.ErrUnexpectedEOF},
		"no room for headers": {[]byte{0, 0, 0, 2, 1, 6}, ErrFrameLength},
		"length 2^32-1":       {[]byte{255, 255, 255, 255}, ErrFrameTooLong},
		"above its class":     {[]byte{0, 0, 8, 0, 1, 16, 0}, ErrFrameTooLong},
		"version 0":           {[]byte{0, 0, 0, 3, 0, 6, 0}, ErrFrameVersion},
		"version 2":           {[]byte{0, 0, 0, 3, 2, 6, 0}, ErrFrameVersion},
		"class 0":             {[]byte{0, 0, 0, 3, 1, 0, 0}, ErrFrameClass},
		"class 17":            {[]byte{0, 0, 0, 3, 1, 17, 0}, ErrFrameClass},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, _, err := NewFrameReader(iotest.OneByteReader(bytes.NewReader(test.in)), 512).ReadFrame()
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestDeclaredLengthAllocatesLittle(t *testing.T) {
	head := AppendFrame(nil, ClassProtocol, 0, make([]byte, ClassProtocol.MaxFrameBytes()))[:FrameHeaderBytes]
	res := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			_, _, _, _ = NewFrameReader(bytes.NewReader(head), 512).ReadFrame()
		}
	})
	if got := res.AllocedBytesPerOp(); got > 80<<10 {
		t.Fatalf("%d bytes allocated for 7 received", got)
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(AppendFrame(AppendFrame(nil, ClassPing, 0, []byte("x")), ClassProtocol, 3, make([]byte, 5000)))
	f.Add([]byte{255, 255, 255, 255, 1, 1, 1})
	f.Add([]byte{0, 0, 0, 2})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewFrameReader(bytes.NewReader(in), 512)
		var again []byte
		for {
			class, kind, payload, err := r.ReadFrame()
			if err != nil {
				break
			}
			again = AppendFrame(again, class, kind, payload)
		}
		if !bytes.HasPrefix(in, again) {
			t.Fatalf("frames encode as %x, were %x", again, in)
		}
	})
}

func FuzzDecodeBundles(f *testing.F) {
	key, err := auth.KeyFromSeed(make([]byte, auth.SeedBytes))
	if err != nil {
		f.Fatal(err)
	}
	for _, b := range []smr.Bundle{
		{Kind: smr.BundleOpen, Client: 1, Nonce: 7},
		{Kind: smr.BundleOps, Client: 1, Session: 9, First: 1, Acked: 1, Ops: [][]byte{nil, []byte("op")}},
	} {
		e, err := EncodeBundle(smr.ClusterID{}, key, b)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(e.Raw)
		f.Add(EncodeBundles([]*smr.Bundle{e, e}))
	}
	scheme := auth.NewEd25519()
	f.Fuzz(func(t *testing.T, in []byte) {
		if b, err := DecodeBundle(in); err == nil {
			if !bytes.Equal(b.Raw, in) || len(b.Ops) > smr.MaxBundleOps {
				t.Fatal("a bundle that is not its bytes")
			}
			VerifyBundles(scheme, smr.ClusterID{}, []*smr.Bundle{b})
		} else if !errors.Is(err, ErrBundle) {
			t.Fatalf("untyped error %v", err)
		}
		_, _ = DecodeBundles(in)
	})
}

// message is what every generated message can do.
type message interface {
	UnmarshalVT([]byte) error
	UnmarshalVTUnsafe([]byte) error
	MarshalVT() ([]byte, error)
}

func FuzzMessages(f *testing.F) {
	kinds := []func() message{
		func() message { return &wirepb.Hello{} }, func() message { return &wirepb.Ping{} },
		func() message { return &wirepb.BundleBody{} }, func() message { return &wirepb.FetchBundles{} },
		func() message { return &wirepb.OrderedReply{} }, func() message { return &wirepb.Advice{} },
		func() message { return &wirepb.UnorderedRequest{} }, func() message { return &wirepb.UnorderedReply{} },
		func() message { return &wirepb.ForwardedProtocol{} }, func() message { return &wirepb.ViewQuery{} },
		func() message { return &wirepb.ViewReply{} }, func() message { return &wirepb.LogRequest{} },
		func() message { return &wirepb.LogReply{} }, func() message { return &wirepb.RootVote{} },
		func() message { return &wirepb.RootCert{} },
	}
	for i := range kinds {
		f.Add(uint8(i), []byte{8, 1, 18, 2, 8, 1, 26, 1, 0})
	}
	f.Fuzz(func(t *testing.T, kind uint8, in []byte) {
		m, unsafe := kinds[int(kind)%len(kinds)](), kinds[int(kind)%len(kinds)]()
		err := m.UnmarshalVT(in)
		if (err == nil) != (unsafe.UnmarshalVTUnsafe(in) == nil) {
			t.Fatal("the two decoders disagree")
		}
		if err != nil {
			return
		}
		if _, err := m.MarshalVT(); err != nil {
			t.Fatal(err)
		}
	})
}

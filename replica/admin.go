package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/atlas-smr/smr/internal/pb/adminpb"
	"github.com/atlas-smr/smr/internal/pb/adminpb/adminpbconnect"
)

// adminSource is what the admin API shows of a replica. Its methods are safe for concurrent use.
type adminSource interface {
	// Status describes the replica now.
	Status() *adminpb.StatusReply
	// Snapshot captures the state between two batches and writes the checkpoint stream to w, beside
	// execution. An error of w ends it.
	Snapshot(ctx context.Context, w io.Writer) (*adminpb.DumpEnd, error)
	// Drain starts an orderly end of the replica and returns at once.
	Drain()
}

// ErrAdminAddr is wrapped when the admin API is asked to listen beyond this machine.
var ErrAdminAddr = errors.New("the admin API has no authentication yet and listens on loopback only: use an address such as 127.0.0.1:7401")

// adminServer serves the admin API until it is closed. It owns its listener and one goroutine, and
// net/http's per connection.
type adminServer struct {
	listener net.Listener
	server   *http.Server
	cancel   context.CancelFunc
	wg       sync.WaitGroup
}

// dumpChunk is the size of the pieces in which a dump travels.
const dumpChunk = 64 << 10

// maxDumps bounds the dumps under way at once: each holds a captured state.
const maxDumps = 2

// serveAdmin listens on addr, which must be a loopback address, and serves src.
func serveAdmin(addr string, src adminSource, log *slog.Logger) (*adminServer, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("admin address: %w", err)
	}
	if !loopback(host) {
		return nil, fmt.Errorf("admin address %s: %w", addr, ErrAdminAddr)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("admin API: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.Handle(adminpbconnect.NewAdminHandler(&adminHandler{src: src, dumps: make(chan struct{}, maxDumps)}, connect.WithReadMaxBytes(64<<10)))
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true) // for gRPC
	s := &adminServer{listener: l, cancel: cancel, server: &http.Server{
		Handler: onlyLocalNames(mux), Protocols: protocols, ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		if err := s.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("admin API stopped", "err", err)
		}
	}()
	return s, nil
}

// Addr returns the address served.
func (s *adminServer) Addr() string { return s.listener.Addr().String() }

// Close ends calls under way, after a moment for short ones, and awaits the goroutine.
func (s *adminServer) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if s.server.Shutdown(ctx) != nil {
		s.cancel()
		s.server.Close()
	}
	s.cancel()
	s.wg.Wait()
}

// onlyLocalNames refuses requests for another host's name: a web page that makes its own name
// resolve to this machine must not drive the API from somebody's browser.
func onlyLocalNames(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if !loopback(host) {
			http.Error(w, "the admin API answers to loopback names only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

type adminHandler struct {
	src   adminSource
	dumps chan struct{}
}

func (h *adminHandler) Status(context.Context, *connect.Request[adminpb.StatusRequest]) (*connect.Response[adminpb.StatusReply], error) {
	return connect.NewResponse(h.src.Status()), nil
}

func (h *adminHandler) Drain(context.Context, *connect.Request[adminpb.DrainRequest]) (*connect.Response[adminpb.DrainReply], error) {
	h.src.Drain()
	return connect.NewResponse(&adminpb.DrainReply{}), nil
}

func (h *adminHandler) Dump(ctx context.Context, _ *connect.Request[adminpb.DumpRequest], stream *connect.ServerStream[adminpb.DumpReply]) error {
	select {
	case h.dumps <- struct{}{}:
		defer func() { <-h.dumps }()
	default:
		return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("%d dumps are under way already: try again later", maxDumps))
	}
	w := &dumpWriter{stream: stream, buf: make([]byte, 0, dumpChunk)}
	end, err := h.src.Snapshot(ctx, w)
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return connect.NewError(connect.CodeUnavailable, err)
	}
	return stream.Send(&adminpb.DumpReply{Part: &adminpb.DumpReply_End{End: end}})
}

// dumpWriter cuts what is written into messages of dumpChunk bytes.
type dumpWriter struct {
	stream *connect.ServerStream[adminpb.DumpReply]
	buf    []byte
}

func (w *dumpWriter) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		n := copy(w.buf[len(w.buf):cap(w.buf)], rest)
		w.buf, rest = w.buf[:len(w.buf)+n], rest[n:]
		if len(w.buf) == cap(w.buf) {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(b), nil
}

func (w *dumpWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	err := w.stream.Send(&adminpb.DumpReply{Part: &adminpb.DumpReply_Data{Data: w.buf}})
	w.buf = w.buf[:0]
	return err
}

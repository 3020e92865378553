package network

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/atlas-smr/smr"
)

// Memory is a network inside one process: the same nodes over pipes instead of TLS and TCP, for
// tests and embedded clusters. Keys are believed, not proven; everything else is as on TCP.
// Addresses are any strings. It is safe for concurrent use.
type Memory struct {
	mu        sync.Mutex // guards what follows
	listeners map[string]*memoryListener
	next      int
}

// NewMemory returns a network without nodes.
func NewMemory() *Memory { return &Memory{listeners: map[string]*memoryListener{}} }

// Listen is the package's Listen on this network. An empty ListenAddr picks one.
func (m *Memory) Listen(cfg Config, h Handler) (*Node, error) {
	return start(cfg, h, func() (carrier, error) { return &memoryCarrier{m, cfg.Key.Public()}, nil })
}

// Dial is the package's Dial on this network.
func (m *Memory) Dial(cfg ClientConfig, h Handler) (*Node, error) {
	return start(cfg.end(), h, func() (carrier, error) { return &memoryCarrier{m, cfg.Key.Public()}, nil })
}

// memoryCarrier is a Memory as seen by the owner of a key.
type memoryCarrier struct {
	hub *Memory
	key smr.PublicKey
}

func (c *memoryCarrier) listen(addr string) (net.Listener, error) {
	m := c.hub
	m.mu.Lock()
	defer m.mu.Unlock()
	if addr == "" {
		m.next++
		addr = fmt.Sprintf("memory-%d", m.next)
	}
	if m.listeners[addr] != nil {
		return nil, fmt.Errorf("memory address %q is in use", addr)
	}
	l := &memoryListener{hub: m, addr: memoryAddr(addr), key: c.key, conns: make(chan net.Conn), closed: make(chan struct{})}
	m.listeners[addr] = l
	return l, nil
}

func (c *memoryCarrier) dial(ctx context.Context, addr string) (net.Conn, error) {
	c.hub.mu.Lock()
	l := c.hub.listeners[addr]
	c.hub.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("memory address %q: nobody listens", addr)
	}
	here, there := net.Pipe()
	select {
	case l.conns <- &memoryConn{Conn: there, remote: c.key}:
		return &memoryConn{Conn: here, remote: l.key}, nil
	case <-l.closed:
	case <-ctx.Done():
	}
	_ = here.Close()
	_ = there.Close()
	return nil, fmt.Errorf("memory address %q: refused", addr)
}

func (c *memoryCarrier) secure(_ context.Context, raw net.Conn, _ bool) (net.Conn, smr.PublicKey, error) {
	m, ok := raw.(*memoryConn)
	if !ok {
		return nil, smr.PublicKey{}, errCertificate
	}
	return raw, m.remote, nil
}

// memoryConn is one end of a pipe and the key of the other.
type memoryConn struct {
	net.Conn
	remote smr.PublicKey
}

type memoryAddr string

// Network implements net.Addr.
func (memoryAddr) Network() string { return "memory" }

// String implements net.Addr.
func (a memoryAddr) String() string { return string(a) }

type memoryListener struct {
	hub    *Memory
	addr   memoryAddr
	key    smr.PublicKey
	conns  chan net.Conn // unbuffered: given only to who accepts
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (l *memoryListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *memoryListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.hub.mu.Lock()
		defer l.hub.mu.Unlock()
		if l.hub.listeners[string(l.addr)] == l {
			delete(l.hub.listeners, string(l.addr))
		}
	})
	return nil
}

// Addr implements net.Listener.
func (l *memoryListener) Addr() net.Addr { return l.addr }

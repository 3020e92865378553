package itest

import (
	"net"
	"sync"
	"time"
)

// pieceBytes is the most that a proxy passes on at once, and piecesAhead how many pieces it holds for
// one direction of a connection; beyond, the sender waits as for a full TCP window.
const (
	pieceBytes  = 32 << 10
	piecesAhead = 32
)

// proxy stands where one end dials another.
type proxy struct {
	listener    net.Listener
	target      string
	there, back *path // what the dialling end sends, and what returns
	work        sync.WaitGroup

	mu     sync.Mutex
	closed bool             // guarded by mu
	conns  map[*tunnel]bool // guarded by mu
}

func newProxy(target string, there, back *path) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, target: target, there: there, back: back, conns: map[*tunnel]bool{}}
	p.work.Add(1)
	go p.accept()
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	defer p.work.Done()
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		t := &tunnel{near: near, end: make(chan struct{})}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			_ = near.Close()
			return
		}
		p.conns[t] = true
		p.work.Add(1)
		p.mu.Unlock()
		go p.serve(t)
	}
}

// serve carries one connection until either end closes it or it is broken.
func (p *proxy) serve(t *tunnel) {
	defer p.work.Done()
	defer func() {
		t.close()
		p.mu.Lock()
		delete(p.conns, t)
		p.mu.Unlock()
	}()
	if !p.there.awaitOpen(t.end) { // a first packet that does not arrive
		return
	}
	far, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil || !t.joined(far) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { t.carry(t.near, far, p.there) })
	both.Go(func() { t.carry(far, t.near, p.back) })
	both.Wait()
}

// each calls do with every open connection.
func (p *proxy) each(do func(*tunnel)) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for t := range p.conns { // order-free: each is treated alike
		do(t)
	}
	return len(p.conns)
}

func (p *proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.listener.Close()
	p.each((*tunnel).close)
	p.work.Wait()
}

// tunnel is one connection through a proxy.
type tunnel struct {
	near net.Conn // to the end that dialled
	end  chan struct{}

	mu     sync.Mutex
	far    net.Conn // guarded by mu; to the end that was dialled
	ended  bool     // guarded by mu
	halved bool     // guarded by mu
}

// joined takes the connection to the dialled end; false, and closed, if the tunnel ended before.
func (t *tunnel) joined(far net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		_ = far.Close()
		return false
	}
	t.far = far
	return true
}

func (t *tunnel) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return
	}
	t.ended = true
	close(t.end)
	for _, c := range []net.Conn{t.near, t.far} {
		if c != nil {
			_ = c.(*net.TCPConn).SetLinger(0) // a reset: nothing says goodbye
			_ = c.Close()
		}
	}
}

// halve closes the dialled end's side only. The dialling end hears nothing of it and may go on
// sending into the void.
func (t *tunnel) halve() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended && t.far != nil {
		t.halved = true
		_ = t.far.Close()
	}
}

func (t *tunnel) isHalved() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.halved
}

// piece is some bytes under way.
type piece struct {
	bytes []byte
	at    time.Time
}

// carry moves bytes one way and ends the tunnel with the connection; a halved one stays.
func (t *tunnel) carry(from, to net.Conn, way *path) {
	pieces := make(chan piece, piecesAhead)
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(pieces)
		t.read(from, way, pieces)
	})
	timer := time.NewTimer(0)
	defer timer.Stop()
	for p := range pieces {
		if wait := time.Until(p.at); wait > 0 {
			timer.Reset(wait)
			select {
			case <-timer.C:
			case <-t.end:
			}
		}
		if way.awaitOpen(t.end) {
			if _, err := to.Write(p.bytes); err != nil && !t.isHalved() {
				t.close()
			}
		}
	}
	reading.Wait()
	if !t.isHalved() {
		t.close()
	}
}

// read takes pieces off a connection until it ends. Bytes stay in order: none arrives before one sent
// earlier, as carry writes them one after the other.
func (t *tunnel) read(from net.Conn, way *path, pieces chan<- piece) {
	buf := make([]byte, pieceBytes)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			at, breaks := way.send(n, time.Now())
			if breaks {
				t.close()
				return
			}
			pieces <- piece{append([]byte(nil), buf[:n]...), at}
		}
		if err != nil {
			return
		}
	}
}

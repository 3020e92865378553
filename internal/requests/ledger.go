package requests

import (
	"fmt"
	"sync"

	"github.com/atlas-smr/smr"
)

// Ledger counts what each client has outstanding, over all partitions. It is safe for concurrent
// use.
type Ledger struct {
	mu      sync.Mutex // guards clients
	clients map[smr.ClientID]account
}

type account struct{ bundles, bytes int }

// NewLedger returns an empty ledger.
func NewLedger() *Ledger { return &Ledger{clients: make(map[smr.ClientID]account)} }

// take books a bundle and returns "", or the limit that refuses it.
func (l *Ledger) take(client smr.ClientID, bytes int, limits Limits) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.clients[client]
	if a.bundles >= limits.ClientBundles {
		return fmt.Sprintf("this client has %d bundles outstanding here, at most %d", a.bundles, limits.ClientBundles)
	}
	if a.bytes+bytes > limits.ClientBytes {
		return fmt.Sprintf("this client has %d bytes outstanding here, at most %d", a.bytes, limits.ClientBytes)
	}
	l.clients[client] = account{a.bundles + 1, a.bytes + bytes}
	return ""
}

func (l *Ledger) give(client smr.ClientID, bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.clients[client]
	if a = (account{a.bundles - 1, a.bytes - bytes}); a.bundles == 0 {
		delete(l.clients, client)
		return
	}
	l.clients[client] = a
}

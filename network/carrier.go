package network

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"time"

	"github.com/atlas-smr/smr"
	"github.com/atlas-smr/smr/auth"
)

// carrier makes byte streams whose other end has proven a key: TLS over TCP, or the pipes of a
// Memory.
type carrier interface {
	listen(addr string) (net.Listener, error)
	dial(ctx context.Context, addr string) (net.Conn, error)
	// secure authenticates both ends and returns the stream to use and the other end's key.
	secure(ctx context.Context, raw net.Conn, dialled bool) (net.Conn, smr.PublicKey, error)
}

// tlsCarrier is mutual TLS 1.3 over TCP.
type tlsCarrier struct{ server, client *tls.Config }

// errCertificate refuses an end that does not show exactly one Ed25519 certificate.
var errCertificate = errors.New("network: the other end shows no Ed25519 certificate")

func newTLSCarrier(key *auth.KeyPair) (*tlsCarrier, error) {
	cert, err := shellCertificate(key)
	if err != nil {
		return nil, err
	}
	base := &tls.Config{
		Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13,
		NextProtos: []string{"atlas-smr"}, SessionTicketsDisabled: true, DynamicRecordSizingDisabled: true,
		// Chains and names mean nothing here: the key is compared with the pinned ones.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, err := provenKey(s)
			return err
		},
	}
	server := base.Clone()
	server.ClientAuth = tls.RequireAnyClientCert
	return &tlsCarrier{server: server, client: base}, nil
}

// shellCertificate returns a self-signed certificate around a key. Nothing in it but the key is
// ever looked at; the dates are as wide as X.509 allows.
func shellCertificate(key *auth.KeyPair) (tls.Certificate, error) {
	return shellCertificateUntil(key, time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC))
}

func shellCertificateUntil(key *auth.KeyPair, until time.Time) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "atlas-smr"},
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: until,
	}
	private := ed25519.PrivateKey(key.PrivateKey())
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, nil
}

// provenKey returns the key whose possession the other end proved in the handshake.
func provenKey(s tls.ConnectionState) (key smr.PublicKey, err error) {
	if len(s.PeerCertificates) != 1 {
		return key, errCertificate
	}
	public, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok || len(public) != len(key) || bytes.Equal(public, make([]byte, len(key))) {
		return key, errCertificate
	}
	copy(key[:], public)
	return key, nil
}

func (*tlsCarrier) listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

func (*tlsCarrier) dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

func (c *tlsCarrier) secure(ctx context.Context, raw net.Conn, dialled bool) (net.Conn, smr.PublicKey, error) {
	t := tls.Server(raw, c.server)
	if dialled {
		t = tls.Client(raw, c.client)
	}
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, smr.PublicKey{}, err
	}
	key, err := provenKey(t.ConnectionState())
	return t, key, err
}

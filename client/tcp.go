package client

import "errors"

// dialTCP connects to the members over TCP with mutual TLS.
func dialTCP(Config, Handler) (Transport, error) {
	return nil, errors.New("client: no transport: set Config.Dial")
}

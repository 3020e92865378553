package storage

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// pebbleBatch writes tables through a batch.
type pebbleBatch struct{ b *pebble.Batch }

func (t pebbleBatch) set(key, value []byte) error       { return t.b.Set(key, value, nil) }
func (t pebbleBatch) delete(key []byte) error           { return t.b.Delete(key, nil) }
func (t pebbleBatch) deleteRange(from, to []byte) error { return t.b.DeleteRange(from, to, nil) }

// pebbleView reads tables from a database or a snapshot of it.
type pebbleView struct{ r pebble.Reader }

func (v pebbleView) get(key []byte) ([]byte, error) {
	value, closer, err := v.r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	value = bytes.Clone(value)
	return value, closer.Close()
}

func (v pebbleView) scan(from, to []byte, f func(key, value []byte) (bool, error)) error {
	it, err := v.r.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	more := true
	for ok := it.First(); ok && more && err == nil; ok = it.Next() {
		var value []byte
		if value, err = it.ValueAndErr(); err == nil {
			more, err = f(it.Key(), value)
		}
	}
	if err == nil {
		err = it.Error()
	}
	if cerr := it.Close(); err == nil {
		err = cerr
	}
	return err
}

// pebbleLogger fences the replica where Pebble would end the process.
type pebbleLogger struct{ s *Store }

// Infof drops what Pebble tells about its housekeeping, unless debugging.
func (l pebbleLogger) Infof(format string, args ...any) {
	l.s.opts.Logger.Debug(fmt.Sprintf(format, args...), "part", "pebble")
}

// Errorf passes on.
func (l pebbleLogger) Errorf(format string, args ...any) {
	l.s.opts.Logger.Error(fmt.Sprintf(format, args...), "part", "pebble")
}

// Fatalf makes the failure sticky and returns: Pebble goes on with an error it can no longer hide,
// since no token becomes durable after it.
func (l pebbleLogger) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	for _, a := range args {
		if cause, ok := a.(error); ok {
			err = fmt.Errorf("%s: %w", format[:max(0, len(format)-4)], cause)
		}
	}
	l.s.fail(explain("write", l.s.dir, err))
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
)

// handler makes the log handler the flags ask for.
func (a *app) handler(w io.Writer) (slog.Handler, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
		return nil, usagef("--log-level %q: use debug, info, warn or error", a.logLevel)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch a.logFormat {
	case "text":
		return slog.NewTextHandler(w, opts), nil
	case "json":
		return slog.NewJSONHandler(w, opts), nil
	}
	return nil, usagef("--log-format %q: use text or json", a.logFormat)
}

// logger returns a logger to w. The flags were checked before the command started.
func (a *app) logger(w io.Writer) *slog.Logger {
	h, err := a.handler(w)
	if err != nil {
		h = slog.NewTextHandler(w, nil)
	}
	return slog.New(h)
}

// printJSON writes v as one compact line.
func printJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", b)
	return err
}

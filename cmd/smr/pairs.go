package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/atlas-smr/smr/kv"
)

// pairWriter prints pairs: a tab between key and value, or a JSON object a line.
type pairWriter struct {
	w    *bufio.Writer
	json bool
	n    int
}

func newPairWriter(w io.Writer, asJSON bool) *pairWriter {
	return &pairWriter{w: bufio.NewWriterSize(w, 64<<10), json: asJSON}
}

// dumpPair is a pair in JSON; what is not UTF-8 is in base64.
type dumpPair struct {
	Key     string  `json:"key,omitempty"`
	Key64   []byte  `json:"key_base64,omitempty"`
	Value   *string `json:"value,omitempty"`
	Value64 []byte  `json:"value_base64,omitempty"`
}

func (w *pairWriter) pair(p kv.Pair) error {
	w.n++
	if !w.json {
		_, err := fmt.Fprintf(w.w, "%s\t%s\n", printable(p.Key), printable(string(p.Value)))
		return err
	}
	r := newResult(p.Key, p.Value, true)
	b, err := json.Marshal(dumpPair{r.Key, r.Key64, r.Value, r.Value64})
	if err != nil {
		return err
	}
	_, err = w.w.Write(append(b, '\n'))
	return err
}

func (w *pairWriter) flush() error { return w.w.Flush() }

// textOrBytes returns b as text if it is UTF-8, else as bytes.
func textOrBytes(b []byte) (string, []byte) {
	if utf8.Valid(b) {
		return string(b), nil
	}
	return "", b
}

// printable returns s, quoted if it would not show as it is.
func printable(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r == '"' || !unicode.IsPrint(r) }) {
		return s
	}
	return strconv.Quote(s)
}

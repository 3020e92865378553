package main

import (
	"bufio"
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/atlas-smr/smr/kv"
)

// row is one record of an import file.
type row struct {
	n     int // from 1, the header not counted
	line  int // in the file, from 1
	key   string
	value []byte
}

// rowError is a row that cannot be imported. The rows after it can be read.
type rowError struct {
	n, line int
	reason  string
}

func (e *rowError) Error() string {
	return fmt.Sprintf("row %d (line %d): %s", e.n, e.line, e.reason)
}

// rowReader reads the rows of an import file. A malformed row is a *rowError, after which reading can
// go on; the end is io.EOF; anything else ends it.
type rowReader struct {
	next  func() (row, error) // key and value as in the file
	first map[string]int      // row in which a key was first seen
}

// columns says where key and value come from.
type columns struct {
	key   string
	value string // empty: the whole row as a JSON object
}

// maxRowBytes bounds one line of an import file.
const maxRowBytes = 4 << 20

// newRowReader reads a file whose name ends in .csv, .tsv, .jsonl or .ndjson.
func newRowReader(name string, r io.Reader, c columns) (*rowReader, error) {
	out := &rowReader{first: map[string]int{}}
	var err error
	switch lower := strings.ToLower(strings.TrimSuffix(name, ".gz")); {
	case strings.HasSuffix(lower, ".csv"):
		out.next, err = csvRows(r, c)
	case strings.HasSuffix(lower, ".tsv"):
		out.next, err = tsvRows(r, c)
	case strings.HasSuffix(lower, ".jsonl"), strings.HasSuffix(lower, ".ndjson"):
		out.next = jsonRows(r, c)
	default:
		return nil, usagef("%s: the name must end in .csv, .tsv or .jsonl", name)
	}
	return out, err
}

// Next returns the next row, checked against the limits of the store. A key that was there before is
// refused: the rows travel side by side, so that which of the two would stand is chance.
func (r *rowReader) Next() (row, error) {
	x, err := r.next()
	if err != nil {
		return x, err
	}
	refuse := func(format string, args ...any) (row, error) {
		return row{}, &rowError{x.n, x.line, fmt.Sprintf(format, args...)}
	}
	if x.key == "" {
		return refuse("the key is empty")
	}
	if err := kv.Put(x.key, x.value).Check(); err != nil {
		return refuse("%v", err)
	}
	if before, ok := r.first[x.key]; ok {
		return refuse("key %q is in row %d already", x.key, before)
	}
	r.first[x.key] = x.n
	return x, nil
}

// table turns the fields of a row with a header into key and value.
type table struct {
	header     []string
	key, value int // value below 0: the whole row
}

func newTable(header []string, c columns) (*table, error) {
	header[0] = strings.TrimPrefix(header[0], "\ufeff") // a byte order mark
	t := &table{header: slices.Clone(header), key: slices.Index(header, c.key), value: -1}
	for i, h := range t.header {
		if slices.Index(t.header, h) != i {
			return nil, fmt.Errorf("the header names column %q twice", h)
		}
	}
	if t.key < 0 {
		return nil, usagef("--key %s: the columns are %s", c.key, strings.Join(t.header, ", "))
	}
	if c.value != "" {
		if t.value = slices.Index(t.header, c.value); t.value < 0 {
			return nil, usagef("--value %s: the columns are %s", c.value, strings.Join(t.header, ", "))
		}
	}
	return t, nil
}

func (t *table) row(n, line int, fields []string) (row, error) {
	if len(fields) != len(t.header) {
		return row{}, &rowError{n, line, fmt.Sprintf("%d fields, the header has %d", len(fields), len(t.header))}
	}
	for i, f := range fields {
		if !utf8.ValidString(f) {
			return row{}, &rowError{n, line, fmt.Sprintf("column %s is not UTF-8", t.header[i])}
		}
	}
	if t.value >= 0 {
		return row{n, line, fields[t.key], []byte(fields[t.value])}, nil
	}
	value := []byte{'{'}
	for i, f := range fields {
		if i > 0 {
			value = append(value, ',')
		}
		value = append(appendJSON(value, t.header[i]), ':')
		value = appendJSON(value, f)
	}
	return row{n, line, fields[t.key], append(value, '}')}, nil
}

// appendJSON appends s as a JSON string. s is UTF-8.
func appendJSON(dst []byte, s string) []byte {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // a string can be said in JSON
	}
	return append(dst, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
}

func csvRows(r io.Reader, c columns) (func() (row, error), error) {
	cr := csv.NewReader(r)
	cr.FieldsPerRecord = -1
	cr.ReuseRecord = true
	header, err := cr.Read()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty: a header line with the column names is needed")
	}
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	t, err := newTable(header, c)
	if err != nil {
		return nil, err
	}
	n := 0
	return func() (row, error) {
		fields, err := cr.Read()
		if errors.Is(err, io.EOF) {
			return row{}, io.EOF
		}
		n++
		var parse *csv.ParseError
		if errors.As(err, &parse) {
			return row{}, &rowError{n, parse.StartLine, parse.Err.Error()}
		}
		if err != nil {
			return row{}, err
		}
		line, _ := cr.FieldPos(0)
		return t.row(n, line, fields)
	}, nil
}

// errLine is a line over maxRowBytes; the rest of the file is not read.
var errLine = fmt.Errorf("a line has more than %d bytes", maxRowBytes)

// lines yields the lines of r without their ends.
func lines(r io.Reader) func() (string, error) {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), maxRowBytes)
	return func() (string, error) {
		if s.Scan() {
			return strings.TrimSuffix(s.Text(), "\r"), nil
		}
		if errors.Is(s.Err(), bufio.ErrTooLong) {
			return "", errLine
		}
		if s.Err() != nil {
			return "", s.Err()
		}
		return "", io.EOF
	}
}

// tsvRows reads tab-separated values: no quoting, every tab ends a field.
func tsvRows(r io.Reader, c columns) (func() (row, error), error) {
	next := lines(r)
	header, err := next()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty: a header line with the column names is needed")
	}
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	t, err := newTable(strings.Split(header, "\t"), c)
	if err != nil {
		return nil, err
	}
	n := 0
	return func() (row, error) {
		line, err := next()
		if err != nil {
			return row{}, err
		}
		n++
		return t.row(n, n+1, strings.Split(line, "\t"))
	}, nil
}

// jsonRows reads one JSON object a line; empty lines are passed over.
func jsonRows(r io.Reader, c columns) func() (row, error) {
	next := lines(r)
	n, at := 0, 0
	return func() (row, error) {
		for {
			line, err := next()
			if err != nil {
				return row{}, err
			}
			if at++; strings.TrimSpace(line) == "" {
				continue
			}
			n++
			return jsonRow(n, at, line, c)
		}
	}
}

func jsonRow(n, at int, line string, c columns) (row, error) {
	refuse := func(format string, args ...any) (row, error) {
		return row{}, &rowError{n, at, fmt.Sprintf(format, args...)}
	}
	if !utf8.ValidString(line) {
		return refuse("not UTF-8")
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal([]byte(line), &object); err != nil || object == nil {
		if err == nil {
			err = errors.New("null")
		}
		return refuse("not a JSON object: %v", err)
	}
	field := func(name string) (string, error) {
		raw, ok := object[name]
		if !ok {
			return "", fmt.Errorf("no field %q", name)
		}
		var v any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if err := d.Decode(&v); err != nil {
			return "", err
		}
		switch v := v.(type) {
		case string:
			return v, nil
		case json.Number:
			return v.String(), nil
		case bool:
			return fmt.Sprint(v), nil
		}
		return "", fmt.Errorf("field %q is neither text nor a number", name)
	}
	key, err := field(c.key)
	if err != nil {
		return refuse("%v", err)
	}
	if c.value != "" {
		value, err := field(c.value)
		if err != nil {
			return refuse("%v", err)
		}
		return row{n, at, key, []byte(value)}, nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(line)); err != nil {
		return refuse("%v", err)
	}
	return row{n, at, key, compact.Bytes()}, nil
}

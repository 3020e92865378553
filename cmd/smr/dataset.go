package main

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"errors"
	"io"
)

// unicodeData is a table of the characters of Unicode: code point, name, general category. Source and
// licence: data/LICENSE-unicode.txt.
//
//go:embed data/unicode.tsv.gz
var unicodeData []byte

// loadDataset returns the embedded table as rows with the code point as key and the row as value.
func loadDataset() ([]row, error) {
	z, err := gzip.NewReader(bytes.NewReader(unicodeData))
	if err != nil {
		return nil, err
	}
	r, err := newRowReader("unicode.tsv", z, columns{key: "code"})
	if err != nil {
		return nil, err
	}
	var rows []row
	for {
		x, err := r.Next()
		if errors.Is(err, io.EOF) {
			return rows, nil
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, x)
	}
}

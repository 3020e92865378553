package main

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// readAll reads a whole file and returns its rows as key=value and its row errors.
func readAll(t *testing.T, name, text string, c columns) (rows, bad []string) {
	t.Helper()
	r, err := newRowReader(name, strings.NewReader(text), c)
	if err != nil {
		t.Fatal(err)
	}
	for {
		x, err := r.Next()
		var re *rowError
		switch {
		case errors.Is(err, io.EOF):
			return rows, bad
		case errors.As(err, &re):
			bad = append(bad, re.Error())
		case err != nil:
			t.Fatal(err)
		default:
			rows = append(rows, x.key+"="+string(x.value))
		}
	}
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("%s:\n%s\nwant\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCSVRows(t *testing.T) {
	rows, bad := readAll(t, "x.csv", "\ufeffid,name\n1,\"a, \"\"b\"\"\nc\"\n2\n,x\n1,again\n3,\xff\n4,d\n5,\"open\n", columns{key: "id"})
	same(t, "rows", rows, `1={"id":"1","name":"a, \"b\"\nc"}`, `4={"id":"4","name":"d"}`)
	same(t, "errors", bad,
		"row 2 (line 4): 1 fields, the header has 2", "row 3 (line 5): the key is empty", `row 4 (line 6): key "1" is in row 1 already`,
		"row 5 (line 7): column name is not UTF-8", `row 7 (line 9): extraneous or missing " in quoted-field`)
}

func TestTSVRows(t *testing.T) {
	rows, bad := readAll(t, "x.TSV", "code\tname\r\n41\t\"A\r\n42\n43\tC", columns{key: "code", value: "name"})
	same(t, "rows", rows, `41="A`, "43=C")
	same(t, "errors", bad, "row 2 (line 3): 1 fields, the header has 2")
}

func TestJSONRows(t *testing.T) {
	text := "{\"id\": 12345678901234567890, \"v\": [1, 2]}\n\n{\"v\":1}\nnull\n{\"id\":{}}\n{\"id\":\"b\"} x\n{\"id\":true}\n"
	rows, bad := readAll(t, "x.jsonl", text, columns{key: "id"})
	same(t, "rows", rows, `12345678901234567890={"id":12345678901234567890,"v":[1,2]}`, `true={"id":true}`)
	same(t, "errors", bad,
		`row 2 (line 3): no field "id"`, "row 3 (line 4): not a JSON object: null", `row 4 (line 5): field "id" is neither text nor a number`,
		"row 5 (line 6): not a JSON object: invalid character 'x' after top-level value")
}

func TestRowsOverALimitAreRefused(t *testing.T) {
	rows, bad := readAll(t, "x.tsv", "k\tv\n"+strings.Repeat("k", 5000)+"\t1\na\t"+strings.Repeat("v", 2<<20)+"\nb\t2\n", columns{key: "k", value: "v"})
	same(t, "rows", rows, "b=2")
	if len(bad) != 2 || !strings.Contains(bad[0], "key of 5000 bytes") || !strings.Contains(bad[1], "value of 2097152 bytes") {
		t.Error(bad)
	}
}

func TestUnusableImportFiles(t *testing.T) {
	for name, c := range map[string]struct {
		file, text string
		c          columns
		want       string
	}{
		"extension":    {"x.xls", "", columns{key: "k"}, "must end in .csv"},
		"empty csv":    {"x.csv", "", columns{key: "k"}, "header line"},
		"empty tsv":    {"x.tsv", "", columns{key: "k"}, "header line"},
		"no column":    {"x.csv", "a,b\n", columns{key: "k"}, "the columns are a, b"},
		"no value":     {"x.tsv", "a\tb\n", columns{key: "a", value: "c"}, "--value c"},
		"twice":        {"x.csv", "a,a\n", columns{key: "a"}, "twice"},
		"endless line": {"x.tsv", strings.Repeat("x", maxRowBytes+1), columns{key: "a"}, "a line has more"},
	} {
		if _, err := newRowReader(c.file, strings.NewReader(c.text), c.c); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzRows(f *testing.F) {
	f.Add("x.csv", "k,v\n1,\"a\nb\"\n")
	f.Add("x.tsv", "k\tv\n1\t2\n")
	f.Add("x.jsonl", "{\"k\":1}\n")
	f.Fuzz(func(t *testing.T, name, text string) {
		r, err := newRowReader(name, strings.NewReader(text), columns{key: "k"})
		if err != nil {
			return
		}
		for last := 0; ; {
			x, err := r.Next()
			var re *rowError
			if errors.As(err, &re) {
				x.n = re.n
			} else if err != nil {
				return
			}
			if x.n <= last {
				t.Fatalf("row %d after %d", x.n, last)
			}
			last = x.n
		}
	})
}

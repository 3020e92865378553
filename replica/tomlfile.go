package replica

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// ErrConfig is wrapped by every error of a configuration file that cannot be used.
var ErrConfig = errors.New("invalid configuration")

// ConfigError is one mistake in a configuration file.
type ConfigError struct {
	Path   string
	Line   int // 0: the file as a whole
	Key    string
	Text   string
	Remedy string
}

// Error implements error.
func (e *ConfigError) Error() string {
	var b strings.Builder
	b.WriteString(e.Path)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + " ")
	}
	b.WriteString(e.Text)
	if e.Remedy != "" {
		b.WriteString(": " + e.Remedy)
	}
	return b.String()
}

// Is lets errors.Is find ErrConfig.
func (e *ConfigError) Is(target error) bool { return target == ErrConfig }

// maxConfigBytes bounds a configuration file.
const maxConfigBytes = 1 << 20

// settings reads one TOML file key by key. Every mistake is collected; none stops the reading, so
// that finish reports all of them together.
type settings struct {
	path   string
	dir    string
	values map[string]any
	lines  map[string]int
	read   map[string]bool
	bad    []error
}

func openSettings(path string) (*settings, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if info.Size() > maxConfigBytes {
		return nil, &ConfigError{Path: path, Text: fmt.Sprintf("has %d bytes", info.Size()), Remedy: "a configuration file is a few lines of TOML"}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	s := &settings{path: path, dir: filepath.Dir(abs), values: map[string]any{}, read: map[string]bool{}}
	var tree map[string]any
	if err := toml.Unmarshal(b, &tree); err != nil {
		e := &ConfigError{Path: path, Text: strings.TrimPrefix(err.Error(), "toml: "), Remedy: "fix the TOML first; further mistakes show then"}
		var decode *toml.DecodeError
		if errors.As(err, &decode) {
			e.Line, _ = decode.Position()
		}
		return nil, e
	}
	flatten(s.values, "", tree)
	s.lines = keyLines(b)
	return s, nil
}

// flatten names nested keys by their dotted path.
func flatten(dst map[string]any, prefix string, tree map[string]any) {
	for k, v := range tree {
		if sub, ok := v.(map[string]any); ok {
			flatten(dst, prefix+k+".", sub)
			continue
		}
		dst[prefix+k] = v
	}
}

// keyLines finds the line of every key of a document that parses.
func keyLines(b []byte) map[string]int {
	lines := map[string]int{}
	var p unstable.Parser
	p.Reset(b)
	table := ""
	for p.NextExpression() {
		n := p.Expression()
		name, line := "", 0
		for it := n.Key(); it.Next(); {
			k := it.Node()
			if name != "" {
				name += "."
			}
			name += string(k.Data)
			line = p.Shape(k.Raw).Start.Line
		}
		switch n.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = name + "."
		case unstable.KeyValue:
			lines[table+name] = line
		}
	}
	return lines
}

func (s *settings) fail(key, remedy, format string, args ...any) {
	line := s.lines[key]
	if line == 0 { // a key inside an inline table: its parent's line
		if i := strings.LastIndexByte(key, '.'); i >= 0 {
			line = s.lines[key[:i]]
		}
	}
	s.bad = append(s.bad, &ConfigError{Path: s.path, Line: line, Key: key, Text: fmt.Sprintf(format, args...), Remedy: remedy})
}

// value returns a key's value if it has the wanted type.
func value[T any](s *settings, key, want string) (v T, ok bool) {
	s.read[key] = true
	raw, present := s.values[key]
	if !present {
		return v, false
	}
	if v, ok = raw.(T); !ok {
		s.fail(key, "write "+want, "is %s", tomlKind(raw))
	}
	return v, ok
}

func tomlKind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case int64:
		return "a number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	case []any:
		return "a list"
	}
	return "a date or time"
}

// has reports whether the file sets key.
func (s *settings) has(key string) bool {
	_, ok := s.values[key]
	return ok
}

// text returns a string, or def if the file does not set it.
func (s *settings) text(key, def, example string) string {
	if v, ok := value[string](s, key, fmt.Sprintf("%s = %q", key, example)); ok {
		return v
	}
	return def
}

// choice returns one of several words.
func (s *settings) choice(key, def string, words ...string) string {
	v := s.text(key, def, def)
	for _, w := range words {
		if v == w {
			return v
		}
	}
	s.fail(key, "use one of "+strings.Join(words, ", "), "is %q", v)
	return def
}

// number returns an integer from low to high.
func (s *settings) number(key string, def, low, high int64) int64 {
	v, ok := value[int64](s, key, fmt.Sprintf("%s = %d", key, max(def, low)))
	if !ok {
		return def
	}
	if v < low || v > high {
		s.fail(key, fmt.Sprintf("use %d to %d", low, high), "is %d", v)
		return def
	}
	return v
}

// duration returns a Go duration from low to high.
func (s *settings) duration(key string, def, low, high time.Duration) time.Duration {
	text, ok := value[string](s, key, fmt.Sprintf("%s = %q", key, def))
	if !ok {
		return def
	}
	v, err := time.ParseDuration(text)
	if err != nil || v < low || v > high {
		s.fail(key, fmt.Sprintf("use %s to %s, such as %q", low, high, def), "is %q", text)
		return def
	}
	return v
}

// file returns a path, resolved against the configuration file.
func (s *settings) file(key, def string) string {
	v := s.text(key, def, def)
	if v == "" {
		s.fail(key, fmt.Sprintf("write %s = %q", key, def), "is empty")
		v = def
	}
	if !filepath.IsAbs(v) {
		v = filepath.Join(s.dir, v)
	}
	return v
}

// finish refuses keys nobody read and returns all mistakes, in line order.
func (s *settings) finish() error {
	for key := range s.values {
		if s.read[key] {
			continue
		}
		known := make([]string, 0, len(s.read))
		for k := range s.read {
			known = append(known, k)
		}
		remedy := "remove it"
		if near := nearest(key, known); near != "" {
			remedy = fmt.Sprintf("did you mean %s?", near)
		}
		s.fail(key, remedy, "is no setting")
	}
	sort.SliceStable(s.bad, func(i, j int) bool { return lineOf(s.bad[i]) < lineOf(s.bad[j]) })
	return errors.Join(s.bad...)
}

func lineOf(err error) int {
	var e *ConfigError
	if errors.As(err, &e) {
		return e.Line
	}
	return 0
}

// nearest returns the known word at the smallest edit distance, if it is small enough to be meant.
func nearest(word string, known []string) string {
	best, at := "", 1+len(word)/3
	sort.Strings(known)
	for _, k := range known {
		if d := editDistance([]byte(word), []byte(k)); d < at || d == at && best == "" {
			best, at = k, d
		}
	}
	return best
}

func editDistance(a, b []byte) int {
	if bytes.Equal(a, b) {
		return 0
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j := range b {
			next := diagonal
			if a[i] != b[j] {
				next = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

package smr_test

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/atlas-smr/smr"

// ranks lists packages from the lowest rank up; a package imports lower ranks only. "x/*" is
// whatever lies below x.
var ranks = [][]string{
	{".", "internal/invariant", "internal/mutant", "internal/pb/*"}, {"state"}, {"kv"}, {"internal/history", "quorum"}, {"auth"}, {"wire"}, {"internal/metrics"}, {"protocol"}, {"protocol/*"},
	{"internal/engine", "internal/requests", "internal/execution", "storage", "network"}, {"client"}, {"replica", "replica/*"}, {"internal/localcluster", "sim", "sim/*"},
	{"smrtest", "network/networktest"}, {"cmd/*", "examples/*"}, {"itest"},
}

func rankOf(pkg string) int {
	below := -1
	for i, row := range ranks {
		for _, name := range row {
			if name == pkg {
				return i
			}
			if dir, ok := strings.CutSuffix(name, "*"); ok && strings.HasPrefix(pkg, dir) {
				below = i
			}
		}
	}
	return below
}

// layout returns the violations of the import ranks under root.
func layout(root string) (found []string) {
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "bin" || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, _ := filepath.Rel(root, filepath.Dir(path))
		pkg := filepath.ToSlash(rel)
		mine := rankOf(pkg)
		if mine < 0 {
			found = append(found, fmt.Sprintf("%s: unknown package %s: give it a rank", path, pkg))
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			found = append(found, err.Error())
			return nil
		}
		for _, spec := range f.Imports {
			imp := strings.Trim(spec.Path.Value, `"`)
			if imp != module && !strings.HasPrefix(imp, module+"/") {
				continue
			}
			other := strings.TrimPrefix(strings.TrimPrefix(imp, module), "/")
			if other == "" {
				other = "."
			}
			if theirs := rankOf(other); theirs < 0 {
				found = append(found, fmt.Sprintf("%s: imports unknown package %s", path, other))
			} else if theirs >= mine && !(strings.HasPrefix(pkg, "internal/pb/") && strings.HasPrefix(other, "internal/pb/")) {
				found = append(found, fmt.Sprintf("%s: %s may not import %s", path, pkg, other))
			}
		}
		return nil
	})
	return found
}

func TestLayout(t *testing.T) {
	for _, v := range layout(".") {
		t.Error(v)
	}
}

// pureDirs are the packages that must be pure.
var pureDirs = []string{"protocol", "protocol/*", "internal/engine"}

// exports maps import paths to compiled export data, from the build cache.
func exports(t *testing.T, patterns ...string) types.Importer {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-e", "-export", "-deps", "-f", "{{.ImportPath}} {{.Export}}"}, patterns...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if path, file, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			files[path] = file
		}
	}
	return importer.ForCompiler(token.NewFileSet(), "gc", func(path string) (io.ReadCloser, error) { return os.Open(files[path]) })
}

// impure type-checks the package in dir and returns its violations.
func impure(dir string, imp types.Importer, only func(string) bool) ([]string, error) {
	names, _ := filepath.Glob(filepath.Join(dir, "*.go"))
	p := &purity{fset: token.NewFileSet()}
	for _, name := range names {
		if mine, err := build.Default.MatchFile(dir, filepath.Base(name)); err != nil {
			return nil, err
		} else if !mine || strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(p.fset, name, nil, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		p.files = append(p.files, f)
	}
	if len(p.files) == 0 {
		return nil, nil
	}
	p.info = &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{},
		Uses: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{},
	}
	var err error
	p.pkg, err = (&types.Config{Importer: imp}).Check(dir, p.fset, p.files, p.info)
	if err != nil {
		return nil, err
	}
	return p.check(only), nil
}

func TestPurity(t *testing.T) {
	imp := exports(t, "./protocol/...", "./internal/engine/...")
	for _, pattern := range pureDirs {
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			found, err := impure(dir, imp, nil)
			if err != nil {
				t.Errorf("%s: %v", dir, err)
			}
			for _, v := range found {
				t.Error(v)
			}
		}
	}
}

// logicFiles are the files of pure logic in packages whose other files start goroutines. The ledger
// of requests is left out: all workers share it under its lock.
var logicFiles = map[string]string{
	"internal/requests":  "core",
	"internal/execution": "apply core limits query reply session snapshot table tablecodec",
	"client":             "core query receive reply session state tally transmit",
}

// logicViolations returns the violations in the named files of dir. A stack trace of a panic is
// allowed: it reaches a log only.
func logicViolations(dir, names string, imp types.Importer) (found []string, err error) {
	files := map[string]bool{}
	for _, name := range strings.Fields(names) {
		path := filepath.Join(dir, name+".go")
		if _, err := os.Stat(path); err != nil {
			return nil, err
		}
		files[path] = true
	}
	all, err := impure(dir, imp, func(file string) bool { return files[file] })
	for _, v := range all {
		if !strings.HasSuffix(v, ": imports runtime/debug") {
			found = append(found, v)
		}
	}
	return found, err
}

func TestPurityOfLogicFiles(t *testing.T) {
	imp := exports(t, "./internal/requests", "./internal/execution", "./client")
	for dir, names := range logicFiles {
		found, err := logicViolations(dir, names, imp)
		if err != nil {
			t.Errorf("%s: %v", dir, err)
		}
		for _, v := range found {
			t.Error(v)
		}
	}
}

func TestPurityOfLogicFilesFindsPlantedViolations(t *testing.T) {
	imp := exports(t, "sync", "runtime/debug")
	for code, bad := range map[string]bool{
		`import "sync"; var l sync.Mutex`: true,
		`func f() { go shell() }`:         true,
		`import "runtime/debug"; func f() string { return string(debug.Stack()) }`: false,
	} {
		dir := t.TempDir()
		for name, src := range map[string]string{"core.go": code, "loop.go": `import "sync"; func shell() { var l sync.Mutex; l.Lock(); go shell() }`} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("package x\n"+src+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if found, err := logicViolations(dir, "core", imp); err != nil || (len(found) > 0) != bad {
			t.Errorf("%s: found %v, error %v", code, found, err)
		}
		if _, err := logicViolations(dir, "gone", imp); err == nil {
			t.Error("a file that is not there is no error")
		}
	}
}

func TestPurityFindsPlantedViolations(t *testing.T) {
	imp := exports(t, "time", "sync", "math/rand/v2", "crypto/rand", "os", "log/slog", "maps", "slices", "errors", "fmt")
	for code, bad := range map[string]bool{
		`func f() { go f() }`:                              true,
		`var _ = make(chan int)`:                           true,
		`func f(c <-chan int) { <-c }`:                     true,
		`import "sync"; type t struct{ sync.Mutex }`:       true,
		`import "time"; var _ = time.Now`:                  true,
		`import "time"; func f(x *time.Timer) {}`:          true,
		`import "time"; const d = time.Second`:             false,
		`import "math/rand/v2"; var _ = rand.IntN(3)`:      true,
		`import "math/rand/v2"; var _ = rand.NewPCG(1, 2)`: false,
		`import "crypto/rand"; var _ = rand.Reader`:        true,
		`import "os"; var _ = os.Args`:                     true,
		`import "log/slog"; var _ = slog.Info`:             true,
		`import "fmt"; func f() { fmt.Println() }`:         true,
		`var n int; func f() { n++ }`:                      true,
		`var m = map[int]int{}; func f() { m[1] = 2 }`:     true,
		`var N = 3`: true,
		`var table = [...]int{1, 2}; func f() int { return table[0] }`:                                                       false,
		`import "errors"; var ErrX = errors.New("x")`:                                                                        false,
		`func f(m map[int]int, g func(int)) { for k := range m { g(k) } }`:                                                   true,
		`func f(m map[int]int) (s []int) { for k := range m { s = append(s, k) }; return }`:                                  true,
		`import "slices"; func f(m map[int]int) (s []int) { for k := range m { s = append(s, k) }; slices.Sort(s); return }`: false,
		`func f(m map[int]int) (n int) { for _, v := range m { n += v }; return }`:                                           false,
		`func f(m map[int]string) (n string) { for _, v := range m { n += v }; return }`:                                     true,
		`func f(m map[int]int) bool { for _, v := range m { if v > 3 { return true } }; return false }`:                      false,
		`func f(m map[int]int) int { for _, v := range m { if v > 3 { return 1 }; if v < 2 { return 2 } }; return 0 }`:       true,
		`func f(m map[int]int) int { for k := range m { return k }; return 0 }`:                                              true,
		`func f(m map[int]int) { for k, v := range m { if v > 3 { delete(m, k) } } }`:                                        false,
		`func f(m map[int]int) { for k := range m { if len(m) > 3 { delete(m, k) } } }`:                                      true,
		`func f(m, o map[int]int) { for k, v := range m { o[k] = v } }`:                                                      false,
		`func f(m, o map[int]int) { for k, v := range m { o[v] = k } }`:                                                      true,
		"func f(m map[int]int, g func(int)) { for k := range m { // order-free: g adds\n g(k) } }":                           false,
		"func f(m map[int]int, g func(int)) { for k := range m { // order-free:\n g(k) } }":                                  true,
		`import "maps"; var _ = maps.Keys(map[int]int{})`:                                                                    true,
		`import ("maps"; "slices"); var _ = slices.Sorted(maps.Keys(map[int]int{}))`:                                         false,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "x.go"), []byte("package x\n"+code+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if found, err := impure(dir, imp, nil); err != nil || (len(found) > 0) != bad {
			t.Errorf("%s: found %v, error %v", code, found, err)
		}
	}
}

func TestLayoutFindsPlantedViolations(t *testing.T) {
	for pkg, c := range map[string]struct {
		imports string
		bad     bool
	}{"wire": {"protocol", true}, "network": {"storage", true}, "client": {"network", false}, "helper": {"wire", true}, "auth": {"nowhere", true}} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, pkg), 0o700); err != nil {
			t.Fatal(err)
		}
		src := fmt.Sprintf("package x\nimport _ %q\n", module+"/"+c.imports)
		if err := os.WriteFile(filepath.Join(dir, pkg, "x.go"), []byte(src), 0o600); err != nil {
			t.Fatal(err)
		}
		if found := layout(dir); (len(found) > 0) != c.bad {
			t.Errorf("%s imports %s: found %v", pkg, c.imports, found)
		}
	}
}

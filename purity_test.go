package smr_test

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"strings"
)

// purity finds what a pure package must not do. It works on type-checked syntax.
type purity struct {
	fset  *token.FileSet
	info  *types.Info
	pkg   *types.Package
	files []*ast.File
	found []string
}

func (p *purity) report(n ast.Node, format string, args ...any) {
	p.found = append(p.found, fmt.Sprintf("%s: %s", p.fset.Position(n.Pos()), fmt.Sprintf(format, args...)))
}

// impureImports may not be imported at all; "x/" stands for everything below x too.
var impureImports = []string{
	"sync/", "os/", "net/", "log/", "crypto/rand", "syscall/", "unsafe", "reflect", "runtime/", "io/ioutil", "context", "plugin", "testing/",
}

// impureFunctions are the members of otherwise allowed packages that may not be named.
var impureFunctions = map[string]string{
	"time": " Now Since Until Sleep After AfterFunc Tick NewTimer NewTicker Timer Ticker LoadLocation Local ",
	"fmt":  " Print Printf Println Scan Scanf Scanln ",
}

// seededRandom are the members of math/rand that do not touch the global source.
const seededRandom = " New NewSource NewPCG NewChaCha8 NewZipf Rand Source Source64 PCG ChaCha8 Zipf "

// check returns every violation in the named files (all if only is nil).
func (p *purity) check(only func(file string) bool) []string {
	mutated := p.mutatedVars()
	for _, f := range p.files {
		if only != nil && !only(p.fset.Position(f.Pos()).Filename) {
			continue
		}
		p.imports(f)
		p.globals(f, mutated)
		allowed := p.annotations(f)
		var parents []ast.Node
		ast.Inspect(f, func(n ast.Node) bool {
			if n == nil {
				parents = parents[:len(parents)-1]
				return true
			}
			p.node(n, parents, allowed)
			parents = append(parents, n)
			return true
		})
	}
	return p.found
}

func (p *purity) imports(f *ast.File) {
	for _, spec := range f.Imports {
		path := strings.Trim(spec.Path.Value, `"`)
		for _, bad := range impureImports {
			if path == strings.TrimSuffix(bad, "/") || strings.HasSuffix(bad, "/") && strings.HasPrefix(path, bad) {
				p.report(spec, "imports %s", path)
			}
		}
	}
}

// annotations returns the lines that carry an order-free remark with a reason.
func (p *purity) annotations(f *ast.File) map[int]bool {
	lines := map[int]bool{}
	for _, g := range f.Comments {
		for _, c := range g.List {
			if reason, ok := strings.CutPrefix(c.Text, "// order-free:"); ok && strings.TrimSpace(reason) != "" {
				lines[p.fset.Position(c.Pos()).Line] = true
			}
		}
	}
	return lines
}

func (p *purity) node(n ast.Node, parents []ast.Node, allowed map[int]bool) {
	switch n := n.(type) {
	case *ast.GoStmt:
		p.report(n, "go statement")
	case *ast.SendStmt, *ast.SelectStmt, *ast.ChanType:
		p.report(n, "channel")
	case *ast.UnaryExpr:
		if n.Op == token.ARROW {
			p.report(n, "channel")
		}
	case *ast.CallExpr:
		if id, ok := n.Fun.(*ast.Ident); ok {
			if b, ok := p.info.Uses[id].(*types.Builtin); ok && (b.Name() == "print" || b.Name() == "println") {
				p.report(n, "calls %s", b.Name())
			}
		}
	case *ast.Ident:
		p.use(n, parents)
	case *ast.RangeStmt:
		if isMap(p.info.TypeOf(n.X)) && !allowed[p.fset.Position(n.Pos()).Line] && !p.orderFree(n, parents) {
			p.report(n, "range over a map: sort, or say why order cannot matter with // order-free: reason")
		}
	}
}

// use checks the use of another package's member.
func (p *purity) use(id *ast.Ident, parents []ast.Node) {
	obj := p.info.Uses[id]
	if obj == nil || obj.Pkg() == nil || obj.Parent() != obj.Pkg().Scope() {
		return
	}
	path, name := obj.Pkg().Path(), " "+id.Name+" "
	switch {
	case strings.Contains(impureFunctions[path], name):
		p.report(id, "uses %s.%s", path, id.Name)
	case (path == "math/rand" || path == "math/rand/v2") && !strings.Contains(seededRandom, name):
		p.report(id, "uses the global source: %s.%s", path, id.Name)
	case path == "maps" && strings.Contains(" All Keys Values ", name) && !p.sortedCall(parents):
		p.report(id, "maps.%s in map order: use slices.Sorted around it", id.Name)
	}
}

// sortedCall reports whether maps.X(...) stands directly inside slices.Sorted*(...).
func (p *purity) sortedCall(parents []ast.Node) bool {
	for i := len(parents) - 1; i >= 0 && i >= len(parents)-4; i-- {
		if call, ok := parents[i].(*ast.CallExpr); ok && strings.HasPrefix(p.callee(call), "slices.Sorted") {
			return true
		}
	}
	return false
}

// callee renders a call's function as package.name; empty for anything else.
func (p *purity) callee(call *ast.CallExpr) string {
	fun := call.Fun
	if ix, ok := fun.(*ast.IndexExpr); ok {
		fun = ix.X
	}
	if sel, ok := fun.(*ast.SelectorExpr); ok {
		if obj := p.info.Uses[sel.Sel]; obj != nil && obj.Pkg() != nil && obj.Parent() == obj.Pkg().Scope() {
			return obj.Pkg().Path() + "." + obj.Name()
		}
	}
	return ""
}

func isMap(t types.Type) bool {
	if t == nil {
		return false
	}
	if tp, ok := types.Unalias(t).(*types.TypeParam); ok {
		it, _ := tp.Constraint().Underlying().(*types.Interface)
		for i := 0; it != nil && i < it.NumEmbeddeds(); i++ {
			if u, ok := it.EmbeddedType(i).(*types.Union); ok {
				for j := range u.Len() {
					if isMap(u.Term(j).Type()) {
						return true
					}
				}
			}
		}
		return false
	}
	_, ok := t.Underlying().(*types.Map)
	return ok
}

// globals flags package-level variables other than errors and tables that nothing changes.
func (p *purity) globals(f *ast.File, mutated map[types.Object]bool) {
	errorType := types.Universe.Lookup("error").Type()
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			continue
		}
		for _, spec := range g.Specs {
			for _, id := range spec.(*ast.ValueSpec).Names {
				obj := p.info.Defs[id]
				switch {
				case id.Name == "_" || obj == nil:
				case mutated[obj]:
					p.report(id, "package variable %s is changed", id.Name)
				case types.Identical(obj.Type(), errorType):
				case ast.IsExported(id.Name):
					p.report(id, "exported package variable %s that is no error: others can change it", id.Name)
				}
			}
		}
	}
}

// mutatedVars returns the package variables that some statement assigns to, increments, takes the
// address of, deletes from, clears, copies into, or calls a pointer method on.
func (p *purity) mutatedVars() map[types.Object]bool {
	out := map[types.Object]bool{}
	mark := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
			case *ast.SelectorExpr:
				e = x.X
			case *ast.StarExpr:
				e = x.X
			case *ast.ParenExpr:
				e = x.X
			case *ast.SliceExpr:
				e = x.X
			case *ast.Ident:
				if v, ok := p.info.Uses[x].(*types.Var); ok && v.Parent() == p.pkg.Scope() {
					out[v] = true
				}
				return
			default:
				return
			}
		}
	}
	for _, f := range p.files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				for _, e := range n.Lhs {
					mark(e)
				}
			case *ast.IncDecStmt:
				mark(n.X)
			case *ast.RangeStmt:
				if n.Tok == token.ASSIGN {
					mark(n.Key)
					mark(n.Value)
				}
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					mark(n.X)
				}
			case *ast.CallExpr:
				if id, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 && strings.Contains(" delete clear copy append ", " "+id.Name+" ") {
					mark(n.Args[0])
				}
				if sel, ok := n.Fun.(*ast.SelectorExpr); ok {
					if s := p.info.Selections[sel]; s != nil && s.Kind() == types.MethodVal && pointerMethod(s) {
						mark(sel.X)
					}
				}
			}
			return true
		})
	}
	return out
}

func pointerMethod(s *types.Selection) bool {
	sig, ok := s.Obj().Type().(*types.Signature)
	if !ok || sig.Recv() == nil {
		return false
	}
	_, ptr := sig.Recv().Type().(*types.Pointer)
	return ptr
}

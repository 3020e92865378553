package smr_test

import (
	"go/ast"
	"go/token"
	"go/types"
	"strings"
)

// loop is what the body of a range over a map was seen to do.
type loop struct {
	p        *purity
	key      types.Object
	effects  bool            // changes something that outlives the iteration
	exits    bool            // leaves the loop early
	collects map[string]bool // slices appended to, as written
	changed  []string        // what is changed, as written without indexes
	reads    []string        // what conditions and values read, as written
	result   string          // of the first early exit
}

// dependent reports whether the body reads what it changes, by name.
func (l *loop) dependent() bool {
	for _, c := range l.changed {
		for _, r := range l.reads {
			if c == r || strings.HasPrefix(c, r+".") || strings.HasPrefix(r, c+".") {
				return true
			}
		}
	}
	return false
}

func (l *loop) change(e ast.Expr) {
	for {
		ix, ok := e.(*ast.IndexExpr)
		if !ok {
			break
		}
		e = ix.X
	}
	l.effects = true
	l.changed = append(l.changed, types.ExprString(e))
}

// leave notes an early exit; all must be the same.
func (l *loop) leave(how string) bool {
	same := !l.exits || l.result == how
	l.exits, l.result = true, how
	return same
}

// orderFree proves by simple rules that the order of a range over a map cannot matter: the body
// only collects into slices that are sorted right after, deletes, counts, sums integers, takes max
// or min, fills a map or set per key, or leaves early with a constant and does nothing else.
func (p *purity) orderFree(r *ast.RangeStmt, parents []ast.Node) bool {
	l := &loop{p: p, collects: map[string]bool{}}
	if id, ok := r.Key.(*ast.Ident); ok {
		l.key = p.info.Defs[id]
	}
	if r.Tok == token.ASSIGN || !l.block(r.Body.List) || l.dependent() || l.exits && l.effects {
		return false
	}
	if len(l.collects) == 0 {
		return true
	}
	return len(parents) > 0 && p.sortedAfter(r, parents[len(parents)-1], l.collects)
}

// sortedAfter reports whether the statements right after r sort every collected slice.
func (p *purity) sortedAfter(r ast.Stmt, parent ast.Node, collects map[string]bool) bool {
	var list []ast.Stmt
	switch b := parent.(type) {
	case *ast.BlockStmt:
		list = b.List
	case *ast.CaseClause:
		list = b.Body
	}
	left, after := len(collects), false
	for _, s := range list {
		if s == r {
			after = true
			continue
		}
		if !after {
			continue
		}
		e, ok := s.(*ast.ExprStmt)
		if !ok {
			break
		}
		call, ok := e.X.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			break
		}
		name := p.callee(call)
		if !(strings.HasPrefix(name, "slices.Sort") || strings.HasPrefix(name, "sort.")) || !collects[types.ExprString(call.Args[0])] {
			break
		}
		left--
	}
	return left <= 0
}

func (l *loop) block(list []ast.Stmt) bool {
	for _, s := range list {
		if !l.stmt(s) {
			return false
		}
	}
	return true
}

func (l *loop) stmt(s ast.Stmt) bool {
	switch s := s.(type) {
	case nil:
		return true
	case *ast.BlockStmt:
		return l.block(s.List)
	case *ast.IfStmt:
		return l.stmt(s.Init) && l.plain(s.Cond) && l.block(s.Body.List) && l.stmt(s.Else)
	case *ast.BranchStmt:
		return s.Label == nil && (s.Tok == token.CONTINUE || s.Tok == token.BREAK && l.leave("break"))
	case *ast.ReturnStmt:
		how := "return"
		for _, e := range s.Results {
			if !l.constant(e) {
				return false
			}
			how += " " + types.ExprString(e)
		}
		return l.leave(how)
	case *ast.IncDecStmt:
		l.change(s.X)
		return l.integer(s.X)
	case *ast.ExprStmt:
		call, ok := s.X.(*ast.CallExpr)
		if !ok {
			return false
		}
		id, ok := call.Fun.(*ast.Ident)
		if !ok || id.Name != "delete" || !l.builtin(id) {
			return false
		}
		l.change(call.Args[0])
		return l.plain(call.Args[1])
	case *ast.AssignStmt:
		return l.assign(s)
	}
	return false
}

func (l *loop) assign(s *ast.AssignStmt) bool {
	switch s.Tok {
	case token.DEFINE:
		for _, e := range s.Rhs {
			if !l.plain(e) {
				return false
			}
		}
		return true
	case token.ADD_ASSIGN, token.OR_ASSIGN, token.AND_ASSIGN, token.XOR_ASSIGN:
		l.change(s.Lhs[0])
		return l.integer(s.Lhs[0]) && l.plain(s.Rhs[0])
	case token.ASSIGN:
	default:
		return false
	}
	if len(s.Lhs) != 1 || len(s.Rhs) != 1 {
		return false
	}
	left, right := s.Lhs[0], s.Rhs[0]
	if call, ok := right.(*ast.CallExpr); ok && len(call.Args) > 0 && types.ExprString(call.Args[0]) == types.ExprString(left) {
		if id, ok := call.Fun.(*ast.Ident); ok && l.builtin(id) {
			for _, a := range call.Args[1:] {
				if !l.plain(a) {
					return false
				}
			}
			switch id.Name {
			case "append":
				l.collects[types.ExprString(left)] = true
				l.change(left)
				return true
			case "max", "min":
				l.change(left)
				return true
			}
		}
		return false
	}
	ix, ok := left.(*ast.IndexExpr)
	if !ok || !isMap(l.p.info.TypeOf(ix.X)) || !l.plain(right) {
		return false
	}
	l.change(left)
	id, ok := ix.Index.(*ast.Ident)
	return ok && l.key != nil && l.p.info.Uses[id] == l.key || l.plain(ix.Index) && l.constant(right)
}

func (l *loop) builtin(id *ast.Ident) bool {
	_, ok := l.p.info.Uses[id].(*types.Builtin)
	return ok
}

func (l *loop) integer(e ast.Expr) bool {
	t := l.p.info.TypeOf(e)
	if t == nil {
		return false
	}
	b, ok := t.Underlying().(*types.Basic)
	return ok && b.Info()&types.IsInteger != 0
}

func (l *loop) constant(e ast.Expr) bool {
	if tv := l.p.info.Types[e]; tv.Value != nil || tv.IsNil() {
		return true
	}
	c, ok := e.(*ast.CompositeLit)
	return ok && len(c.Elts) == 0
}

// plain reports whether evaluating e changes nothing: no calls but builtins that compute and
// conversions, no function literals.
func (l *loop) plain(e ast.Expr) bool {
	ok := true
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			ok = false
		case *ast.SelectorExpr:
			l.reads = append(l.reads, types.ExprString(n))
			_, bare := n.X.(*ast.Ident)
			return !bare
		case *ast.Ident:
			l.reads = append(l.reads, n.Name)
		case *ast.CallExpr:
			if l.p.info.Types[n.Fun].IsType() {
				return true
			}
			id, isIdent := n.Fun.(*ast.Ident)
			if !isIdent || !l.builtin(id) || !strings.Contains(" len cap max min ", " "+id.Name+" ") {
				ok = false
			}
		}
		return ok
	})
	return ok
}

package carebus_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/carebus/carebus"

// allowed is which packages of ours a package may import; arrows go only downward. Tests may import anything.
var allowed = map[string][]string{
	"event":                 {},
	"schema":                {"event"},
	"catalog":               {},
	"catalog/gen":           {"codegen"},
	"catalog/*":             {"catalog", "event"},
	"eventstore":            {"event", "eventstore/driver"},
	"eventstore/driver":     {"event"},
	"eventstore/drivertest": {"event", "eventstore/driver"},
	"eventstore/sqlite":     {"event", "eventstore/driver"},
	"eventstore/postgres":   {"event", "eventstore/driver"},
	"eventstore/migrate":    {"eventstore/driver", "eventstore/sqlite", "eventstore/postgres"},
	"eventstore/archive":    {"eventstore/driver", "eventstore/migrate"},
	"eventstore/storetest":  {"event", "eventstore", "eventstore/driver", "eventstore/sqlite", "eventstore/postgres"},
	"bus":                   {"event", "eventstore"},
	"bus/kafka":             {"event", "eventstore", "bus"},
	"fhir":                  {"event"},
	"aggregate":             {"event", "eventstore", "bus"},
	"timer":                 {"event", "eventstore"},
	"saga":                  {"event", "eventstore", "bus", "timer"},
	"projection":            {"event", "eventstore", "bus"},
	"asyncapi":              {"schema", "flow"},
	"codegen":               {"schema"},
	"auth":                  {"bus"},
	"confluent":             {"event", "schema", "eventstore"},
	"bridge":                {"bus", "catalog/platform", "confluent", "event", "eventstore"},
	"gateway":               {"", "asyncapi", "auth", "bus", "catalog/platform", "confluent", "event", "eventstore", "flow", "projection", "saga", "schema"},
	// It knows what it shows; nothing but the program knows it.
	"console":     {"", "auth", "bus", "catalog/platform", "event", "eventstore", "flow", "gateway", "projection", "saga", "schema"},
	"telemetry":   {"", "bus", "catalog", "event", "eventstore", "projection", "saga", "schema"},
	"carebustest": {"", "aggregate", "bus", "event", "eventstore", "eventstore/storetest"},
	"services/*":  {"", "event", "schema", "eventstore", "bus", "aggregate", "projection", "saga", "timer", "catalog", "catalog/*"}, // what a customer has
	// The saga is the pharmacy's own workflow: it reserves and dispenses in the transaction of its step.
	"services/fulfillment": {"", "event", "schema", "eventstore", "bus", "aggregate", "projection", "saga", "timer", "catalog", "catalog/*", "services/pharmacy"},
	// They stand for people and for those who look over everybody's shoulder.
	"services/simulation": {"", "event", "eventstore", "bus", "aggregate", "catalog", "catalog/*", "services/*"},
	"services/audit":      {"", "event", "eventstore", "aggregate", "projection", "catalog", "catalog/*", "services/*"},
	"flow":                {"event", "eventstore", "bus"},
	"":                    {"event", "schema", "catalog", "eventstore", "eventstore/driver", "eventstore/sqlite", "eventstore/postgres", "bus", "bus/kafka", "timer"},
	"scaling":             {},
	"cmd/carebus":         nil, // anything
}

type file struct {
	dir, path string
	ast       *ast.File
	fset      *token.FileSet
	lines     int
}

func sources(t *testing.T) (out []file) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		f := file{path: filepath.ToSlash(path), fset: token.NewFileSet()}
		if f.dir = filepath.ToSlash(filepath.Dir(path)); f.dir == "." {
			f.dir = ""
		}
		if f.ast, err = parser.ParseFile(f.fset, path, nil, parser.ParseComments); err != nil {
			return err
		}
		f.lines = f.fset.File(f.ast.Pos()).LineCount()
		out = append(out, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestImportsGoDownward(t *testing.T) {
	for _, f := range sources(t) {
		if strings.HasSuffix(f.path, "_test.go") {
			continue
		}
		may, ok := allowed[f.dir]
		if parent, _, under := strings.Cut(f.dir, "/"); !ok && under {
			may, ok = allowed[parent+"/*"]
		}
		if !ok {
			t.Errorf("%s: package %q is not in the list of packages and what they may import", f.path, f.dir)
			continue
		}
		for _, spec := range f.ast.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			of, ours := strings.CutPrefix(path, module)
			of = strings.TrimPrefix(of, "/")
			parent, _, _ := strings.Cut(of, "/")
			if ours && may != nil && !slices.Contains(may, of) && !slices.Contains(may, parent+"/*") {
				t.Errorf("%s imports %q; %q may import %v", f.path, of, f.dir, may)
			}
			if f.dir != "eventstore/sqlite" && f.dir != "cmd/carebus" && strings.HasPrefix(path, "modernc.org/") {
				t.Errorf("%s imports the engine's library; only eventstore/sqlite knows it", f.path)
			}
		}
	}
}

// TestExportedNamesAreDocumented also wants a comment and an example for every package that users import.
func TestExportedNamesAreDocumented(t *testing.T) {
	documented, examples := map[string]bool{}, map[string]bool{}
	for _, f := range sources(t) {
		if f.ast.Doc != nil {
			documented[f.dir] = true
		}
		test := strings.HasSuffix(f.path, "_test.go")
		for _, d := range f.ast.Decls {
			fn, isFunc := d.(*ast.FuncDecl)
			if test {
				if isFunc && strings.HasPrefix(fn.Name.Name, "Example") {
					examples[f.dir] = true
				}
				continue
			}
			if isFunc && fn.Name.IsExported() && fn.Doc == nil && (fn.Recv == nil || receiverExported(fn)) && !selfEvident(fn.Name.Name) {
				t.Errorf("%s: %s has no comment", f.fset.Position(fn.Pos()), fn.Name.Name)
			}
			if gen, ok := d.(*ast.GenDecl); ok {
				for _, s := range gen.Specs {
					if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.IsExported() && ts.Doc == nil && gen.Doc == nil {
						t.Errorf("%s: %s has no comment", f.fset.Position(ts.Pos()), ts.Name.Name)
					}
				}
			}
		}
		if f.lines > 900 {
			t.Errorf("%s has %d lines; split it", f.path, f.lines)
		}
	}
	for dir := range allowed {
		if strings.HasSuffix(dir, "*") {
			continue
		}
		if !documented[dir] {
			t.Errorf("package %q has no package comment", dir)
		}
		if !examples[dir] && dir != "cmd/carebus" && dir != "catalog/gen" && !strings.HasPrefix(dir, "eventstore/driver") {
			t.Errorf("package %q has no runnable example", dir)
		}
	}
}

// selfEvident methods are those of well-known interfaces.
func selfEvident(name string) bool {
	return slices.Contains([]string{"Error", "Unwrap", "Is", "String", "MarshalJSON", "UnmarshalJSON", "MarshalText", "UnmarshalText"}, name)
}

func receiverExported(fn *ast.FuncDecl) bool {
	t := fn.Recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}

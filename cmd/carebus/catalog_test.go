package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"testing"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/event"
)

// TestGoNames: the Go names that the catalog command tells exist in the generated packages.
func TestGoNames(t *testing.T) {
	declared := map[string]bool{}
	paths, err := filepath.Glob(filepath.Join("..", "..", "catalog", "*", "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no generated packages: %v", err)
	}
	for _, path := range paths {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, src, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			gen, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range gen.Specs {
				switch s := s.(type) {
				case *ast.TypeSpec:
					declared[f.Name.Name+"."+s.Name.Name] = true
				case *ast.ValueSpec:
					for _, n := range s.Names {
						declared[f.Name.Name+"."+n.Name] = true
					}
				}
			}
		}
	}
	for _, e := range catalog.Entries() {
		payload, definition := goNames(e)
		if !declared[payload] || !declared[definition] {
			t.Errorf("%s %s: %s or %s is not declared", e.Type, e.Version, payload, definition)
		}
	}
}

// TestMembers: every member that some example has is told of.
func TestMembers(t *testing.T) {
	for _, e := range catalog.Entries() {
		members, err := membersOf(e.Schema)
		if err != nil {
			t.Errorf("%s %s: %v", e.Type, e.Version, err)
			continue
		}
		seen := map[string]bool{}
		for _, m := range members {
			if seen[m.Name] || m.Type == "" || m.Description == "" {
				t.Errorf("%s %s: member %+v is told twice, or lacks type or description", e.Type, e.Version, m)
			}
			seen[m.Name] = true
		}
	}
}

// TestExampleEvents: what the catalog shows as an example can be published as it stands.
func TestExampleEvents(t *testing.T) {
	p, err := carebus.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, e := range catalog.Entries() {
		example, _, err := event.Parse(exampleEvent(e), nil)
		if err != nil {
			t.Errorf("%s %s: %v", e.Type, e.Version, err)
			continue
		}
		if _, _, err := p.Check(t.Context(), example); err != nil {
			t.Errorf("%s %s: %v", e.Type, e.Version, err)
		}
	}
}

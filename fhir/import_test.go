package fhir_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/carebus/carebus/fhir"
)

func dataDir(t testing.TB, parts ...string) string {
	root := os.Getenv("CAREBUS_TEST_DATA")
	if root == "" {
		root = filepath.Join("..", "..", "shared", "data")
	}
	dir := filepath.Join(append([]string{root}, parts...)...)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("real data absent: %s", filepath.Join(parts...))
	}
	return dir
}

func TestReal(t *testing.T) {
	dir := dataDir(t, "fhir-dev")
	n := 0
	rep, err := fhir.New(nil).Run(context.Background(), []string{dir}, func(_ context.Context, items []fhir.Item) error {
		n += len(items)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(n, rep.Total, rep.Events, rep.Files, rep.Bundles, rep.Ignored, rep.Undated, rep.Warnings)
	for k, c := range rep.ByType {
		t.Log(k, c)
	}
	for _, p := range rep.Problems[:min(20, len(rep.Problems))] {
		t.Log(p)
	}
}

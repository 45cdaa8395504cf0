package payer_test

import (
	"fmt"
	"testing"

	"github.com/carebus/carebus/services/payer"
)

func defaultRules(t testing.TB) *payer.Rules {
	t.Helper()
	rules, err := payer.DefaultRules()
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func consistent(d payer.Decision, f payer.Facts) error {
	if d.Outcome == "" {
		return fmt.Errorf("no outcome")
	}
	return nil
}

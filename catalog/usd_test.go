package catalog_test

import (
	"encoding/json"
	"errors"
	"math"
	"testing"

	"github.com/carebus/carebus/catalog"
)

func TestUSDReadsWholeCents(t *testing.T) {
	for in, want := range map[string]catalog.USD{
		"0": 0, "-0": 0, "10": 1000, "10.5": 1050, "10.50": 1050, "10.500": 1050, "0.01": 1, "-35.5": -3550, "1e2": 10000,
		"1.05E1": 1050, "1050e-2": 1050, "5e-2": 5, "0e100": 0, "0.00e-50": 0, "92233720368547758.07": math.MaxInt64,
	} {
		var got catalog.USD
		if err := json.Unmarshal([]byte(in), &got); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestUSDRefuses(t *testing.T) {
	for _, in := range []string{"10.505", "1e-3", "92233720368547758.08", "1e30", "1e999999999999", `"10.50"`, "true", "[]"} {
		got := catalog.USD(7)
		if err := json.Unmarshal([]byte(in), &got); !errors.Is(err, catalog.ErrUSD) || got != 7 {
			t.Errorf("%s: %d, %v; want ErrUSD and the value left alone", in, got, err)
		}
	}
}

func TestUSDWritesTwoPlaces(t *testing.T) {
	for in, want := range map[catalog.USD]string{
		0: "0.00", 1: "0.01", -1: "-0.01", 99: "0.99", 1050: "10.50", -3550: "-35.50",
		math.MaxInt64: "92233720368547758.07", math.MinInt64: "-92233720368547758.08",
	} {
		if text, err := json.Marshal(in); err != nil || string(text) != want || in.String() != want {
			t.Errorf("%d: %s, %v; want %s", int64(in), text, err, want)
		}
	}
}

func FuzzUSD(f *testing.F) {
	for _, s := range []string{"10.50", "-1e2", "1050e-2", "0.001", "1e-101", "1."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var a, b catalog.USD
		if !json.Valid([]byte(in)) || a.UnmarshalJSON([]byte(in)) != nil {
			return
		}
		if err := json.Unmarshal([]byte(a.String()), &b); err != nil || a != b {
			t.Errorf("%q is %s, which reads as %s, %v", in, a, b, err)
		}
	})
}

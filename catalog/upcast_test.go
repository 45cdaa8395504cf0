package catalog_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/carebus/carebus/catalog"
)

func upcaster(t *testing.T, eventType string, from int) catalog.Upcaster {
	t.Helper()
	for _, u := range catalog.Upcasters() {
		if u.Type == eventType && u.From == from {
			return u
		}
	}
	t.Fatalf("no upcaster of %s from %d", eventType, from)
	return catalog.Upcaster{}
}

func TestEveryMajorButTheFirstHasAnUpcaster(t *testing.T) {
	have := map[string]map[int]bool{}
	for _, u := range catalog.Upcasters() {
		if u.To != u.From+1 || u.Func == nil {
			t.Errorf("%s: upcaster from %d to %d", u.Type, u.From, u.To)
		}
		if have[u.Type] == nil {
			have[u.Type] = map[int]bool{}
		}
		have[u.Type][u.To] = true
	}
	for _, e := range catalog.Entries() {
		if major := int(e.Version[0] - '0'); major > 1 && !have[e.Type][major] {
			t.Errorf("%s has major %d and no upcaster to it", e.Type, major)
		}
	}
}

func TestFilledExamplesUpcastToValidOnes(t *testing.T) {
	const filled = "medication.prescription.filled"
	old, _ := catalog.Lookup(filled, "1.0.0")
	next, _ := catalog.Lookup(filled, "2.0.0")
	schema, u := compile(t, next), upcaster(t, filled, 1)
	if len(old.Examples) < 2 {
		t.Fatal("version 1.0.0 must show both early shapes")
	}
	for i, example := range old.Examples {
		before := string(example)
		out, err := u.Func(example)
		if err != nil {
			t.Errorf("example %d: %v", i, err)
			continue
		}
		if err := schema.Validate(value(t, out)); err != nil {
			t.Errorf("example %d: %v", i, err)
		}
		if string(example) != before {
			t.Errorf("example %d: the old payload was changed", i)
		}
	}
}

func TestFilledUpcast(t *testing.T) {
	const rest = `"filledAt":"2023-03-01T10:00:00Z","patientId":"P1"`
	tests := []struct{ name, in, want string }{
		{"flat",
			`{"prescriptionId":"RX1",` + rest + `,"medicationCode":"12345","medicationName":"Lisinopril","quantity":30.50,"daysSupply":30,"pharmacyId":"PH1","prescriberId":"PR1"}`,
			`{` + rest + `,"prescriptionId":"RX1","medication":{"code":{"code":"12345"},"name":"Lisinopril","quantity":30.50,"daysSupply":30},"pharmacy":{"id":"PH1"},"prescriber":{"id":"PR1"}}`},
		{"nested stays",
			`{` + rest + `,"prescriptionId":"RX1","medication":{"ndc":"00093505698"},"pharmacy":{"id":"PH1"},"prescriber":{"npi":"1234567890"},"cost":{"totalCost":35.50}}`,
			`{` + rest + `,"prescriptionId":"RX1","medication":{"ndc":"00093505698"},"pharmacy":{"id":"PH1"},"prescriber":{"npi":"1234567890"},"cost":{"totalCost":35.50}}`},
		{"both: nested stands, flat fills",
			`{` + rest + `,"prescriptionId":"RX1","medication":{"name":"nested"},"medicationName":"flat","quantity":7}`,
			`{` + rest + `,"prescriptionId":"RX1","medication":{"name":"nested","quantity":7},"pharmacy":{},"prescriber":{}}`},
		{"least",
			`{` + rest + `,"prescriptionId":"RX1"}`,
			`{` + rest + `,"prescriptionId":"RX1","medication":{},"pharmacy":{},"prescriber":{}}`},
		{"unknown members are carried",
			`{` + rest + `,"prescriptionId":"RX1","robot":{"arm":12345678901234567890}}`,
			`{` + rest + `,"prescriptionId":"RX1","medication":{},"pharmacy":{},"prescriber":{},"robot":{"arm":12345678901234567890}}`},
	}
	u := upcaster(t, "medication.prescription.filled", 1)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := u.Func(json.RawMessage(tt.in))
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range differences("", value(t, []byte(tt.want)), value(t, out)) {
				t.Error(d)
			}
			if strings.Contains(tt.want, "30.50") && !strings.Contains(string(out), "30.50") {
				t.Error("a number was written anew")
			}
		})
	}
}

func TestFilledUpcastRefusesWithoutQuoting(t *testing.T) {
	u := upcaster(t, "medication.prescription.filled", 1)
	for in, place := range map[string]string{
		`"secret"`: "/payload is", `null`: "/payload is", `{"secret`: "/payload is",
		`{"medication":"secret","quantity":1}`:                    "/payload/medication is",
		`{"medication":{"code":"secret"},"medicationCode":"1"}`:   "/payload/medication/code is",
		`{"pharmacy":["secret"],"pharmacyId":"PH1","quantity":1}`: "/payload/pharmacy is",
	} {
		_, err := u.Func(json.RawMessage(in))
		if err == nil || !strings.Contains(err.Error(), place) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v; want an error that says %q and quotes nothing", in, err, place)
		}
	}
}

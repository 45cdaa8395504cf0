package safety_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/carebus/carebus/services/safety"
)

func TestBetween(t *testing.T) {
	in, err := safety.DefaultInteractions()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ a, b, want string }{
		{warfarin, naproxen, "DDI-NSAID-WARFARIN"},
		{"11289", "7258", "DDI-NSAID-WARFARIN"}, // by ingredient
		{"11289", ibuprofen, "DDI-NSAID-WARFARIN"},
		{simvastatin, "21212", "DDI-MACROLIDE-SIMVASTATIN"},
		{"29046", "9997", "DDI-ACE-K"},
		{"8123", "36437", "DDI-MAOI-SSRI"},
		{"860975", "5956", "DDI-METFORMIN-CONTRAST"},
		{"999967", simvastatin, "DDI-AMLODIPINE-SIMVASTATIN"}, // amlodipine, hydrochlorothiazide and olmesartan
		{"999967", "314076", "DDI-ACE-ARB"},
		{"999967", "197361", ""}, // amlodipine twice is no interaction
		{naproxen, ibuprofen, ""},
		{warfarin, warfarin, ""},
		{warfarin, "no-such", ""},
		{"", "", ""},
	} {
		for range 2 {
			var ids []string
			for _, i := range in.Between(tt.a, tt.b) {
				ids = append(ids, i.ID)
			}
			if got := strings.Join(ids, " "); got != tt.want {
				t.Errorf("%s and %s: %q, want %q", tt.a, tt.b, got, tt.want)
			}
			tt.a, tt.b = tt.b, tt.a
		}
	}
}

func TestLoadInteractionsRefuses(t *testing.T) {
	good := `{"format": "carebus.interactions/1", "id": "x", "version": "1",
		"drugs": {"a": {"rxcui": "1", "products": ["10"]}, "b": {"rxcui": "2", "products": []}},
		"classes": {"c": ["b"]},
		"rules": [{"id": "R1", "between": ["a", "c"], "severity": "high", "description": "d", "recommendation": "r", "source": "s"}]}`
	if in, err := safety.LoadInteractions([]byte(good)); err != nil || len(in.Between("2", "10")) != 1 {
		t.Fatalf("%v, %v", in, err)
	}
	for _, tt := range []struct{ old, new, want string }{
		{`"carebus.interactions/1"`, `"carebus.interactions/2"`, "format"},
		{`"version": "1"`, `"version": ""`, "version"},
		{`"rxcui": "1"`, `"rxcui": ""`, "drugs.a"},
		{`"rxcui": "2"`, `"rxcui": "1"`, "keep one"},
		{`["10"]`, `["10", "10"]`, "product 2"},
		{`"c": ["b"]`, `"c": ["z"]`, "no drug"},
		{`"c": ["b"]`, `"c": []`, "empty"},
		{`"c": ["b"]`, `"c": ["b"], "a": ["b"]`, "name the class anew"},
		{`["a", "c"]`, `["a", "z"]`, "neither"},
		{`["a", "c"]`, `["a"]`, "between"},
		{`"high"`, `"terrible"`, "severity"},
		{`"source": "s"`, `"source": ""`, "source"},
		{`"id": "R1"`, `"id": ""`, "rules[0]"},
		{`"source": "s"`, `"source": "s", "more": 1`, "more"},
		{`"s"}]}`, `"s"}]} {}`, "more after"},
	} {
		bad := strings.Replace(good, tt.old, tt.new, 1)
		if bad == good {
			t.Fatalf("%s does not occur", tt.old)
		}
		if _, err := safety.LoadInteractions([]byte(bad)); !errors.Is(err, safety.ErrInteractions) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want a word of %s", tt.new, err, tt.want)
		}
	}
}

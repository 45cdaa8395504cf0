package fhir

import (
	"encoding/json"

	"github.com/carebus/carebus/event"
)

// obj is a payload under construction. Empty members are left out.
type obj map[string]any

func (o obj) set(name string, v any) obj {
	switch v := v.(type) {
	case string:
		if v == "" {
			return o
		}
	case json.Number:
		if v == "" {
			return o
		}
	case obj:
		if len(v) == 0 {
			return o
		}
	case []obj:
		if len(v) == 0 {
			return o
		}
	case []string:
		if len(v) == 0 {
			return o
		}
	}
	o[name] = v
	return o
}

// emit drafts an event of the version of the catalog that this package writes.
func (m *mapping) emit(typ string, p obj, entity string, at moment) {
	version := "1.0.0"
	if typ == "medication.prescription.filled" {
		version = "2.0.0"
	}
	m.add(event.Define[obj](typ, version).New("fhir-import", p), entity, at)
}

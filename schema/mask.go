package schema

import (
	"encoding/json"
	"slices"

	"github.com/carebus/carebus/event"
)

// masked stands for a value that is not shown.
const masked = "•••"

// Mask returns the payload as it may be shown to people: every value that the schema marks with x-phi is replaced by
// "•••", whatever its type, and so is every value that no schema speaks of. A version that is not registered is masked as
// the highest known one of its major; of an unknown type, every value but the names and the structure is masked. The
// result is new text with its members sorted. A payload that is not valid JSON becomes "•••" as a whole.
func (r *Registry) Mask(e event.Event) json.RawMessage {
	v, err := parseDocument(e.Payload)
	if err != nil {
		return json.RawMessage(`"` + masked + `"`)
	}
	var schemas []*node
	if found, err := r.readAs(e.Type, e.Version); err == nil {
		schemas = []*node{found.model.root}
	}
	return json.RawMessage(canonical(mask(v, schemas)))
}

// mask masks what stands at a place that the schemas speak of.
func mask(v any, schemas []*node) any {
	at := applied(schemas)
	if slices.ContainsFunc(at, func(n *node) bool { return marked(n.raw["x-phi"]) }) {
		return masked
	}
	switch v := v.(type) {
	case object:
		out := object{}
		for name, value := range v {
			var below []*node
			for _, n := range at {
				found, _ := n.member(name)
				below = append(below, found...)
			}
			out[name] = mask(value, below)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, value := range v {
			var below []*node
			for _, n := range at {
				if item := n.item(i); item != nil {
					below = append(below, item)
				}
			}
			out[i] = mask(value, below)
		}
		return out
	}
	if len(at) == 0 {
		return masked
	}
	return v
}

// applied lists the schemas with everything that may apply at the same place: references, and the branches of all
// alternatives, whichever of them hold.
func applied(schemas []*node) []*node {
	var list []*node
	for _, n := range schemas {
		list = appendApplied(list, n)
	}
	return list
}

func appendApplied(list []*node, n *node) []*node {
	if slices.Contains(list, n) || n.raw == nil {
		return list
	}
	list = append(list, n)
	for _, branch := range n.inPlace() {
		list = appendApplied(list, branch)
	}
	return list
}

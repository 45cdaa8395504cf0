package schema

import (
	"encoding/json"
	"slices"
	"strings"
)

// Change is one difference between two versions of a schema.
type Change struct {
	Pointer string `json:"pointer"`          // JSON pointer into the new document, or into the old one for what is gone
	Rule    string `json:"rule"`             // stable name of the rule: "property-removed"
	Message string `json:"message"`          // what changed
	Remedy  string `json:"remedy,omitempty"` // what to do instead, for changes that need a new major
	Bump    Bump   `json:"bump"`             // the step that this change alone needs
}

func (c Change) String() string {
	at := c.Pointer
	if at == "" {
		at = "(document)"
	}
	s := at + ": " + c.Message + " [" + c.Rule + ", " + c.Bump.String() + "]"
	if c.Remedy != "" {
		s += "; " + c.Remedy
	}
	return s
}

// Diff lists what changed from one schema document to the next, the gravest first, and the step of the version that all
// of it needs. A document that cannot be read is an error.
//
// A step below Major is proven safe: everything that producers of the old version may publish is valid in the new one,
// and everything that producers of the new version may publish is accepted by consumers of the old one. Producers are
// held to the members that their version declares, consumers let unknown members pass. What cannot be proven is Major,
// and its message says so. None means that nothing differs which this package gives a meaning.
func Diff(from, to json.RawMessage) ([]Change, Bump, error) {
	a, err := loadDocument(from)
	if err != nil {
		return nil, None, err
	}
	b, err := loadDocument(to)
	if err != nil {
		return nil, None, err
	}
	changes := diffDocuments(a, b)
	return changes, required(changes), nil
}

// required is the step that all the changes need together.
func required(changes []Change) Bump {
	need := None
	for _, c := range changes {
		need = max(need, c.Bump)
	}
	return need
}

// verdict is the outcome of both questions about two versions.
type verdict struct {
	backward, forward []breach
}

// compare asks whether old producers stay valid (backward) and whether old consumers accept what new producers send
// (forward).
func compare(from, to *document) verdict {
	return verdict{
		backward: breaches(from.root, to.root, true, true),
		forward:  breaches(to.root, from.root, true, false),
	}
}

// breaches lists what sup demands and sub does not guarantee; nil when sub ⊆ sup is proven.
func breaches(sub, sup *node, subClosed, supClosed bool) []breach {
	p := newProof(subClosed, supClosed)
	if p.place(subject{nodes: []*node{sub}}, sup) {
		return nil
	}
	if len(p.breaches) == 0 {
		p.breaches = []breach{{keyword: "complexity", sub: sub, sup: sup, unproven: "the schemas are too complex to compare"}}
	}
	return p.breaches
}

func diffDocuments(from, to *document) []Change {
	if canonical(from.tree) == canonical(to.tree) {
		return nil
	}
	var changes []Change
	if !sameSchema(from.root, to.root) {
		changes = merge(compare(from, to))
	}
	changes = append(changes, meanings(from, to)...)
	if required(changes) < Minor && breaches(to.root, from.root, true, true) != nil && !sameSchema(from.root, to.root) {
		changes = append(changes, Change{
			Rule: "accepts-more", Message: "producers may send more than before, all of which old consumers accept", Bump: Minor,
		})
	}
	return arrange(changes)
}

// arrange sorts changes by gravity, then by place, and drops what is said twice.
func arrange(changes []Change) []Change {
	slices.SortStableFunc(changes, func(a, b Change) int {
		if a.Bump != b.Bump {
			return int(b.Bump - a.Bump)
		}
		if c := strings.Compare(a.Pointer, b.Pointer); c != 0 {
			return c
		}
		return strings.Compare(a.Rule, b.Rule)
	})
	return slices.CompactFunc(changes, func(a, b Change) bool { return a.Pointer == b.Pointer && a.Rule == b.Rule })
}

// finding is a keyword that is broken in one or both directions.
type finding struct {
	keyword, name     string
	old, new          *node
	oldText, newText  string
	backward, forward bool
	unproven          string
}

// merge joins the breaches of both directions that speak of one change.
func merge(v verdict) []Change {
	type key struct {
		keyword, name string
		old, new      *node
	}
	found := map[key]*finding{}
	var order []*finding
	add := func(b breach, old, new *node, oldText, newText string) *finding {
		k := key{b.keyword, b.name, old, new}
		f := found[k]
		if f == nil {
			f = &finding{keyword: b.keyword, name: b.name, old: old, new: new, oldText: oldText, newText: newText}
			found[k] = f
			order = append(order, f)
		}
		if b.unproven != "" {
			f.unproven = b.unproven
		}
		return f
	}
	for _, b := range v.backward {
		if b.keyword == branching && slices.ContainsFunc(v.backward, func(o breach) bool { return o.keyword != branching }) {
			continue
		}
		add(b, b.sub.effective(), b.sup.effective(), b.subText, b.supText).backward = true
	}
	removed := map[*node]map[string]bool{}
	for _, b := range v.backward {
		if b.keyword == "member" {
			if removed[b.sub] == nil {
				removed[b.sub] = map[string]bool{}
			}
			removed[b.sub][b.name] = true
		}
	}
	for _, b := range v.forward {
		if b.keyword == "required" && b.sup != nil && removed[b.sup][b.name] {
			continue // gone altogether, and said so already
		}
		add(b, b.sup.effective(), b.sub.effective(), b.supText, b.subText).forward = true
	}
	changes := make([]Change, 0, len(order))
	for _, f := range order {
		changes = append(changes, f.change())
	}
	return changes
}

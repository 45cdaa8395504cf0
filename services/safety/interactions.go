package safety

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/carebus/carebus/catalog/medication"
)

// Interaction is what two drugs do together.
type Interaction struct {
	ID             string                         `json:"id"`
	Severity       medication.InteractionSeverity `json:"severity"`
	Description    string                         `json:"description"`    // what may happen
	Recommendation string                         `json:"recommendation"` // what to do about it
	Source         string                         `json:"source"`         // what the statement rests on
}

// Interactions are the known interactions between drugs. They never change: any number of goroutines may use them.
type Interactions struct {
	id, version string
	drugs       map[string][]string // RxNorm code of a drug or a product to the names of the drugs in it
	rules       []interactionRule   // by id
}

type interactionRule struct {
	Interaction
	one, other map[string]bool // names of drugs
}

//go:embed interactions.json
var defaultInteractions []byte

var loadDefault = sync.OnceValues(func() (*Interactions, error) { return LoadInteractions(defaultInteractions) })

// DefaultInteractions returns those that come with the package: well-known ones, for demonstrations and tests. They are
// no clinical advice, and far from complete.
func DefaultInteractions() (*Interactions, error) { return loadDefault() }

// ErrInteractions is what LoadInteractions wraps; the texts name the place and the rule that is broken, all of them.
var ErrInteractions = errors.New("safety: the interactions cannot be used")

type interactionFile struct {
	Format  string                 `json:"format"`
	ID      string                 `json:"id"`
	Version string                 `json:"version"`
	Note    string                 `json:"note"`
	Drugs   map[string]drugEntry   `json:"drugs"`
	Classes map[string][]string    `json:"classes"`
	Rules   []interactionRuleEntry `json:"rules"`
}

type drugEntry struct {
	RxCUI    string   `json:"rxcui"`
	Products []string `json:"products"`
}

type interactionRuleEntry struct {
	Interaction
	Between []string `json:"between"`
}

// LoadInteractions reads a file of interactions; the package comment describes it. What is wrong in it is refused now, all
// of it at once. The data is not kept.
func LoadInteractions(data []byte) (*Interactions, error) {
	var f interactionFile
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInteractions, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: there is more after the object; leave one", ErrInteractions)
	}
	l := &loader{in: &Interactions{id: f.ID, version: f.Version, drugs: map[string][]string{}}}
	if f.Format != "carebus.interactions/1" {
		l.refuse(`format: it is not "carebus.interactions/1"`)
	}
	if f.ID == "" || f.Version == "" {
		l.refuse("id, version: one is empty; findings name both")
	}
	l.drugs(f.Drugs)
	sides := l.classes(f)
	l.rules(f.Rules, sides)
	if len(l.wrong) > 0 {
		return nil, fmt.Errorf("%w: %w", ErrInteractions, errors.Join(l.wrong...))
	}
	return l.in, nil
}

type loader struct {
	in    *Interactions
	wrong []error
}

func (l *loader) refuse(format string, args ...any) {
	l.wrong = append(l.wrong, fmt.Errorf(format, args...))
}

func (l *loader) drugs(drugs map[string]drugEntry) {
	ingredients := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(drugs)) {
		e := drugs[name]
		if e.RxCUI == "" {
			l.refuse("drugs.%s: it has no rxcui; give that of the ingredient", name)
		} else if other := ingredients[e.RxCUI]; other != "" {
			l.refuse("drugs.%s: its rxcui is that of %s; keep one", name, other)
		}
		ingredients[e.RxCUI] = name
		for i, code := range append([]string{e.RxCUI}, e.Products...) {
			if code == "" || slices.Contains(l.in.drugs[code], name) {
				if i > 0 {
					l.refuse("drugs.%s: product %d is empty or there twice", name, i)
				}
				continue
			}
			l.in.drugs[code] = append(l.in.drugs[code], name)
		}
	}
}

// classes returns what a rule may name: classes, and each drug as a class of its own.
func (l *loader) classes(f interactionFile) map[string]map[string]bool {
	sides := map[string]map[string]bool{}
	for name := range f.Drugs {
		sides[name] = map[string]bool{name: true}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Classes)) {
		if sides[name] != nil {
			l.refuse("classes.%s: a drug has this name; name the class anew", name)
			continue
		}
		sides[name] = map[string]bool{}
		for _, drug := range f.Classes[name] {
			if _, ok := f.Drugs[drug]; !ok {
				l.refuse("classes.%s: %s is no drug of the file; add it to drugs", name, drug)
			}
			sides[name][drug] = true
		}
		if len(sides[name]) == 0 {
			l.refuse("classes.%s: it is empty", name)
		}
	}
	return sides
}

func (l *loader) rules(rules []interactionRuleEntry, sides map[string]map[string]bool) {
	ids := map[string]bool{}
	for i, e := range rules {
		where := fmt.Sprintf("rules[%d]", i)
		switch {
		case e.ID == "" || ids[e.ID]:
			l.refuse("%s: its id is empty, or that of another rule", where)
		case !e.Severity.Known():
			l.refuse("%s: the severity is not a word of the catalog", where)
		case e.Description == "" || e.Recommendation == "" || e.Source == "":
			l.refuse("%s: description, recommendation or source is empty", where)
		case len(e.Between) != 2:
			l.refuse("%s: between does not name two drugs or classes", where)
		case sides[e.Between[0]] == nil || sides[e.Between[1]] == nil:
			l.refuse("%s: between names what is neither a drug nor a class of the file", where)
		default:
			l.in.rules = append(l.in.rules, interactionRule{e.Interaction, sides[e.Between[0]], sides[e.Between[1]]})
		}
		ids[e.ID] = true
	}
	slices.SortFunc(l.in.rules, func(a, b interactionRule) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
}

// Between returns the interactions between two medications, each by an RxNorm code of a drug or a product, by id. A
// product may have several drugs in it. A drug does not interact with itself, and a code that the file does not have
// with nothing. The order of the two does not matter.
func (in *Interactions) Between(a, b string) []Interaction {
	var out []Interaction
	for _, r := range in.rules {
		if r.between(in.drugs[a], in.drugs[b]) {
			out = append(out, r.Interaction)
		}
	}
	return out
}

func (r *interactionRule) between(as, bs []string) bool {
	for _, a := range as {
		for _, b := range bs {
			if a != b && (r.one[a] && r.other[b] || r.one[b] && r.other[a]) {
				return true
			}
		}
	}
	return false
}

// Knows reports whether the file has a drug or product of this RxNorm code.
func (in *Interactions) Knows(code string) bool { return len(in.drugs[code]) > 0 }

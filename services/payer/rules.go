package payer

import (
	_ "embed"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/carebus/carebus/catalog/priorauth"
)

//go:embed rules.json
var defaultRules []byte

var loadDefault = sync.OnceValues(func() (*Rules, error) { return LoadRules(defaultRules) })

// Rules is a compiled rule set with its clocks, appeal rights and dispensing figures. It never changes: any number of
// goroutines may use it at once. Get one from LoadRules or DefaultRules.
type Rules struct {
	id, version string
	byDrug      map[string]*rule
	sets        map[string]any // "sets.NAME" to its codes, as expressions name it
	clocks      map[clockKey]Clock
	appeals     map[string]appealEntry
	dispensing  map[string]Dispensing
}

// rule is a rule ready to be evaluated.
type rule struct {
	id, version string
	title       string
	benefit     Benefit
	asks        []string // members of the patient that its expressions read and that may be unknown
	required    expression
	exempt      []expression
	missing     []missingItem
	criteria    []criterion
	modify      []modification
	approve     approveEntry
}

type missingItem struct {
	expression
	missingEntry
}

type criterion struct {
	expression
	reason priorauth.Reason
}

type modification struct {
	criterion
	entry modifyEntry
}

// ID returns the rule set's id and version, which every decision names.
func (r *Rules) ID() (id, version string) { return r.id, r.version }

// Drugs returns the RxNorm codes of the drugs that some rule is about, sorted. Any other drug needs no authorization.
func (r *Rules) Drugs() []string {
	drugs := make([]string, 0, len(r.byDrug))
	for d := range r.byDrug {
		drugs = append(drugs, d)
	}
	slices.Sort(drugs)
	return drugs
}

// DefaultRules returns the rule set that comes with the package. It is compiled at the first call and shared.
func DefaultRules() (*Rules, error) { return loadDefault() }

// LoadRules reads and compiles a rule file; the package comment describes it. What can be found wrong without a patient is
// refused now, all of it at once, with a *LoadError: names that do not exist, expressions that are not boolean or not
// valid, a drug in two rules, members that may be absent and are not tested with has(). The data is not kept.
func LoadRules(data []byte) (*Rules, error) {
	f, p := readFile(data)
	if p != nil {
		return nil, &LoadError{Problems: []Problem{*p}}
	}
	l := &loader{file: f, ruleOf: map[string]string{}, rules: &Rules{
		id: f.ID, version: f.Version,
		byDrug: map[string]*rule{}, sets: map[string]any{},
		clocks: map[clockKey]Clock{}, appeals: map[string]appealEntry{}, dispensing: map[string]Dispensing{},
	}}
	l.head()
	l.codeSets()
	if env, err := environment(l.rules.sets); err != nil {
		l.refuse("", "sets", "sets", "the code sets cannot be declared: "+err.Error(), "correct the names of the sets")
	} else {
		l.env = env
		l.ruleList()
	}
	l.tables()
	if len(l.problems) > 0 {
		return nil, &LoadError{Problems: l.problems}
	}
	return l.rules, nil
}

type loader struct {
	file     *ruleFile
	env      *cel.Env
	rules    *Rules
	ruleOf   map[string]string // drug to the id of its rule
	problems []Problem
}

func (l *loader) refuse(rule, expression, code, message, remedy string) {
	l.problems = append(l.problems, Problem{Rule: rule, Expression: expression, Code: code, Message: message, Remedy: remedy})
}

var (
	versionForm = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+$`)
	setForm     = regexp.MustCompile(`^[A-Z][A-Z0-9_]*$`)
	idForm      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
)

func (l *loader) head() {
	f := l.file
	if f.Format != format {
		l.refuse("", "format", "format", "the file is not in the format that this release reads", `state "format": "`+format+`"`)
	}
	if !idForm.MatchString(f.ID) {
		l.refuse("", "id", "required", "the rule set has no id of letters, digits, dots and hyphens", "give it one; decisions name it")
	}
	if !versionForm.MatchString(f.Version) {
		l.refuse("", "version", "required", "the rule set has no version of three numbers", "give it one, such as 1.0.0, and raise it with every change")
	}
	if len(f.Rules) == 0 {
		l.refuse("", "rules", "required", "there is no rule", "add one")
	}
}

func (l *loader) codeSets() {
	for _, name := range slices.Sorted(maps.Keys(l.file.Sets)) {
		codes := l.file.Sets[name]
		where := "sets." + name
		if !setForm.MatchString(name) {
			l.refuse("", where, "set-name", "the name of the set is not of capitals, digits and underscores", "rename it")
			continue
		}
		set := make(map[string]bool, len(codes))
		for _, c := range codes {
			if c == "" || set[c] {
				l.refuse("", where, "set-codes", "a code is empty or stands twice", "remove it")
			}
			set[c] = true
		}
		if len(set) == 0 {
			l.refuse("", where, "set-codes", "the set is empty", "add codes, or remove the set and what uses it")
		}
		l.rules.sets[where] = set
	}
}

func (l *loader) ruleList() {
	seen := map[string]bool{}
	for i := range l.file.Rules {
		e := &l.file.Rules[i]
		if !idForm.MatchString(e.ID) {
			l.refuse("", fmt.Sprintf("rules[%d].id", i), "required", "the rule has no id of letters, digits, dots and hyphens", "give it one; decisions name it")
			continue
		}
		if seen[e.ID] {
			l.refuse(e.ID, "id", "repeated-rule", "two rules have this id", "rename one")
		}
		seen[e.ID] = true
		if r := l.rule(e); r != nil {
			l.drugs(e, r)
		}
	}
}

func (l *loader) drugs(e *ruleEntry, r *rule) {
	if len(e.Drugs) == 0 {
		l.refuse(e.ID, "drugs", "required", "the rule is about no drug", "name the RxNorm codes of its drugs")
	}
	for _, d := range e.Drugs {
		switch other, taken := l.ruleOf[d]; {
		case d == "":
			l.refuse(e.ID, "drugs", "required", "a drug is an empty text", "remove it")
		case taken:
			l.refuse(e.ID, "drugs", "drug-in-two-rules", "drug "+d+" stands in rule "+other+" already", "leave it in one: a request must have one answer")
		default:
			l.ruleOf[d], l.rules.byDrug[d] = e.ID, r
		}
	}
}

// rule compiles e. It returns a rule even when parts were refused, so that the rest of the file is looked at too.
func (l *loader) rule(e *ruleEntry) *rule {
	c := compiler{loader: l, rule: e.ID, ids: map[string]bool{}}
	r := &rule{id: e.ID, version: e.Version, title: e.Title, benefit: e.Benefit, approve: e.Approve}
	if !versionForm.MatchString(e.Version) {
		l.refuse(e.ID, "version", "required", "the rule has no version of three numbers", "give it one, such as 1.0.0, and raise it with every change")
	}
	if strings.TrimSpace(e.Title) == "" {
		l.refuse(e.ID, "title", "required", "the rule has no title", "say which drug and use it is about")
	}
	if e.Benefit != BenefitPharmacy && e.Benefit != BenefitMedical {
		l.refuse(e.ID, "benefit", "benefit", "the benefit is neither pharmacy nor medical", "state which of the two pays")
	}
	// Missing information is compiled first: what it asks for may be read by the criteria without has().
	for _, m := range e.MissingInfo {
		if m.Field == "" || m.Ask == "" || m.DueHours < 0 {
			l.refuse(e.ID, m.ID, "missing-info", "the item has no field, no question, or a negative dueHours", "state field and ask")
		}
		r.missing = append(r.missing, missingItem{c.compile(StageMissingInfo, m.ID, m.When), m})
	}
	for _, x := range e.Criteria {
		r.criteria = append(r.criteria, c.criterion(StageCriteria, x))
	}
	for _, m := range e.Modify {
		if s := m.Set; s.Quantity == nil && s.DaysSupply == nil && s.Refills == nil && s.Months == nil ||
			s.Quantity != nil && *s.Quantity <= 0 || s.DaysSupply != nil && *s.DaysSupply <= 0 ||
			s.Refills != nil && *s.Refills < 0 || s.Months != nil && *s.Months <= 0 {
			l.refuse(e.ID, m.ID, "modify", "the change sets nothing, or something that is not positive", "set quantity, daysSupply, refills or months")
		}
		r.modify = append(r.modify, modification{c.criterion(StageModify, m.reasonEntry), m})
	}
	if q := e.Approve.Quantity; e.Approve.Months <= 0 || q.Amount <= 0 || math.IsInf(q.Amount, 0) || q.PerDays < 0 || q.Unit == "" {
		l.refuse(e.ID, "approve", "approve", "an approval needs months, and a quantity with a positive amount and a unit", `write "approve": {"months": 12, "quantity": {"amount": 30, "perDays": 30, "unit": "tablet"}}`)
	}
	c.tested = nil // the stages before the questions may rely on none of them
	r.required = c.compile(StageRequired, "paRequiredWhen", e.PARequiredWhen)
	for _, x := range e.Exempt {
		r.exempt = append(r.exempt, c.compile(StageExempt, x.ID, x.When))
	}
	r.asks = c.asks()
	return r
}

func (l *loader) tables() {
	for i, e := range l.file.Clocks {
		where := fmt.Sprintf("clocks[%d]", i)
		key := clockKey{e.LineOfBusiness, e.Benefit, e.Urgency}
		_, twice := l.rules.clocks[key]
		switch {
		case !knownLine(e.LineOfBusiness) || !e.Benefit.known() || !e.Urgency.Known():
			l.refuse("", where, "clock", "the line of business, benefit or urgency is not a known one", `use the words of the catalog, or "*" for any other line of business`)
		case twice:
			l.refuse("", where, "clock", "there is a clock for the same line of business, benefit and urgency already", "keep one")
		case e.EscalateHoursBefore <= 0 || e.RemindHoursBefore <= e.EscalateHoursBefore || e.Hours <= e.RemindHoursBefore:
			l.refuse("", where, "clock", "the moments do not follow each other: arrival, reminder, escalation, deadline", "let hours > remindHoursBefore > escalateHoursBefore > 0")
		case e.Source == "":
			l.refuse("", where, "source", "the figure has no source", "say what it rests on")
		}
		deadline := hours(e.Hours)
		l.rules.clocks[key] = Clock{deadline, deadline - hours(e.RemindHoursBefore), deadline - hours(e.EscalateHoursBefore), e.Source}
	}
	for _, benefit := range []Benefit{BenefitPharmacy, BenefitMedical} {
		for _, urgency := range []priorauth.Urgency{priorauth.UrgencyStandard, priorauth.UrgencyExpedited} {
			if _, ok := l.rules.clocks[clockKey{anyOther, benefit, urgency}]; !ok {
				l.refuse("", "clocks", "clock", fmt.Sprintf("there is no %s %s clock for other lines of business", urgency, benefit), `add one with "lineOfBusiness": "*"`)
			}
		}
	}
	for i, e := range l.file.Appeals {
		where := fmt.Sprintf("appeals[%d]", i)
		_, twice := l.rules.appeals[e.LineOfBusiness]
		switch {
		case !knownLine(e.LineOfBusiness) || twice:
			l.refuse("", where, "appeal", "the line of business is not a known one, or has its appeal rights already", `use the words of the catalog once each, or "*" for any other`)
		case e.Days <= 0 || !e.Channel.Known() || e.Address == "" || e.PeerToPeer.PhoneNumber == "" || e.PeerToPeer.Days <= 0:
			l.refuse("", where, "appeal", "a denial has to say until when, how and where to appeal, and whom to call", "state days, channel, address, and peerToPeer with phoneNumber and days")
		case e.Source == "":
			l.refuse("", where, "source", "the figure has no source", "say what it rests on")
		}
		l.rules.appeals[e.LineOfBusiness] = e
	}
	if _, ok := l.rules.appeals[anyOther]; !ok {
		l.refuse("", "appeals", "appeal", "there are no appeal rights for other lines of business; they could not be denied anything", `add a row with "lineOfBusiness": "*"`)
	}
	for i, e := range l.file.Dispensing {
		where := fmt.Sprintf("dispensing[%d]", i)
		key := strings.ToLower(strings.TrimSpace(e.Payer))
		_, twice := l.rules.dispensing[key]
		switch {
		case key == "" || twice:
			l.refuse("", where, "dispensing", "the payer has no name, or stands twice", "name each payer once")
		case e.PickupDays <= 0 || e.PickupDays > 366 || e.EmergencySupplyDays < 0:
			l.refuse("", where, "dispensing", "the days are not positive, or pickupDays is more than a year", "state pickupDays and emergencySupplyDays")
		case e.Source == "":
			l.refuse("", where, "source", "the figure has no source", "say what it rests on")
		}
		l.rules.dispensing[key] = Dispensing{e.PickupDays, e.BusinessDays, e.EmergencySupplyDays, e.Source}
	}
	if _, ok := l.rules.dispensing[anyOther]; !ok {
		l.refuse("", "dispensing", "dispensing", "there are no figures for other payers", `add a row with "payer": "*"`)
	}
}

func knownLine(lob string) bool {
	return lob == anyOther || priorauth.PayerLineOfBusiness(lob).Known()
}

func hours(n int) time.Duration { return time.Duration(n) * time.Hour }

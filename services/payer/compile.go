package payer

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"
)

const (
	// costLimit bounds one evaluation, to a few tenths of a second. The dearest of the default rules (names of past drugs
	// compared four times) needs half of it for a history of ten thousand drugs with long names; the others a fiftieth.
	costLimit = 10_000_000
	// maxExpression bounds the text of one expression, in code points.
	maxExpression = 4096
)

// expression is a compiled condition with its place in the rule.
type expression struct {
	id      string
	stage   Stage
	program cel.Program
}

// environment declares what expressions may name. Every member has a type, so that a misspelt one is found when the file
// is loaded and not when a patient waits.
func environment(sets map[string]any) (*cel.Env, error) {
	named := func(v any) *cel.Type { return cel.ObjectType("payer." + reflect.TypeOf(v).Name()) }
	options := []cel.EnvOption{
		ext.Strings(),
		cel.CrossTypeNumericComparisons(true), // rx.quantity > 4 as well as > 4.0
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(64),
		ext.NativeTypes(ext.ParseStructTag("json"),
			reflect.TypeFor[Request](), reflect.TypeFor[Patient](), reflect.TypeFor[Diagnosis](),
			reflect.TypeFor[PastDrug](), reflect.TypeFor[Allergy](), reflect.TypeFor[Observation](), reflect.TypeFor[Plan]()),
		cel.Variable("rx", named(Request{})),
		cel.Variable("pt", named(Patient{})),
		cel.Variable("plan", named(Plan{})),
		cel.Variable("dx", cel.ListType(named(Diagnosis{}))),
		cel.Variable("hist", cel.ListType(named(PastDrug{}))),
		cel.Variable("allergy", cel.ListType(named(Allergy{}))),
		cel.Variable("obs", cel.MapType(cel.StringType, named(Observation{}))),
	}
	// A set is a map from code to true, for the cost of "in" then does not grow with the set. Each set is a variable of its
	// own, so that the name of a set that does not exist is an error at compile time.
	for name := range sets {
		options = append(options, cel.Variable(name, cel.MapType(cel.StringType, cel.BoolType)))
	}
	return cel.NewEnv(options...)
}

// compiler compiles the expressions of one rule.
type compiler struct {
	*loader
	rule   string
	ids    map[string]bool
	texts  []string
	tested []string // optional members whose absence the rule asks about before it decides
}

// optional are the members that may be absent. Absent, they read as zero, which no rule means: an unknown quantity is not
// a small one. So every expression that reads one has to test it.
var optional = []string{"quantity", "daysSupply", "refills", "prescriberSpecialty", "dispenseAsWritten"}

// unknown are the members of the patient that may be absent without a test: a rule that reads one asks for it first.
var unknown = []string{"age", "sex", "state"}

var (
	literal  = regexp.MustCompile(`'(\\.|[^'\\])*'|"(\\.|[^"\\])*"`)
	hasTest  = regexp.MustCompile(`\bhas\(\s*rx\s*\.\s*(\w+)\s*\)`)
	asksFor  = regexp.MustCompile(`^\s*!\s*has\(\s*rx\s*\.\s*(\w+)\s*\)\s*$`)
	ptTest   = regexp.MustCompile(`\bhas\(\s*pt\s*\.\s*(\w+)\s*\)`)
	rxMember = regexp.MustCompile(`\brx\s*\.\s*(\w+)`)
	ptMember = regexp.MustCompile(`\bpt\s*\.\s*(\w+)`)
)

func (c *compiler) refuseAt(id string, line, column int, code, message, remedy string) {
	c.problems = append(c.problems, Problem{Rule: c.rule, Expression: id, Line: line, Column: column, Code: code, Message: message, Remedy: remedy})
}

func (c *compiler) criterion(stage Stage, e reasonEntry) criterion {
	if e.ReasonCode == "" || strings.TrimSpace(e.Reason) == "" {
		c.refuse(c.rule, e.ID, "reason", "the condition has no reason, or no code for it", "state reasonCode and reason; the law wants a denial to be specific")
	}
	x := criterion{expression: c.compile(stage, e.ID, e.When)}
	x.reason.Code, x.reason.Text = e.ReasonCode, &e.Reason
	return x
}

func (c *compiler) compile(stage Stage, id, text string) expression {
	x := expression{id: id, stage: stage}
	switch {
	case !idForm.MatchString(id):
		c.refuse(c.rule, string(stage), "required", "an expression has no id of letters, digits, dots and hyphens", "give it one; the explanation of a decision names it")
		return x
	case c.ids[id]:
		c.refuse(c.rule, id, "repeated-expression", "two expressions of the rule have this id", "rename one")
	case strings.TrimSpace(text) == "":
		c.refuse(c.rule, id, "required", "the expression is empty", `write a condition, or "true"`)
		return x
	}
	c.ids[id] = true
	compiled, issues := c.env.Compile(text)
	if issues.Err() != nil {
		for _, e := range issues.Errors() {
			code, remedy := c.classify(e.Message)
			c.refuseAt(id, e.Location.Line(), e.Location.Column()+1, code, e.Message, remedy)
		}
		return x
	}
	if compiled.OutputType() != cel.BoolType {
		c.refuseAt(id, 1, 1, "not-boolean", fmt.Sprintf("the expression gives %s and not true or false", compiled.OutputType()), "compare it with something")
		return x
	}
	c.untested(stage, id, text)
	c.texts = append(c.texts, text)
	program, err := c.env.Program(compiled, cel.Globals(c.rules.sets), cel.CostLimit(costLimit), cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		c.refuseAt(id, 1, 1, "expression", err.Error(), "correct the constants of the expression")
		return x
	}
	if _, _, err := program.Eval(newcomer); err != nil {
		c.refuseAt(id, 1, 1, "empty-record", "the expression fails for a patient of whom nothing is recorded: "+err.Error(),
			"test first: '4548-4' in obs && obs['4548-4'].value > 9")
		return x
	}
	x.program = program
	return x
}

// newcomer are the facts of a complete request for a patient of whom nothing is recorded. Such patients come every day,
// so no expression may fail for one.
var newcomer = func() map[string]any {
	one, number, yes, specialty := int64(1), 1.0, true, "family medicine"
	return (&Facts{
		Request: Request{RxCUI: "0", Name: "x", Quantity: &number, DaysSupply: &one, Refills: &one,
			PrescriberSpecialty: &specialty, DispenseAsWritten: &yes},
		Patient: Patient{ID: "0", Age: &one, Sex: "female", State: "MA"},
		Plan:    Plan{Payer: "x", LineOfBusiness: "commercial", MemberID: "0"},
	}).named()
}()

// named returns the facts under the names that expressions use.
func (f *Facts) named() map[string]any {
	return map[string]any{
		"rx": f.Request, "pt": f.Patient, "dx": f.Diagnoses, "hist": f.History,
		"allergy": f.Allergies, "obs": f.Observations, "plan": f.Plan,
	}
}

// classify names what the compiler found, and what helps.
func (c *compiler) classify(message string) (code, remedy string) {
	switch {
	case strings.Contains(message, "reference to 'sets"):
		return "unknown-set", "add the set to \"sets\", or use one of: " + strings.Join(c.setNames(), ", ")
	case strings.Contains(message, "undeclared reference"):
		return "unknown-name", "use rx, pt, dx, hist, allergy, obs, plan, sets, and the functions of CEL"
	case strings.Contains(message, "undefined field"):
		return "unknown-member", "use a member that the documentation of package payer lists"
	case strings.Contains(message, "Syntax error"):
		return "syntax", "correct the expression at this place"
	case strings.Contains(message, "no matching overload"):
		return "types", "compare values of one type; codes are texts in quotes"
	default:
		return "expression", "correct the expression at this place"
	}
}

func (c *compiler) setNames() []string {
	names := make([]string, 0, len(c.rules.sets))
	for n := range c.rules.sets {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// untested refuses an expression that reads an optional member of the request which neither it nor the rule's questions
// for missing information have tested. It works on the text, in which such a test can only be written in one way.
func (c *compiler) untested(stage Stage, id, text string) {
	blank := literal.ReplaceAllStringFunc(text, func(s string) string { return strings.Repeat(" ", len(s)) })
	own := names(hasTest, blank)
	if m := asksFor.FindStringSubmatch(blank); stage == StageMissingInfo && m != nil {
		c.tested = append(c.tested, m[1])
	}
	for _, m := range rxMember.FindAllStringSubmatchIndex(blank, -1) {
		name, before := blank[m[2]:m[3]], blank[:m[2]]
		if !slices.Contains(optional, name) || slices.Contains(c.tested, name) || slices.Contains(own, name) {
			continue
		}
		column := utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:]) + 1
		c.refuseAt(id, strings.Count(before, "\n")+1, column, "untested", "rx."+name+" may be absent and would then read as zero",
			"write has(rx."+name+") && …, or ask for it in missingInfo")
	}
}

// asks returns the members of the patient that the rule cannot do without: those that it reads and nowhere tests.
func (c *compiler) asks() []string {
	var read, tested []string
	for _, text := range c.texts {
		blank := literal.ReplaceAllString(text, " ")
		read = append(read, names(ptMember, blank)...)
		tested = append(tested, names(ptTest, blank)...)
	}
	var out []string
	for _, name := range unknown {
		if slices.Contains(read, name) && !slices.Contains(tested, name) {
			out = append(out, name)
		}
	}
	return out
}

// names returns what the first group of form matched in text.
func names(form *regexp.Regexp, text string) (out []string) {
	for _, m := range form.FindAllStringSubmatch(text, -1) {
		out = append(out, m[1])
	}
	return out
}

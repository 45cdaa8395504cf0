package fhir

import (
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"strings"
)

// usd is an amount in US dollars with two places, computed without floating point. Another currency is no amount here.
func (n node) usd() (json.Number, bool) {
	value := n.number("value")
	if value == "" {
		return "", false
	}
	if c := n.text("currency"); c != "" && c != "USD" {
		return "", false
	}
	return cents(value)
}

func cents(value json.Number) (json.Number, bool) {
	// An exponent of many digits would make a number of as many megabytes.
	if _, exp, ok := strings.Cut(strings.ToLower(string(value)), "e"); len(value) > 40 || ok && len(exp) > 3 {
		return "", false
	}
	r, ok := new(big.Rat).SetString(string(value))
	if !ok {
		return "", false
	}
	return json.Number(r.FloatString(2)), true
}

// medication is a drug as far as the input tells it.
type medication struct {
	code, system, display string // what was prescribed: RxNorm when there is, else the first code
	name                  string
	ndc, rxnorm           string
}

// payload is a drug as events tell it.
func (d medication) payload() obj {
	return obj{}.set("code", coding{d.system, d.code, d.display}.payload()).set("name", d.name).set("ndc", ndcOf(d.ndc))
}

func (c coding) payload() obj {
	return obj{}.set("system", c.System).set("code", c.Code).set("display", c.Display)
}

// oneOf is v when it is one of the words that events know, else instead.
func oneOf(v, instead string, known ...string) string {
	if slices.Contains(known, v) {
		return v
	}
	return instead
}

// npiOf drops what is no NPI: test populations number their practitioners with one to five digits.
func npiOf(v string) string {
	if len(v) == 10 && strings.Trim(v, "0123456789") == "" {
		return v
	}
	return ""
}

// ncpdpOf drops what is no NCPDP provider id.
func ncpdpOf(v string) string {
	if len(v) == 7 && strings.Trim(v, "0123456789") == "" {
		return v
	}
	return ""
}

var ndcForm = regexp.MustCompile(`^([0-9]{11,12}|[0-9]{4}-[0-9]{4}-[0-9]{2}|[0-9]{5}-[0-9]{3}-[0-9]{2}|[0-9]{5}-[0-9]{4}-[0-9]{1,2}|[0-9]{6}-[0-9]{4}-[0-9]{2})$`)

func ndcOf(v string) string {
	if ndcForm.MatchString(v) {
		return v
	}
	return ""
}

// amount drops negative quantities, and whole what is not written as a whole number: a member of that kind cannot say it.
func amount(v json.Number) json.Number {
	if strings.HasPrefix(string(v), "-") {
		return ""
	}
	return v
}

func whole(v json.Number) json.Number {
	text := string(v)
	if i := strings.IndexByte(text, '.'); i >= 0 && strings.Trim(text[i+1:], "0") == "" {
		text = text[:i]
	}
	if text == "" || strings.Trim(text, "0123456789") != "" || len(text) > 9 {
		return ""
	}
	return json.Number(text)
}

// medication reads medication[x]: in place, contained, or a Medication resource.
func (m *mapping) medication(n node) medication {
	if c := n.get("medicationCodeableConcept"); c.exists() {
		return drug(c.concept())
	}
	r := n.reference("medicationReference")
	if !r.exists() {
		return medication{}
	}
	return m.medicationOf(m.follow(r, "Medication"))
}

func (m *mapping) medicationOf(t target) medication {
	if t.sum != nil {
		d := drug(t.sum.Codings, t.sum.Name)
		if d.name == "" {
			d.name = t.name
		}
		return d
	}
	if m.index == nil {
		return medication{code: t.id} // identity only: the reference stands for the drug
	}
	return medication{name: t.name}
}

// implicated is the drug behind a reference to a Medication, or to a request or statement about one.
func (m *mapping) implicated(r reference) medication {
	t := m.follow(r, "Medication", "MedicationRequest", "MedicationStatement", "MedicationDispense", "MedicationAdministration")
	if t.sum != nil && len(t.sum.Codings) == 0 {
		for _, onward := range t.sum.Refs {
			if onward.Use == "medication" {
				return m.medicationOf(m.followIn(onward.reference(), onward.Scope, "Medication"))
			}
		}
	}
	return m.medicationOf(t)
}

func drug(codes []coding, text string) medication {
	d := medication{name: text, ndc: codeIn(codes, systemNDC, "2.16.840.1.113883.6.69"), rxnorm: codeIn(codes, systemRxNorm)}
	for _, c := range codes {
		if c.Code != "" && (d.code == "" || strings.Contains(c.System, systemRxNorm)) {
			d.code, d.system, d.display = c.Code, c.System, c.Display
			if strings.Contains(c.System, systemRxNorm) {
				break
			}
		}
	}
	if d.name == "" {
		d.name = d.code
	}
	return d
}

// directions puts a Dosage into words: its own text, else dose and timing.
func directions(dosage []node) string {
	var lines []string
	for _, d := range dosage {
		line := d.text("text")
		if line == "" {
			line = d.text("patientInstruction")
		}
		if line == "" {
			line = dosageText(d)
		}
		if line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

func dosageText(d node) string {
	var parts []string
	dose := d.path("doseAndRate", "doseQuantity")
	if v := dose.number("value"); v != "" {
		unit := dose.text("unit")
		if unit == "" {
			unit = "dose"
		}
		parts = append(parts, string(v)+" "+unit)
	}
	repeat := d.path("timing", "repeat")
	if f, p := repeat.number("frequency"), repeat.number("period"); f != "" && p != "" {
		units := map[string]string{"s": "second", "min": "minute", "h": "hour", "d": "day", "wk": "week", "mo": "month", "a": "year"}
		unit := units[repeat.text("periodUnit")]
		if unit == "" {
			unit = "period"
		}
		every := "per " + unit
		if p != "1" && p != "1.0" {
			every = fmt.Sprintf("every %s %ss", p, unit)
		}
		parts = append(parts, string(f)+" times "+every)
	} else if c := d.get("timing").get("code").label(); c != "" {
		parts = append(parts, c)
	}
	if route := d.get("route").label(); route != "" && len(parts) > 0 {
		parts = append(parts, route)
	}
	if yes, ok := d.bool("asNeededBoolean"); ok && yes || d.get("asNeededCodeableConcept").exists() {
		parts = append(parts, "as needed")
	}
	return strings.Join(parts, ", ")
}

// state is the two-letter code of a US state, else the text as it is.
func state(s string) string {
	if code, ok := states[strings.ToLower(s)]; ok {
		return code
	}
	if len(s) == 2 && slices.Contains(stateCodes, strings.ToUpper(s)) {
		return strings.ToUpper(s)
	}
	return s
}

const stateNames = `alabama AL,alaska AK,arizona AZ,arkansas AR,california CA,colorado CO,connecticut CT,delaware DE,
district of columbia DC,florida FL,georgia GA,hawaii HI,idaho ID,illinois IL,indiana IN,iowa IA,kansas KS,kentucky KY,
louisiana LA,maine ME,maryland MD,massachusetts MA,michigan MI,minnesota MN,mississippi MS,missouri MO,montana MT,
nebraska NE,nevada NV,new hampshire NH,new jersey NJ,new mexico NM,new york NY,north carolina NC,north dakota ND,ohio OH,
oklahoma OK,oregon OR,pennsylvania PA,puerto rico PR,rhode island RI,south carolina SC,south dakota SD,tennessee TN,
texas TX,utah UT,vermont VT,virginia VA,washington WA,west virginia WV,wisconsin WI,wyoming WY,guam GU,
american samoa AS,virgin islands VI,northern mariana islands MP`

var states, stateCodes = func() (map[string]string, []string) {
	byName := make(map[string]string)
	var codes []string
	for item := range strings.SplitSeq(stateNames, ",") {
		item = strings.TrimSpace(item)
		name, code := item[:len(item)-3], item[len(item)-2:]
		byName[name] = code
		codes = append(codes, code)
	}
	return byName, codes
}()

package codegen

import (
	"strings"
	"unicode"
)

// initialisms are the words that Go and the field write in capitals.
var initialisms = map[string]bool{
	"api": true, "bin": true, "cpt": true, "dea": true, "ehr": true, "fhir": true, "hcpcs": true, "http": true, "icd": true,
	"id": true, "json": true, "mrn": true, "ncpdp": true, "ndc": true, "npi": true, "pcn": true, "phi": true, "sms": true,
	"ssn": true, "uri": true, "url": true, "usd": true,
}

// goName turns a name of the schemas, such as ready-for-pickup, ncpdpId or APPROVED, into an exported Go name.
func goName(s string) string {
	var b strings.Builder
	shouted := s == strings.ToUpper(s) && (len(s) > 3 || strings.Contains(s, "_")) // APPROVED, but not a code such as CT
	for _, w := range words(s) {
		lower := strings.ToLower(w)
		switch {
		case initialisms[lower]:
			b.WriteString(strings.ToUpper(w))
		case strings.HasSuffix(lower, "s") && initialisms[lower[:len(lower)-1]]:
			b.WriteString(strings.ToUpper(w[:len(w)-1]) + "s")
		case shouted:
			b.WriteString(w[:1] + lower[1:])
		default:
			b.WriteString(strings.ToUpper(w[:1]) + w[1:])
		}
	}
	return b.String()
}

// words splits at everything that is no letter or digit, and where a capital follows a small letter or a digit.
func words(s string) []string {
	var out []string
	start, last := -1, rune(0)
	flush := func(end int) {
		if start >= 0 {
			out = append(out, s[start:end])
		}
		start = -1
	}
	for i, r := range s {
		switch {
		case r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r):
			flush(i)
		case start >= 0 && unicode.IsUpper(r) && unicode.IsLower(last):
			flush(i)
			start = i
		case start < 0:
			start = i
		}
		last = r
	}
	flush(len(s))
	return out
}

// within names a type that a schema gives no name: its owner's name and the member's, a word in common once.
func within(owner, member string) string {
	o, m := words(owner), words(goName(member))
	if len(o) > 0 && len(m) > 1 && o[len(o)-1] == m[0] {
		m = m[1:]
	}
	return owner + strings.Join(m, "")
}

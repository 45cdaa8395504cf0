package schema

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// format is one of the formats that a document may name; all are asserted. match decides on the text of a string (no
// escapes in it); those of the standard leave the last word to the library and only say yes to what is surely right.
type format struct {
	name     string
	what     string // for people: "is not …"
	remedy   string
	match    func(text []byte) bool
	validate func(v any) error // nil: the library's own
}

// formats are ours alone to judge.
var formats = []format{
	{name: "date-time", what: "an instant", remedy: "send RFC 3339 with seconds and zone, such as 2023-03-01T10:00:00Z", match: dateTime},
	{name: "npi", what: "a National Provider Identifier", remedy: "send its ten digits", match: npi},
	{name: "ndc", what: "a National Drug Code", remedy: "send 11 or 12 digits, or the code with its hyphens, such as 12345-6789-10", match: ndc},
	{name: "ncpdp-id", what: "an NCPDP provider id", remedy: "send its seven digits", match: ncpdpID},
	{name: "usd", what: "an amount in US dollars", remedy: "send a number with at most two decimal places, such as 35.50", match: usd},
}

func init() {
	for i := range formats {
		f := &formats[i]
		f.validate = func(v any) error {
			switch x := v.(type) {
			case string:
				if f.match([]byte(x)) {
					return nil
				}
			case json.Number:
				if f.name != "usd" || f.match([]byte(x)) {
					return nil
				}
			default:
				return nil
			}
			return errFormat
		}
	}
}

var errFormat = errors.New("schema: format") // never shown: findings have their own words

// standard formats are asserted by the library.
var standard = []format{
	{name: "date", what: "a date", remedy: "send year, month and day, such as 2023-03-01", match: date},
	{name: "email", what: "an e-mail address", remedy: "send one address, such as name@example.org"},
	{name: "uri", what: "an absolute URI", remedy: "send a URI with its scheme, such as http://hl7.org/fhir", match: plainURI},
	{name: "uuid", what: "a UUID", remedy: "send 32 hexadecimal digits in groups of 8-4-4-4-12", match: uuid},
}

func formatNamed(name string) *format {
	for _, list := range [][]format{formats, standard} {
		for i := range list {
			if list[i].name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func formatNames() (names []string) {
	for _, list := range [][]format{formats, standard} {
		for _, f := range list {
			names = append(names, f.name)
		}
	}
	slices.Sort(names)
	return names
}

func digits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}

// npi checks length and digits only: the check digit of many published and test identifiers is wrong, and theirs is not
// ours to refuse.
func npi(b []byte) bool { return len(b) == 10 && digits(b) }

func ncpdpID(b []byte) bool { return len(b) == 7 && digits(b) }

// ndc takes 11 digits as billing writes it, 12 as from 2033 on, and the hyphenated forms 4-4-2, 5-3-2, 5-4-1 of labels,
// 5-4-2 of billing and 6-4-2 of the future.
func ndc(b []byte) bool {
	if len(b) == 11 && digits(b) || len(b) == 12 && digits(b) {
		return true
	}
	parts := [3]int{}
	n := 0
	for _, c := range b {
		switch {
		case c == '-':
			if n++; n > 2 {
				return false
			}
		case c < '0' || c > '9':
			return false
		default:
			parts[n]++
		}
	}
	switch parts {
	case [3]int{4, 4, 2}, [3]int{5, 3, 2}, [3]int{5, 4, 1}, [3]int{5, 4, 2}, [3]int{6, 4, 2}:
		return n == 2
	}
	return false
}

// usd takes a decimal text with at most two places; an exponent only beside whole dollars, which it leaves whole.
func usd(b []byte) bool {
	text := string(b)
	mantissa, exponent, scientific := strings.Cut(strings.ToLower(text), "e")
	whole, places, _ := strings.Cut(strings.TrimPrefix(mantissa, "-"), ".")
	if !digits([]byte(whole)) || strings.HasSuffix(mantissa, ".") || places != "" && !digits([]byte(places)) {
		return false
	}
	if scientific {
		exponent = strings.TrimPrefix(exponent, "+")
		return places == "" && len(exponent) <= 2 && digits([]byte(exponent))
	}
	return len(places) <= 2
}

func number2(b []byte) int { return int(b[0]-'0')*10 + int(b[1]-'0') }

func date(b []byte) bool {
	if len(b) != 10 || b[4] != '-' || b[7] != '-' || !digits(b[:4]) || !digits(b[5:7]) || !digits(b[8:]) {
		return false
	}
	year, month, day := number2(b)*100+number2(b[2:]), number2(b[5:]), number2(b[8:])
	if month < 1 || month > 12 || day < 1 {
		return false
	}
	last := [...]int{31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31}[month-1]
	if month == 2 && (year%4 == 0 && year%100 != 0 || year%400 == 0) {
		last = 29
	}
	return day <= last
}

// dateTime is RFC 3339 without what Go's time.Time, and many others, cannot read: lower-case letters, leap seconds.
func dateTime(b []byte) bool {
	if len(b) < 20 || !date(b[:10]) || b[10] != 'T' || b[13] != ':' || b[16] != ':' ||
		!digits(b[11:13]) || !digits(b[14:16]) || !digits(b[17:19]) ||
		number2(b[11:]) > 23 || number2(b[14:]) > 59 || number2(b[17:]) > 59 {
		return false
	}
	b = b[19:]
	if b[0] == '.' {
		n := 1
		for n < len(b) && b[n] >= '0' && b[n] <= '9' {
			n++
		}
		if n == 1 {
			return false
		}
		b = b[n:]
	}
	if len(b) == 1 {
		return b[0] == 'Z'
	}
	return len(b) == 6 && (b[0] == '+' || b[0] == '-') && b[3] == ':' && digits(b[1:3]) && digits(b[4:]) &&
		number2(b[1:]) <= 23 && number2(b[4:]) <= 59
}

func uuid(b []byte) bool {
	if len(b) != 36 {
		return false
	}
	for i, c := range b {
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !hexDigit(c) {
				return false
			}
		}
	}
	return true
}

// plainURI takes scheme://host/path of letters, digits and -._~ only; everything else is the library's.
func plainURI(b []byte) bool {
	i := 0
	for i < len(b) && b[i] >= 'a' && b[i] <= 'z' {
		i++
	}
	if i == 0 || len(b) < i+4 || string(b[i:i+3]) != "://" {
		return false
	}
	for _, c := range b[i+3:] {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '/', c == '-', c == '.', c == '_', c == '~':
		default:
			return false
		}
	}
	return b[i+3] != '/'
}

func hexDigit(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

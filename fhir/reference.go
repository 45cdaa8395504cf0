package fhir

import (
	"net/url"
	"regexp"
	"strings"
)

// reference is a FHIR Reference, taken apart by its form alone, without looking anything up.
type reference struct {
	kind    string // resource type, when the form or Reference.type says it
	id      string // logical id; for urn:uuid the uuid
	url     string // as written, when it may be a fullUrl of the same bundle
	local   string // id of a contained resource
	token   string // system|value of a conditional or logical reference
	display string
}

func (r reference) exists() bool {
	return r.id != "" || r.local != "" || r.token != "" || r.display != ""
}

// stated is the reference in a form that is the same in every packaging: used for identities, never shown.
func (r reference) stated() string {
	switch {
	case r.id != "":
		return r.id
	case r.local != "":
		return "#" + r.local
	default:
		return r.token
	}
}

var resourceName = regexp.MustCompile(`^[A-Z][A-Za-z]{2,63}$`)

// reference reads a Reference member.
func (n node) reference(name string) reference { return n.get(name).asReference() }

func (n node) asReference() reference {
	if s, ok := n.v.(string); ok { // seen in the wild: the text itself in place of {"reference": …}
		n.note()
		return parseReference(s)
	}
	r := parseReference(n.text("reference"))
	if t := n.text("type"); r.kind == "" && resourceName.MatchString(t) {
		r.kind = t
	}
	r.display = n.text("display")
	if r.id == "" && r.local == "" && r.token == "" {
		if v := n.path("identifier", "value").string(); v != "" {
			r.token = n.path("identifier", "system").string() + "|" + v
		}
	}
	return r
}

// parseReference understands "Patient/1", "Patient/1/_history/2", "#med1", "urn:uuid:…", "urn:oid:…",
// "https://host/fhir/Patient/1", "Patient?identifier=system|value".
func parseReference(s string) reference {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return reference{}
	case strings.HasPrefix(s, "#"):
		return reference{local: s[1:]}
	case strings.HasPrefix(s, "urn:"):
		return reference{id: s[strings.LastIndexByte(s, ':')+1:], url: s}
	}
	if path, query, ok := strings.Cut(s, "?"); ok {
		kind := path[strings.LastIndexByte(path, '/')+1:]
		for term := range strings.SplitSeq(query, "&") {
			if v, ok := strings.CutPrefix(term, "identifier="); ok {
				return reference{kind: kind, token: unescape(v)}
			}
			if v, ok := strings.CutPrefix(term, "_id="); ok {
				return reference{kind: kind, id: v}
			}
		}
		return reference{kind: kind, token: query}
	}
	r := reference{}
	if strings.Contains(s, "://") {
		r.url = s
	}
	parts := strings.Split(strings.TrimRight(s, "/"), "/")
	if n := len(parts); n >= 4 && parts[n-2] == "_history" {
		parts = parts[:n-2]
	}
	n := len(parts)
	r.id = parts[n-1]
	if n >= 2 && resourceName.MatchString(parts[n-2]) {
		r.kind = parts[n-2]
	}
	return r
}

// unescape undoes the percent-encoding of a query value; a broken one stays as it is.
func unescape(s string) string {
	if out, err := url.PathUnescape(s); err == nil {
		return out
	}
	return s
}

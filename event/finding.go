package event

import "strings"

// Finding is one thing that is wrong, or worth a warning, about one place of an event.
// It never quotes a payload value: values may be protected health information.
type Finding struct {
	Pointer string `json:"pointer"`           // JSON pointer (RFC 6901) into the envelope: "/metadata/eventType"; "" is the whole
	Rule    string `json:"rule"`              // stable name of the broken rule: "metadata.required"
	Message string `json:"message"`           // what is wrong
	Remedy  string `json:"remedy,omitempty"`  // what to do about it
	Warning bool   `json:"warning,omitempty"` // the event is accepted all the same
}

func (f Finding) String() string {
	var b strings.Builder
	if f.Pointer == "" {
		b.WriteString("(event)")
	} else {
		b.WriteString(f.Pointer)
	}
	b.WriteString(": ")
	b.WriteString(f.Message)
	b.WriteString(" [")
	b.WriteString(f.Rule)
	b.WriteString("]")
	if f.Remedy != "" {
		b.WriteString("; ")
		b.WriteString(f.Remedy)
	}
	return b.String()
}

// maxFindings bounds how many findings one event collects: a hostile text must not become a large report.
const maxFindings = 100

// report collects the findings of one event.
type report struct {
	findings []Finding
	refused  bool // some finding is not a warning
}

func (r *report) refuse(pointer, rule, message, remedy string) {
	r.refused = true
	r.add(Finding{Pointer: pointer, Rule: rule, Message: message, Remedy: remedy})
}

func (r *report) warn(pointer, rule, message, remedy string) {
	r.add(Finding{Pointer: pointer, Rule: rule, Message: message, Remedy: remedy, Warning: true})
}

func (r *report) add(f Finding) {
	if len(r.findings) < maxFindings {
		r.findings = append(r.findings, f)
	}
}

// outcome turns the report into what the package's functions return: warnings, or the error that holds everything.
func (r *report) outcome(m *Metadata) ([]Finding, error) {
	if !r.refused {
		return r.findings, nil
	}
	e := &InvalidError{Findings: r.findings}
	if visible(m.ID, maxID) {
		e.EventID = m.ID
	}
	if visible(m.Type, maxType) {
		e.Type = m.Type
	}
	return nil, e
}

// InvalidError says why an event was refused: every finding, not only the first (of very many, the first hundred).
// The warnings are among them. Test for it with errors.As.
type InvalidError struct {
	EventID  string // as far as it could be read
	Type     string // as far as it could be read
	Findings []Finding
}

func (e *InvalidError) Error() string {
	var b strings.Builder
	b.WriteString("invalid event")
	if e.Type != "" {
		b.WriteString(" " + e.Type)
	}
	for i, f := range e.Findings {
		if i == 0 {
			b.WriteString(": ")
		} else {
			b.WriteString("; ")
		}
		b.WriteString(f.String())
	}
	return b.String()
}

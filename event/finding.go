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

// InvalidError says why an event was refused: every finding, not only the first. Test for it with errors.As.
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

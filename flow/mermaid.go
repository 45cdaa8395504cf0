package flow

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// WriteMermaid draws the flow as a Mermaid sequenceDiagram: a participant for each service in order of appearance, an
// arrow for each event to each service that reacted to it, a note for an event that nobody reacted to, a crossed arrow
// to the group that failed on an event, an arrow from a saga to itself for a step, a note of the groups where Build was given any. Every name and text is escaped, so that no value can become syntax. o may be nil.
func (f *Flow) WriteMermaid(w io.Writer, o *Options) error {
	d := f.diagram(o.orDefault())
	var b strings.Builder
	b.WriteString("sequenceDiagram\n")
	// Participants are named p1, p2, … and carry their real names only as escaped labels.
	for i, name := range d.participants {
		fmt.Fprintf(&b, "    participant p%d as %s\n", i+1, escapeMermaid(name))
	}
	for _, s := range d.steps {
		switch s.kind {
		case message, work:
			fmt.Fprintf(&b, "    p%d->>p%d: %s\n", s.from+1, s.to+1, escapeMermaid(s.text+" +"+span(s.atMs)))
		case failed:
			fmt.Fprintf(&b, "    p%d-xp%d: %s\n", s.from+1, s.to+1, escapeMermaid(s.text+" "+s.detail))
		case local:
			fmt.Fprintf(&b, "    Note over p%d: %s\n", s.from+1, escapeMermaid(s.text+" +"+span(s.atMs)))
		case handled:
			fmt.Fprintf(&b, "    Note over p%d: %s\n", s.from+1, escapeMermaid(s.text))
		case lostFailure:
			fmt.Fprintf(&b, "    Note over p%d: %s\n", s.from+1, escapeMermaid("+"+span(s.atMs)+" "+s.detail))
		case across:
			over := "p1"
			if last := len(d.participants); last > 1 {
				over = "p1,p" + strconv.Itoa(last)
			}
			fmt.Fprintf(&b, "    Note over %s: %s\n", over, escapeMermaid(s.text))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// escapeMermaid writes text as a Mermaid label. What could be syntax in any of its places (separators, comments,
// brackets, quotes, HTML) becomes an entity code, #decimal;, which Mermaid turns back when it draws. A label is never
// empty, and no word of it is a keyword: "end" closes a block wherever it stands.
func escapeMermaid(s string) string {
	var b strings.Builder
	word := strings.Builder{}
	flush := func() {
		w := word.String()
		if strings.EqualFold(w, "end") {
			fmt.Fprintf(&b, "#%d;", w[0])
			w = w[1:]
		}
		b.WriteString(w)
		word.Reset()
	}
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			word.WriteRune(r)
		case strings.ContainsRune(" .-_/+()…µ", r):
			flush()
			b.WriteRune(r)
		case !unicode.IsPrint(r):
			flush()
			b.WriteByte('?')
		default:
			flush()
			fmt.Fprintf(&b, "#%d;", r)
		}
	}
	flush()
	if out := b.String(); strings.TrimSpace(out) != "" {
		return out
	}
	return "?"
}

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
// to the group that failed on an event. Every name and text is escaped, so that no value can become syntax. o may be nil.
func (f *Flow) WriteMermaid(w io.Writer, o *Options) error {
	opts := o.orDefault()
	drawn := f.Events[:min(len(f.Events), opts.Limit)]
	m := &mermaid{ids: map[string]string{}}
	m.b.WriteString("sequenceDiagram\n")
	for _, e := range drawn {
		if e.Failure == nil {
			m.participant(e.Source)
		}
	}
	for i := range drawn {
		for _, c := range f.consumers(i, len(drawn)) {
			if c.failure != nil {
				m.participant(groupName(c.failure))
			}
		}
	}
	for i, e := range drawn {
		if pause, ok := f.pauseBefore(i, opts.Pause); ok && len(m.order) > 0 {
			m.note(m.all(), "pause of "+span(pause))
		}
		if e.Failure != nil {
			if e.Cause < 0 || e.Cause >= len(drawn) {
				// The event that failed is not drawn, so there is nothing to hang the failure on.
				m.note(m.participant(groupName(e.Failure)), "+"+span(e.AtMs)+" "+failureText(e.Failure))
			}
			continue
		}
		text := e.Type + " +" + span(e.AtMs)
		consumers := f.consumers(i, len(drawn))
		if len(consumers) == 0 {
			m.note(m.participant(e.Source), text)
		}
		for _, c := range consumers {
			if c.failure != nil {
				m.arrow(e.Source, "-x", groupName(c.failure), e.Type+" "+failureText(c.failure))
			} else {
				m.arrow(e.Source, "->>", c.source, text)
			}
		}
	}
	if more := len(f.Events) - len(drawn); more > 0 && len(m.order) > 0 {
		m.note(m.all(), "… "+counted(more, "more event", "more events"))
	}
	_, err := io.WriteString(w, m.b.String())
	return err
}

type consumer struct {
	source  string
	failure *Failure
}

// consumers are the services that reacted to event i, once each, in order, and the groups that failed on it.
func (f *Flow) consumers(i, drawn int) []consumer {
	var out []consumer
	seen := map[string]bool{}
	for _, n := range f.Events[i].Effects {
		e := &f.Events[n]
		switch {
		case n >= drawn:
		case e.Failure != nil:
			out = append(out, consumer{failure: e.Failure})
		case !seen[e.Source]:
			seen[e.Source] = true
			out = append(out, consumer{source: e.Source})
		}
	}
	return out
}

func groupName(x *Failure) string { return "group " + x.Group }

// mermaid writes statements. Participants are named p1, p2, … and carry their real names only as escaped labels.
type mermaid struct {
	b     strings.Builder
	ids   map[string]string
	order []string
}

func (m *mermaid) participant(name string) string {
	id := m.ids[name]
	if id == "" {
		id = "p" + strconv.Itoa(len(m.order)+1)
		m.ids[name] = id
		m.order = append(m.order, id)
		fmt.Fprintf(&m.b, "    participant %s as %s\n", id, escapeMermaid(name))
	}
	return id
}

func (m *mermaid) arrow(from, line, to, text string) {
	a, b := m.participant(from), m.participant(to)
	fmt.Fprintf(&m.b, "    %s%s%s: %s\n", a, line, b, escapeMermaid(text))
}

func (m *mermaid) note(over, text string) {
	fmt.Fprintf(&m.b, "    Note over %s: %s\n", over, escapeMermaid(text))
}

func (m *mermaid) all() string {
	if len(m.order) == 1 {
		return m.order[0]
	}
	return m.order[0] + "," + m.order[len(m.order)-1]
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

package flow

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxIndent bounds how far the tree is indented: a chain of ten thousand causes must not become a page that wide.
const maxIndent = 24

// WriteTree draws the flow as a tree for a terminal: one line per event with the time since the start, the type under
// its cause, the service, how long after its cause it was recorded, and the last eight characters of its id. Failures
// stand under the event that failed; pauses are marked. Control characters never reach w. o may be nil.
func (f *Flow) WriteTree(w io.Writer, o *Options) error {
	opts := o.orDefault()
	t := &tree{flow: f, opts: opts}
	for _, root := range f.roots() {
		t.walk(root)
	}
	var b strings.Builder
	t.head(&b)
	t.lines(&b)
	if more := len(f.Events) - len(t.rows); more > 0 {
		fmt.Fprintf(&b, "… %s\n", counted(more, "more event", "more events"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

type row struct {
	at, branch, service, took, id, note string
}

type tree struct {
	flow *Flow
	opts Options
	rows []row
}

// visit is an event on the way down, with the lines drawn to its left.
type visit struct {
	event int
	depth int
	lead  string // what stands before the branch of its own children
	last  bool   // of its siblings
}

// walk lists a root and everything under it, depth first, without recursion: chains may be long.
func (t *tree) walk(root int) {
	stack := []visit{{event: root, last: true}}
	for len(stack) > 0 && len(t.rows) < t.opts.Limit {
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		t.add(v)
		lead := v.lead
		switch {
		case v.depth == 0 || v.depth >= maxIndent:
		case v.last:
			lead += "   "
		default:
			lead += "│  "
		}
		effects := t.flow.Events[v.event].Effects
		for i := len(effects) - 1; i >= 0; i-- {
			stack = append(stack, visit{effects[i], v.depth + 1, lead, i == len(effects)-1})
		}
	}
}

func (t *tree) add(v visit) {
	e := &t.flow.Events[v.event]
	r := row{at: "+" + span(e.AtMs), branch: clean(e.Type), service: clean(e.Source), id: shortID(e.EventID)}
	if v.depth > 0 {
		branch := "├─ "
		if v.last {
			branch = "└─ "
		}
		if v.depth >= maxIndent {
			branch += "(" + strconv.Itoa(v.depth) + " deep) "
		}
		r.branch = v.lead + branch + r.branch
		r.took = span(e.TookMs)
	}
	var notes []string
	if e.Orphan {
		notes = append(notes, "its cause …"+shortID(e.CausationID)+" is not in this flow")
	}
	if x := e.Failure; x != nil {
		text := "✗ " + failureText(x)
		if x.Error != "" {
			text += ": " + x.Error
		}
		notes = append(notes, clean(text))
	}
	if e.Work != nil {
		notes = append(notes, clean(workText(e.Work)))
	}
	if text := handlingText(e); text != "" {
		notes = append(notes, clean(text))
	}
	if pause, ok := t.flow.pauseBefore(v.event, t.opts.Pause); ok {
		notes = append(notes, "after a pause of "+span(pause))
	}
	r.note = strings.Join(notes, "; ")
	t.rows = append(t.rows, r)
}

func (t *tree) head(b *strings.Builder) {
	f := t.flow
	if len(f.Events) == 0 {
		b.WriteString("no events\n")
		return
	}
	fmt.Fprintf(b, "flow %s\n", clean(f.CorrelationID))
	fmt.Fprintf(b, "%s · %s · %s", counted(len(f.Events), "event", "events"), counted(len(f.Services), "source", "sources"), span(f.DurationMs))
	if f.Failures > 0 {
		fmt.Fprintf(b, " · %s", counted(f.Failures, "failure", "failures"))
	}
	if f.Orphans > 0 {
		fmt.Fprintf(b, " · %s", counted(f.Orphans, "orphan", "orphans"))
	}
	fmt.Fprintf(b, " · began %s\n\n", f.Start.Format("2006-01-02 15:04:05.000 UTC"))
}

func (t *tree) lines(b *strings.Builder) {
	var at, branch, service, took int
	for _, r := range t.rows {
		at, branch = max(at, width(r.at)), max(branch, width(r.branch))
		service, took = max(service, width(r.service)), max(took, width(r.took))
	}
	for _, r := range t.rows {
		line := pad("", at-width(r.at)) + r.at + "  " + pad(r.branch, branch) + "  " + pad(r.service, service) + "  " +
			pad("", took-width(r.took)) + r.took + "  …" + r.id
		if r.note != "" {
			line += "  " + r.note
		}
		b.WriteString(line + "\n")
	}
}

// width counts runes: everything printed here is one cell wide in practice.
func width(s string) int { return utf8.RuneCountInString(s) }

func pad(s string, to int) string { return s + strings.Repeat(" ", max(0, to-width(s))) }

// shortID is the end of an id: the beginning of a UUIDv7 is the time, which the ids of one flow share.
func shortID(id string) string {
	if len(id) > 8 {
		id = id[len(id)-8:]
	}
	return clean(id)
}

// clean makes text from outside harmless in a terminal: one line, no control characters or marks that turn the line round.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func counted(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.Itoa(n) + " " + many
}

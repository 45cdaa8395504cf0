package flow

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// WriteText writes the topology for a terminal: each service with what it publishes and to which groups that goes, each
// group with its lag, and the types of which no publisher was seen. Control characters never reach w. o may be nil.
func (t *Topology) WriteText(w io.Writer, o *Options) error {
	opts := o.orDefault()
	var b strings.Builder
	fmt.Fprintf(&b, "%s · %s · %s · %d stored", counted(len(t.Services), "service", "services"), counted(len(t.Types), "type", "types"),
		counted(len(t.Groups), "group", "groups"), t.Stored)
	if t.Looked != t.Stored {
		fmt.Fprintf(&b, ", %d looked at", t.Looked)
	}
	fmt.Fprintf(&b, " · rates over %s before %s\n", span(t.WindowMs), t.At.Format("2006-01-02 15:04:05 UTC"))
	if !t.From.IsZero() {
		fmt.Fprintf(&b, "publications from %s on\n", t.From.Format("2006-01-02 15:04:05 UTC"))
	}
	uses := map[string]*TypeUse{}
	for i := range t.Types {
		uses[t.Types[i].Type] = &t.Types[i]
	}
	left := opts.Limit
	for _, s := range t.Services {
		fmt.Fprintf(&b, "\n%s  %d, %s\n", clean(s.Name), s.Count, rate(s.PerMinute))
		rows := [][]string{}
		for _, p := range s.Published {
			if left == 0 {
				break
			}
			left--
			rows = append(rows, []string{"  " + clean(p.Type), strconv.FormatInt(p.Count, 10), rate(p.PerMinute), p.Last.Format(time.DateTime), "→ " + consumers(uses[p.Type])})
		}
		columns(&b, rows)
		if more := len(s.Published) - len(rows); more > 0 {
			fmt.Fprintf(&b, "  … %s\n", counted(more, "more type", "more types"))
		}
	}
	if len(t.Groups) > 0 {
		b.WriteString("\n")
		rows := [][]string{{"group", "service", "state", "handled", "pending", "lag", "parked", "wants"}}
		for i := range t.Groups {
			g := &t.Groups[i]
			rows = append(rows, []string{clean(g.Group), clean(g.Service), clean(g.State), strconv.FormatInt(g.Handled, 10), strconv.FormatInt(g.Pending, 10),
				strconv.FormatInt(g.Lag, 10), strconv.FormatInt(g.ParkedKeys, 10), clean(strings.Join(g.Patterns, " "))})
		}
		columns(&b, rows)
	}
	unseen := [][]string{}
	for i := range t.Types {
		if u := &t.Types[i]; len(u.Services) == 0 {
			unseen = append(unseen, []string{"  " + clean(u.Type), strconv.FormatInt(u.Stored, 10), "→ " + consumers(u)})
		}
	}
	if len(unseen) > 0 {
		b.WriteString("\nstored, but published before what was looked at\n")
		columns(&b, unseen[:min(len(unseen), opts.Limit)])
		if more := len(unseen) - opts.Limit; more > 0 {
			fmt.Fprintf(&b, "  … %s\n", counted(more, "more type", "more types"))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// consumers names the groups of a type.
func consumers(u *TypeUse) string {
	if len(u.Groups) == 0 {
		return "–"
	}
	return clean(strings.Join(u.Groups, ", "))
}

// wantAll returns the groups that want every type.
func (t *Topology) wantAll() map[string]bool {
	all := map[string]bool{}
	for i := range t.Groups {
		if everything(t.Groups[i].Patterns) {
			all[t.Groups[i].Group] = true
		}
	}
	return all
}

// columns writes rows as wide as their widest cells, without blanks at the end of a line.
func columns(b *strings.Builder, rows [][]string) {
	var widths []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], width(c))
		}
	}
	for _, r := range rows {
		line := ""
		for i, c := range r {
			line += pad(c, widths[i]+2)
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

func rate(perMinute float64) string {
	switch {
	case perMinute == 0:
		return "0/min"
	case perMinute < 0.1:
		return "<0.1/min"
	case perMinute >= 600:
		return strconv.FormatFloat(perMinute/60, 'f', 0, 64) + "/s"
	}
	return strconv.FormatFloat(perMinute, 'f', 1, 64) + "/min"
}

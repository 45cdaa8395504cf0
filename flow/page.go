package flow

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// PageOptions of a drawing inside an HTML page. The zero value works.
type PageOptions struct {
	Options
	// Link is the address of the page about an event; empty for none. It is made by the program, never of what an event says
	// without escaping it. Default: no links.
	Link func(e *Event) string
	// Mark is the id of an event to be pointed out.
	Mark string
	// Expected are steps that are declared and have not been seen: they are drawn last, as what is still to come.
	Expected []Expected
}

// Expected is a step that somebody is to do and that no event tells of yet.
type Expected struct {
	Service string // or "saga NAME"; a lifeline is added where there is none
	Text    string
}

// Sizes in pixels of the drawing in a page.
const (
	pageRow    = 32
	pageLetter = 6.65 // width of a letter of 11 px monospace
	pageGutter = 138
	pageTop    = 54
)

// WritePage draws the flow as a sequence diagram in SVG that is a part of an HTML page: without colours of its own, which
// the page gives by the classes (lane, head, arrow, pill, work, fail, ghost, gap, time, and the attribute data-domain), without
// script and style, and with a link per event. Names and texts are escaped. o may be nil.
func (f *Flow) WritePage(w io.Writer, o *PageOptions) error {
	if o == nil {
		o = &PageOptions{}
	}
	d := f.diagram(o.orDefault())
	for _, x := range o.Expected {
		d.expect(x)
	}
	p := pageDrawing{f: f, o: o, d: d}
	p.columns()
	p.draw()
	_, err := io.WriteString(w, p.b.String())
	return err
}

// ghost is a step that has not been seen.
const ghost stepKind = 100

func (d *diagram) expect(x Expected) {
	at := -1
	for i, name := range d.participants {
		if name == x.Service {
			at = i
		}
	}
	if at < 0 {
		at = len(d.participants)
		d.participants = append(d.participants, x.Service)
	}
	d.steps = append(d.steps, step{kind: ghost, from: at, to: at, text: x.Text, event: -1})
}

type pageDrawing struct {
	f     *Flow
	o     *PageOptions
	d     diagram
	b     strings.Builder
	x     []int // of the lifelines
	width int
}

func textWidth(s string) int { return int(float64(utf8.RuneCountInString(s))*pageLetter + 0.99) }

// most letters of a label: what is longer is cut in the middle, and whole in its tooltip.
const mostLetters = 64

func short(s string) string {
	if r := []rune(s); len(r) > mostLetters {
		return string(r[:mostLetters/2]) + "…" + string(r[len(r)-mostLetters/2+1:])
	}
	return s
}

// label is what a step says.
func (st *step) label() string {
	switch st.kind {
	case lostFailure:
		return st.detail
	case failed:
		return st.text + " · " + st.detail
	}
	return st.text
}

// columns places the lifelines so that heads and the labels between them have room, and no further apart.
func (p *pageDrawing) columns() {
	n := len(p.d.participants)
	gaps := make([]int, max(n-1, 0))
	for i := range gaps {
		gaps[i] = max((p.head(i)+p.head(i+1))/2+14, 60)
	}
	for span := 1; span < n; span++ { // short arrows first: long ones have the room that those have made
		for i := range p.d.steps {
			st := &p.d.steps[i]
			lo, hi := min(st.from, st.to), max(st.from, st.to)
			if hi-lo != span || st.kind == across {
				continue
			}
			have := 0
			for _, g := range gaps[lo:hi] {
				have += g
			}
			if want := textWidth(short(st.label())) + 62; want > have {
				for j := lo; j < hi; j++ {
					gaps[j] += (want - have + span - 1) / span
				}
			}
		}
	}
	p.x = make([]int, n)
	for i := range p.x {
		if i == 0 {
			p.x[0] = pageGutter + p.head(0)/2 + 8
		} else {
			p.x[i] = p.x[i-1] + gaps[i-1]
		}
		p.width = max(p.width, p.x[i]+p.head(i)/2+8)
	}
	for i := range p.d.steps {
		if st := &p.d.steps[i]; n > 0 && st.kind != across && st.from == st.to {
			p.width = max(p.width, p.x[st.from]+textWidth(short(st.label()))+64)
		}
	}
	p.width = max(p.width, pageGutter+120)
}

func (p *pageDrawing) head(i int) int { return textWidth(short(p.d.participants[i])) + 26 }

func (p *pageDrawing) draw() {
	height := pageTop + pageRow*len(p.d.steps) + 18
	b := &p.b
	fmt.Fprintf(b, `<svg class="sequence" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		p.width, height, p.width, height, plain("Sequence diagram of flow "+p.f.CorrelationID))
	first, last := map[int]int{}, map[int]int{} // rows in which a participant is at work
	at := func(i, row int) {
		if _, ok := first[i]; !ok {
			first[i] = row
		}
		last[i] = row
	}
	for row, st := range p.d.steps {
		if st.kind != across && st.kind != ghost {
			at(st.from, row)
			if st.kind == message {
				at(st.to, row)
			}
		}
	}
	for i, name := range p.d.participants {
		class := "head"
		if strings.HasPrefix(name, "group ") {
			class = "head failing"
		}
		fmt.Fprintf(b, `<line class="lane" x1="%d" y1="40" x2="%d" y2="%d"/>`+"\n", p.x[i], p.x[i], height-6)
		fmt.Fprintf(b, `<rect class="%s" x="%d" y="10" width="%d" height="28" rx="6"/><text class="name" x="%d" y="28">%s<title>%s</title></text>`+"\n",
			class, p.x[i]-p.head(i)/2, p.head(i), p.x[i], plain(short(name)), plain(name))
		if row, ok := first[i]; ok {
			fmt.Fprintf(b, `<rect class="busy" x="%d" y="%d" width="8" height="%d" rx="2"/>`+"\n", p.x[i]-4, p.y(row)-8, p.y(last[i])-p.y(row)+16)
		}
	}
	before := -1
	for row := range p.d.steps {
		st := &p.d.steps[row]
		p.row(st, p.y(row), st.event >= 0 && st.event != before, before)
		if st.event >= 0 {
			before = st.event
		}
	}
	b.WriteString("</svg>\n")
}

func (p *pageDrawing) y(row int) int { return pageTop + pageRow*row + pageRow/2 }

func (p *pageDrawing) row(st *step, y int, timed bool, before int) {
	b := &p.b
	link := ""
	class := "row"
	if st.event >= 0 {
		e := &p.f.Events[st.event]
		if p.o.Link != nil {
			link = p.o.Link(e)
		}
		if p.o.Mark != "" && e.EventID == p.o.Mark {
			class = "row marked"
		}
	}
	if link != "" {
		fmt.Fprintf(b, `<a class="%s" href="%s">`, class, plain(link))
	} else {
		fmt.Fprintf(b, `<g class="%s">`, class)
	}
	fmt.Fprintf(b, `<rect class="hit" x="0" y="%d" width="%d" height="%d"/>`, y-pageRow/2, p.width, pageRow)
	if timed {
		e := &p.f.Events[st.event]
		fmt.Fprintf(b, `<text class="time" x="70" y="%d">+%s</text>`, y+4, plain(span(e.AtMs)))
		if before >= 0 {
			if gap := e.AtMs - p.f.Events[before].AtMs; gap > 0 {
				slow := ""
				if gap >= millis(p.o.orDefault().Pause) {
					slow = " slow"
				}
				fmt.Fprintf(b, `<text class="delta%s" x="78" y="%d">%s</text>`, slow, y+4, plain(span(gap)))
			}
		}
	}
	p.mark(st, y)
	if link != "" {
		b.WriteString("</a>\n")
	} else {
		b.WriteString("</g>\n")
	}
}

func (p *pageDrawing) mark(st *step, y int) {
	b := &p.b
	if st.kind == across {
		fmt.Fprintf(b, `<line class="gap" x1="%d" y1="%d" x2="%d" y2="%d"/>`, pageGutter, y, p.width-8, y)
		p.pill("gaplabel", "", (pageGutter+p.width)/2, y, st.text)
		return
	}
	from, to := p.x[st.from], p.x[st.to]
	domain := ""
	if st.kind == message || st.kind == local {
		domain, _, _ = strings.Cut(st.text, ".")
	}
	switch {
	case st.kind == failed || st.kind == message && from != to:
		class, dir := "arrow", 1
		if st.kind == failed {
			class = "arrow fail"
		}
		if to < from {
			dir = -1
		}
		fmt.Fprintf(b, `<path class="%s" data-domain="%s" d="M%d %dH%d"/>`, class, plain(domain), from+5*dir, y, to-5*dir)
		if st.kind == failed {
			fmt.Fprintf(b, `<path class="cross" d="M%d %dl10 10m0-10l-10 10"/>`, to-5, y-5)
		} else {
			fmt.Fprintf(b, `<path class="tip" data-domain="%s" d="M%d %dl%d -4v8z"/>`, plain(domain), to-4*dir, y, -8*dir)
		}
		p.pill(map[bool]string{true: "pill fail", false: "pill"}[st.kind == failed], domain, (from+to)/2, y, st.label())
	default: // what happens at one lifeline stands to the right of it
		class := map[stepKind]string{message: "pill", local: "pill quiet", work: "pill work", handled: "pill handled", lostFailure: "pill fail", ghost: "pill ghost"}[st.kind]
		text := short(st.label())
		if st.kind == message {
			fmt.Fprintf(b, `<path class="arrow" data-domain="%s" d="M%d %dh14v9h-10"/><path class="tip" data-domain="%s" d="M%d %dl8 -4v8z"/>`, plain(domain), from+5, y-4, plain(domain), from+4, y+5)
		} else {
			fmt.Fprintf(b, `<circle class="dot" data-domain="%s" cx="%d" cy="%d" r="4"/>`, plain(domain), from, y)
		}
		p.pill(class, domain, from+26+textWidth(text)/2+8, y, st.label())
	}
}

// pill is a text on a ground of its own, around x.
func (p *pageDrawing) pill(class, domain string, x, y int, text string) {
	cut := short(text)
	width := textWidth(cut) + 16
	fmt.Fprintf(&p.b, `<rect class="%s" data-domain="%s" x="%d" y="%d" width="%d" height="20" rx="10"/><text class="label %s" data-domain="%s" x="%d" y="%d">%s<title>%s</title></text>`,
		class, plain(domain), x-width/2, y-10, width, class, plain(domain), x, y+4, plain(cut), plain(text))
}

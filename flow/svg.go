package flow

import (
	"fmt"
	"html"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Theme chooses the colours of an SVG.
type Theme string

// The themes.
const (
	ThemeAuto  Theme = "" // light or dark, as the reader's system is set
	ThemeLight Theme = "light"
	ThemeDark  Theme = "dark"
)

// Sizes in pixels.
const (
	svgMargin  = 16
	svgGutter  = 76 // times, on the left
	svgColumn  = 240
	svgHeader  = 34
	svgRow     = 40
	svgLetter  = 6.7 // width of a letter of the labels, on the safe side
	svgPadding = 10
)

const (
	lightColours = `--ground:#ffffff;--text:#1f2933;--quiet:#52606d;--line:#9aa5b1;--box:#e4ecf7;--edge:#4a6fa5;--arrow:#2f5d9b;--note:#f5f0dc;--fail:#b42318`
	darkColours  = `--ground:#14191f;--text:#e6eaef;--quiet:#a3afbd;--line:#4b5866;--box:#22303f;--edge:#6f9bd1;--arrow:#8bb8f0;--note:#33301f;--fail:#ff8a7a`
)

// WriteSVG draws the flow as a sequence diagram in SVG: a lifeline for each service, an arrow for each event to each
// service that reacted to it, time running down. It is one self-contained document without script; names and texts are
// escaped. A label that does not fit is cut, and is whole in its tooltip. o may be nil.
func (f *Flow) WriteSVG(w io.Writer, o *Options) error {
	opts := o.orDefault()
	d := f.diagram(opts)
	width := svgMargin*2 + svgGutter + svgColumn*max(len(d.participants), 1)
	top := svgMargin + svgHeader
	height := top + svgRow*len(d.steps) + svgRow/2 + svgMargin
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">`+"\n",
		width, height, width, height, plain("Sequence diagram of flow "+f.CorrelationID))
	fmt.Fprintf(&b, "<style>%s</style>\n", styles(opts.Theme))
	b.WriteString(`<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto-start-reverse"><path class="arrowhead" d="M0 0 8 4 0 8z"/></marker></defs>` + "\n")
	fmt.Fprintf(&b, `<rect class="ground" width="%d" height="%d"/>`+"\n", width, height)
	s := svg{&b, d}
	for i, name := range d.participants {
		x := s.x(i)
		fmt.Fprintf(&b, `<line class="life" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", x, top, x, height-svgMargin)
		fmt.Fprintf(&b, `<rect class="box" x="%d" y="%d" width="%d" height="%d" rx="6"/>`+"\n", x-svgColumn/2+svgPadding, svgMargin, svgColumn-2*svgPadding, svgHeader)
		s.label("name", x, svgMargin+svgHeader/2+4, name, svgColumn-4*svgPadding)
	}
	for i, st := range d.steps {
		s.step(st, top+svgRow*i+svgRow*3/4)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func styles(t Theme) string { return colours(t) + diagramStyles }

const diagramStyles = `text{font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:var(--text);text-anchor:middle}` +
	`.ground{fill:var(--ground)}.life{stroke:var(--line);stroke-dasharray:3 4}.box{fill:var(--box);stroke:var(--edge)}.name{font-weight:600}` +
	`.time{fill:var(--quiet);text-anchor:end}.arrow{stroke:var(--arrow);stroke-width:1.5;fill:none;marker-end:url(#head)}.arrowhead{fill:var(--arrow)}` +
	`.fail{stroke:var(--fail);stroke-width:1.5;fill:none}.failtext{fill:var(--fail)}.note{fill:var(--note);stroke:var(--line)}.work{fill:var(--ground);stroke:var(--edge)}.gap{stroke:var(--quiet);stroke-dasharray:1 5}.gaptext{fill:var(--quiet)}`

func colours(t Theme) string {
	out := "svg{" + lightColours + "}"
	switch t {
	case ThemeDark:
		out = "svg{" + darkColours + "}"
	case ThemeAuto:
		out += "@media (prefers-color-scheme:dark){svg{" + darkColours + "}}"
	}
	return out
}

type svg struct {
	b *strings.Builder
	d diagram
}

// x is the lifeline of a participant.
func (s svg) x(i int) int { return svgMargin + svgGutter + svgColumn*i + svgColumn/2 }

func (s svg) step(st step, y int) {
	if st.kind != across && st.kind != handled {
		fmt.Fprintf(s.b, `<text class="time" x="%d" y="%d">+%s</text>`+"\n", svgMargin+svgGutter-8, y+4, plain(span(st.atMs)))
	}
	from, to := s.x(st.from), s.x(st.to)
	switch st.kind {
	case message:
		if from == to {
			fmt.Fprintf(s.b, `<path class="arrow" d="M%d %d h36 v12 h-32"/>`+"\n", from, y-6)
			s.label("after", from+44, y+4, st.text, svgColumn/2-52)
			return
		}
		fmt.Fprintf(s.b, `<line class="arrow" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", from, y, to, y)
		s.label("", (from+to)/2, y-6, st.text, abs(to-from)-2*svgPadding)
	case failed:
		fmt.Fprintf(s.b, `<line class="fail" x1="%d" y1="%d" x2="%d" y2="%d"/><path class="fail" d="M%d %d l10 10 m0 -10 l-10 10"/>`+"\n", from, y, to, y, to-5, y-5)
		s.label("failtext", (from+to)/2, y-6, st.text, abs(to-from)-2*svgPadding)
		s.label("failtext", (from+to)/2, y+14, st.detail, abs(to-from)-2*svgPadding)
	case work:
		// The arrow back to itself stands at the left end, so that the text has the width of the column.
		width := svgColumn - 2*svgPadding
		fmt.Fprintf(s.b, `<rect class="work" x="%d" y="%d" width="%d" height="22" rx="11"/>`+"\n", from-width/2, y-11, width)
		fmt.Fprintf(s.b, `<path class="arrow" d="M%d %d h12 v8 h-10"/>`+"\n", from-width/2+8, y-4)
		s.label("", from+8, y+4, st.text, width-40)
	case local, lostFailure, handled:
		text, class := st.text, ""
		switch st.kind {
		case lostFailure:
			text, class = st.detail, "failtext"
		case handled:
			class = "gaptext"
		}
		width := svgColumn - 2*svgPadding
		fmt.Fprintf(s.b, `<rect class="note" x="%d" y="%d" width="%d" height="22" rx="4"/>`+"\n", from-width/2, y-11, width)
		s.label(class, from, y+4, text, width-svgPadding)
	case across:
		left, right := svgMargin+svgGutter, s.x(max(len(s.d.participants), 1)-1)+svgColumn/2
		fmt.Fprintf(s.b, `<line class="gap" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", left, y+6, right, y+6)
		s.label("gaptext", (left+right)/2, y, st.text, right-left)
	}
}

// label writes a text as wide as there is room. The middle of a text that is too long goes: types begin alike.
func (s svg) label(class string, x, y int, text string, room int) {
	short := text
	if n := utf8.RuneCountInString(text); float64(n)*svgLetter > float64(room) {
		r := []rune(text)
		keep := max(int(float64(room)/svgLetter)-1, 2)
		short = string(r[:keep/3]) + "…" + string(r[n-(keep-keep/3):])
	}
	anchor := ""
	if class == "after" {
		class, anchor = "", ` style="text-anchor:start"`
	}
	fmt.Fprintf(s.b, `<text class="%s" x="%d" y="%d"%s>%s<title>%s</title></text>`+"\n", class, x, y, anchor, plain(short), plain(text))
}

func abs(n int) int { return max(n, -n) }

// plain escapes a text for XML, and takes out what XML cannot hold or what would turn the direction of reading.
func plain(s string) string {
	return html.EscapeString(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s))
}

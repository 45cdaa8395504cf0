package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"strings"
)

// masked is what stands in the place of a protected value.
const masked = "•••"

// mostNodes bounds how many values of one document are shown; the rest is in the raw document.
const mostNodes = 3000

// jsonHTML shows a JSON document as text with a line per member. Everything that comes from the document is escaped here:
// nothing else of it reaches the page.
func jsonHTML(doc json.RawMessage) template.HTML {
	if len(bytes.TrimSpace(doc)) == 0 {
		return `<div class="json empty">nothing</div>`
	}
	d := json.NewDecoder(bytes.NewReader(doc))
	d.UseNumber()
	p := jsonPrinter{d: d}
	p.b.WriteString(`<div class="json">`)
	if err := p.value(0); err != nil {
		return template.HTML(`<div class="json"><span class="s">` + template.HTMLEscapeString(clean(string(doc))) + `</span></div>`) //nolint:gosec // escaped
	}
	p.b.WriteString(`</div>`)
	return template.HTML(p.b.String()) //nolint:gosec // every part is a constant or escaped
}

type jsonPrinter struct {
	d     *json.Decoder
	b     strings.Builder
	nodes int
}

func (p *jsonPrinter) span(class, text string) {
	p.b.WriteString(`<span class="` + class + `">`)
	template.HTMLEscape(&p.b, []byte(text))
	p.b.WriteString(`</span>`)
}

func (p *jsonPrinter) value(depth int) error {
	t, err := p.d.Token()
	if err != nil {
		return err
	}
	p.nodes++
	switch t := t.(type) {
	case json.Delim:
		return p.container(byte(t), depth)
	case string:
		switch {
		case t == masked:
			p.span("masked", masked)
		default:
			p.span("s", quote(t))
		}
	case json.Number:
		p.span("n", t.String())
	case bool:
		p.span("b", fmt.Sprint(t))
	default:
		p.span("b", "null")
	}
	return nil
}

// quote is a string as JSON writes it, with what is invisible spelled out and what is long cut.
func quote(s string) string {
	text, err := json.Marshal(clean(s))
	if err != nil {
		return `""`
	}
	// Marshal spells out <, > and & too: the page escapes them itself.
	return strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&", `\\u`, `\u`).Replace(string(text))
}

// container prints an object or a list; the decoder has read its first sign. Beyond a depth, and beyond so many values, its
// members are read and not shown.
func (p *jsonPrinter) container(open byte, depth int) error {
	end := map[byte]string{'{': "}", '[': "]"}[open]
	if !p.d.More() {
		_, err := p.d.Token()
		p.span("p", string(open)+end)
		return err
	}
	p.span("p", string(open))
	p.b.WriteString(`<div class="in">`)
	for first := true; p.d.More(); first = false {
		if p.nodes > mostNodes || depth > 64 {
			p.span("more", "… more than is shown here; see the raw event")
			return p.skip(end)
		}
		if !first {
			p.b.WriteString("\n")
		}
		p.b.WriteString(`<div class="line">`)
		if open == '{' {
			name, err := p.d.Token()
			if err != nil {
				return err
			}
			p.span("k", clean(fmt.Sprint(name)))
			p.b.WriteString(": ")
		}
		if err := p.value(depth + 1); err != nil {
			return err
		}
		if p.d.More() {
			p.b.WriteString(",")
		}
		p.b.WriteString(`</div>`)
	}
	if _, err := p.d.Token(); err != nil {
		return err
	}
	p.b.WriteString(`</div>`)
	p.span("p", end)
	return nil
}

// skip reads to the end of the container that is open.
func (p *jsonPrinter) skip(end string) error {
	for depth := 1; depth > 0; {
		t, err := p.d.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
	p.b.WriteString(`</div>`)
	p.span("p", end)
	return nil
}

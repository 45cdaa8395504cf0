package codegen

import (
	"bytes"
	"fmt"
	"go/format"
	"slices"
	"strings"
	"text/template"
)

// maxLines is the length at which a file is continued in another.
const maxLines = 800

const width = 117 // of a comment's text

var templates = template.Must(template.New("").Funcs(template.FuncMap{"comment": comment}).Parse(`
{{define "struct"}}
{{comment "" .Doc}}type {{.Name}} struct {
{{- range .Fields}}
{{comment "\t" .Doc}}	{{.Name}} {{.Type}} ` + "`json:\"{{.Tag}}\"`" + `
{{- end}}
}
{{end}}

{{define "words"}}
{{comment "" .Doc}}type {{.Name}} string

// The values of {{.Name}} that its schema lists.
const (
{{- range .Values}}
	{{.Name}} {{$.Name}} = {{printf "%q" .Value}}
{{- end}}
)

// Known reports whether v is a value that the schema lists. Newer producers may send others.
func (v {{.Name}}) Known() bool {
	switch v {
	case {{range $i, $v := .Values}}{{if $i}},
		{{end}}{{$v.Name}}{{end}}:
		return true
	}
	return false
}
{{end}}

{{define "definition"}}
{{comment "" .Doc}}var {{.Name}} = event.Define[{{.Payload}}]({{printf "%q" .Type}}, {{printf "%q" .Version}})
{{end}}
`))

// unit is a piece of a file that is not divided.
type unit struct {
	text    string
	imports []string
}

func (p *goPackage) render(header string) (map[string][]byte, error) {
	byFile := map[string][]unit{}
	for _, t := range p.order {
		units, err := p.units(t)
		if err != nil {
			return nil, err
		}
		file := "shared"
		if len(t.entities) == 1 {
			for entity := range t.entities {
				file = strings.ReplaceAll(entity, "-", "")
			}
		}
		byFile[file] = append(byFile[file], units...)
	}
	out := map[string][]byte{"doc.go": []byte(p.docFile(header))}
	for file, units := range byFile {
		for i, part := range divide(units) {
			name := file + ".go"
			if i > 0 {
				name = fmt.Sprintf("%s%d.go", file, i+1)
			}
			text, err := format.Source([]byte(p.file(header, part)))
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			out[name] = text
		}
	}
	return out, nil
}

// divide cuts units into files that are not too long.
func divide(units []unit) [][]unit {
	var parts [][]unit
	lines := 0
	for _, u := range units {
		n := strings.Count(u.text, "\n")
		if len(parts) == 0 || lines+n > maxLines {
			parts, lines = append(parts, nil), 0
		}
		parts[len(parts)-1] = append(parts[len(parts)-1], u)
		lines += n
	}
	return parts
}

func (p *goPackage) file(header string, units []unit) string {
	var imports []string
	for _, u := range units {
		imports = append(imports, u.imports...)
	}
	slices.SortFunc(imports, func(a, b string) int { // the standard library first
		if c := strings.Count(a, ".") - strings.Count(b, "."); c != 0 {
			return c
		}
		return strings.Compare(a, b)
	})
	imports = slices.Compact(imports)
	var b strings.Builder
	fmt.Fprintf(&b, "%s\npackage %s\n\n", header, p.name)
	if len(imports) > 0 {
		b.WriteString("import (\n")
		for i, name := range imports {
			if i > 0 && strings.Contains(name, ".") && !strings.Contains(imports[i-1], ".") {
				b.WriteString("\n")
			}
			fmt.Fprintf(&b, "%q\n", name)
		}
		b.WriteString(")\n")
	}
	for _, u := range units {
		b.WriteString(u.text)
	}
	return b.String()
}

// units returns the definition and the type for an event's payload, else the type alone.
func (p *goPackage) units(t *goType) ([]unit, error) {
	if t.values != nil {
		doc := t.name + ": " + t.doc
		text, err := execute("words", map[string]any{"Name": t.name, "Doc": doc, "Values": t.values})
		return []unit{{text: text}}, err
	}
	doc := t.name + ": " + t.doc
	var units []unit
	if d := t.event; d != nil {
		about := fmt.Sprintf("%s %s", d.eventType, d.versionText())
		doc = fmt.Sprintf("%s is the payload of %s. %s", t.name, about, d.root.Description)
		state := "stable"
		switch {
		case d.root.Deprecated:
			state = "deprecated"
		case !d.newest:
			state = "kept for events of the past; a newer major exists"
		}
		note := p.deprecation(d, false)
		text, err := execute("definition", map[string]any{
			"Name": d.definition(), "Payload": t.name, "Type": d.eventType, "Version": d.versionText(),
			"Doc": fmt.Sprintf("%s defines %s: %s.%s", d.definition(), about, state, note),
		})
		if err != nil {
			return nil, err
		}
		units = append(units, unit{text, []string{"github.com/carebus/carebus/event"}})
		doc += p.deprecation(d, true)
	}
	text, err := execute("struct", map[string]any{"Name": t.name, "Doc": doc, "Fields": t.fields})
	if err != nil {
		return nil, err
	}
	imports := make([]string, 0, len(t.imports))
	for name := range t.imports {
		imports = append(imports, name)
	}
	return append(units, unit{text, imports}), nil
}

// deprecation returns the paragraph that tools understand, naming the replacement in Go where it is in this package.
func (p *goPackage) deprecation(d *document, payload bool) string {
	if !d.root.Deprecated {
		return ""
	}
	use := d.root.ReplacedBy
	for _, other := range p.docs {
		if other.eventType == use && other.newest {
			use = other.definition()
			if payload {
				use = other.payload()
			}
			break
		}
	}
	if use == "" {
		return "\n\nDeprecated: not for new work."
	}
	return "\n\nDeprecated: use " + use + "."
}

func (p *goPackage) docFile(header string) string {
	var b strings.Builder
	text := fmt.Sprintf("Package %s has the events of the domain %s as Go types; package catalog tells how to read them.", p.name, p.name)
	b.WriteString(header + "\n" + comment("", text) + "//\n")
	for _, d := range p.docs {
		fmt.Fprintf(&b, "//   - [%s]: %s %s\n", d.definition(), d.eventType, d.versionText())
	}
	return b.String() + "package " + p.name + "\n"
}

func execute(name string, data any) (string, error) {
	var b bytes.Buffer
	err := templates.ExecuteTemplate(&b, name, data)
	return b.String(), err
}

// comment returns text as line comments, wrapped; an empty line parts paragraphs.
func comment(indent, text string) string {
	var b strings.Builder
	for _, line := range wrapped(text, width) {
		b.WriteString(indent + strings.TrimRight("// "+line, " ") + "\n")
	}
	return b.String()
}

// wrapped cuts text into lines; an empty line parts paragraphs.
func wrapped(text string, width int) (lines []string) {
	if text = strings.TrimSpace(text); text == "" {
		return nil
	}
	for i, paragraph := range strings.Split(text, "\n\n") {
		if i > 0 {
			lines = append(lines, "")
		}
		line := ""
		for _, w := range strings.Fields(paragraph) {
			if line != "" && len(line)+1+len(w) > width {
				lines = append(lines, line)
				line = ""
			}
			if line != "" {
				line += " "
			}
			line += w
		}
		lines = append(lines, line)
	}
	return lines
}

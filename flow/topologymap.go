package flow

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// chart is a topology as three columns of nodes, services, types and groups, and the lines between neighbours: what
// every drawing of it shows.
type chart struct {
	services, types, groups []node
	left                    [][2]int // service, type
	right                   [][2]int // type, group
	more                    int      // types that are not drawn
}

type node struct {
	name, detail string
	bad          bool // parked keys, or stopped
}

func (t *Topology) chart(o Options) chart {
	c := chart{}
	drawn := slices.Clone(t.Types)
	if len(drawn) > o.Limit { // the busiest are the ones to see
		slices.SortStableFunc(drawn, func(a, b TypeUse) int { return cmp.Compare(b.Stored, a.Stored) })
		c.more = len(drawn) - o.Limit
		drawn = drawn[:o.Limit]
	}
	// Types stand beside those of the same service, so that lines to the left do not cross.
	slices.SortFunc(drawn, func(a, b TypeUse) int {
		return cmp.Or(cmp.Compare(firstOf(a.Services), firstOf(b.Services)), cmp.Compare(a.Type, b.Type))
	})
	services, groups := map[string]int{}, map[string]int{}
	published := map[string]bool{}
	for _, u := range drawn {
		for _, s := range u.Services {
			published[s] = true
		}
	}
	for _, s := range t.Services {
		if published[s.Name] {
			services[s.Name] = len(c.services)
			c.services = append(c.services, node{name: s.Name, detail: rate(s.PerMinute)})
		}
	}
	all := t.wantAll()
	// Groups stand near the types they want.
	place := map[string]float64{}
	for i, u := range drawn {
		for _, g := range u.Groups {
			place[g] += float64(i)
		}
	}
	ordered := slices.Clone(t.Groups)
	slices.SortStableFunc(ordered, func(a, b Consumer) int {
		return cmp.Compare(place[a.Group]/float64(max(len(a.Types), 1)), place[b.Group]/float64(max(len(b.Types), 1)))
	})
	for i := range ordered {
		g := &ordered[i]
		groups[g.Group] = len(c.groups)
		c.groups = append(c.groups, node{g.Group, groupDetail(g, all[g.Group]), g.ParkedKeys > 0 || g.State == "stopped"})
	}
	for i, u := range drawn {
		c.types = append(c.types, node{name: u.Type, detail: fmt.Sprintf("%d, %s", u.Stored, rate(u.PerMinute))})
		for _, s := range u.Services {
			c.left = append(c.left, [2]int{services[s], i})
		}
		for _, g := range u.Groups {
			if !all[g] {
				c.right = append(c.right, [2]int{i, groups[g]})
			}
		}
	}
	return c
}

func groupDetail(g *Consumer, all bool) string {
	var parts []string
	if all {
		parts = append(parts, "wants everything")
	}
	if g.Service != "" {
		parts = append(parts, "of "+g.Service)
	}
	if g.State != "running" {
		parts = append(parts, g.State)
	}
	parts = append(parts, fmt.Sprintf("lag %d", g.Lag))
	if g.ParkedKeys > 0 {
		parts = append(parts, counted(int(g.ParkedKeys), "parked key", "parked keys"))
	}
	return strings.Join(parts, " · ")
}

func firstOf(names []string) string {
	if len(names) == 0 {
		return "\U0010ffff" // behind all names
	}
	return names[0]
}

// WriteMermaid draws the topology as a Mermaid flowchart: services, the types of event that they publish, and the groups
// that want them. Every name is escaped, so that no value can become syntax. Options.Limit is how many types are drawn, the
// most frequent ones. o may be nil.
func (t *Topology) WriteMermaid(w io.Writer, o *Options) error {
	c := t.chart(o.orDefault())
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	nodes := func(letter, open, end string, all []node) {
		for i, n := range all {
			class := ""
			if n.bad {
				class = ":::bad"
			}
			fmt.Fprintf(&b, "    %s%d%s\"%s<br>%s\"%s%s\n", letter, i+1, open, escapeMermaid(n.name), escapeMermaid(n.detail), end, class)
		}
	}
	nodes("s", "[", "]", c.services)
	nodes("t", "([", "])", c.types)
	nodes("g", "[[", "]]", c.groups)
	for _, e := range c.left {
		fmt.Fprintf(&b, "    s%d --> t%d\n", e[0]+1, e[1]+1)
	}
	for _, e := range c.right {
		fmt.Fprintf(&b, "    t%d --> g%d\n", e[0]+1, e[1]+1)
	}
	if c.more > 0 {
		fmt.Fprintf(&b, "    more[\"%s\"]\n", escapeMermaid("… "+counted(c.more, "more type", "more types")))
	}
	b.WriteString("    classDef bad stroke:#b42318,stroke-width:3px\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// Sizes in pixels of a topology.
const (
	mapBox  = 34  // height of a box
	mapRow  = 44  // from one box to the next
	mapWide = 270 // of a box
	mapGap  = 130 // between columns, for the lines
	mapHead = 28
)

const mapStyles = `text{font:11px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:var(--text);text-anchor:middle}` +
	`.ground{fill:var(--ground)}.box{fill:var(--box);stroke:var(--edge)}.name{font-weight:600}.gaptext{fill:var(--quiet)}` +
	`.type{fill:var(--note);stroke:var(--line)}.bad{fill:var(--box);stroke:var(--fail);stroke-width:2}.failtext{fill:var(--fail)}` +
	`.edge{stroke:var(--arrow);stroke-width:1.2;stroke-opacity:.65;fill:none}`

// WriteSVG draws the topology in SVG: services on the left, the types of event that they publish in the middle, the groups
// that want them on the right. Groups that have parked keys or have stopped are marked. It is one self-contained document
// without script; names are escaped. Options.Limit is how many types are drawn, the most frequent ones. o may be nil.
func (t *Topology) WriteSVG(w io.Writer, o *Options) error {
	opts := o.orDefault()
	c := t.chart(opts)
	rows := max(len(c.services), len(c.types), len(c.groups), 1)
	wide := svgMargin*2 + 3*mapWide + 2*mapGap
	top := svgMargin + mapHead
	high := top + mapRow*rows + svgMargin
	if c.more > 0 {
		high += mapRow / 2
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="Topology: services, types of event and groups">`+"\n", wide, high, wide, high)
	fmt.Fprintf(&b, "<style>%s%s</style>\n", colours(opts.Theme), mapStyles)
	fmt.Fprintf(&b, `<rect class="ground" width="%d" height="%d"/>`+"\n", wide, high)
	s := svg{b: &b}
	column := func(i int) int { return svgMargin + i*(mapWide+mapGap) }
	for i, name := range []string{"publishes", "type of event", "consumes"} {
		s.label("gaptext", column(i)+mapWide/2, svgMargin+mapHead/2, name, mapWide)
	}
	serviceAt := spread(len(c.services), rows, c.left, 0)
	typeAt := spread(len(c.types), rows, nil, 0)
	groupAt := spread(len(c.groups), rows, c.right, 1)
	middle := func(row float64) int { return top + int(row*mapRow) + mapBox/2 }
	line := func(x int, from, to float64) {
		fmt.Fprintf(&b, `<path class="edge" d="M%d %d C%d %d %d %d %d %d"/>`+"\n", x, middle(from), x+mapGap/2, middle(from), x+mapGap/2, middle(to), x+mapGap, middle(to))
	}
	for _, e := range c.left {
		line(column(0)+mapWide, serviceAt[e[0]], typeAt[e[1]])
	}
	for _, e := range c.right {
		line(column(1)+mapWide, typeAt[e[0]], groupAt[e[1]])
	}
	box := func(col int, n node, at float64, class string, round int) {
		detail := "gaptext"
		if n.bad {
			class, detail = "bad", "failtext"
		}
		x, y := column(col), middle(at)
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="%d"/>`+"\n", class, x, y-mapBox/2, mapWide, mapBox, round)
		s.label("name", x+mapWide/2, y-3, n.name, mapWide-2*svgPadding)
		s.label(detail, x+mapWide/2, y+11, n.detail, mapWide-2*svgPadding)
	}
	for i, n := range c.services {
		box(0, n, serviceAt[i], "box", 6)
	}
	for i, n := range c.types {
		box(1, n, typeAt[i], "type", mapBox/2)
	}
	for i, n := range c.groups {
		box(2, n, groupAt[i], "box", 6)
	}
	if c.more > 0 {
		s.label("gaptext", column(1)+mapWide/2, high-svgMargin, "… "+counted(c.more, "more type", "more types"), mapWide)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// spread places n nodes in so many rows, in their order, each as near as there is room to the middle of the types that its
// lines lead to; side is the end of a line that is the node. Without lines they stand evenly.
func spread(n, rows int, lines [][2]int, side int) []float64 {
	at := make([]float64, n)
	sum, count := make([]float64, n), make([]float64, n)
	for _, l := range lines {
		sum[l[side]] += float64(l[1-side])
		count[l[side]]++
	}
	for i := range at {
		at[i] = float64(i)
		if count[i] > 0 {
			at[i] = sum[i] / count[i]
		}
		if i > 0 {
			at[i] = max(at[i], at[i-1]+1)
		}
	}
	// Who was pushed beyond the last row moves up, and pushes in turn.
	for i := n - 1; i >= 0; i-- {
		at[i] = min(at[i], float64(rows-(n-i)))
	}
	return at
}

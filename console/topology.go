package console

import (
	"cmp"
	"context"
	"fmt"
	"html/template"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/d2lang/elk-go"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/flow"
)

// mapCache keeps the topology: looking at it costs more than showing it, and it changes slowly. A page gets what there is,
// and has it looked at anew when it is old; only the first one waits.
type mapCache struct {
	mu      sync.Mutex
	last    *flow.Topology
	looking chan struct{} // closed when a look has ended; nil when none is under way
	err     error
}

const (
	mapFresh = 5 * time.Second
	mapOld   = 5 * time.Minute
)

func (c *Console) observed(ctx context.Context) (*flow.Topology, error) {
	m := &c.map_
	m.mu.Lock()
	age := time.Duration(1 << 62)
	if m.last != nil {
		age = time.Since(m.last.At)
	}
	if age > mapFresh && m.looking == nil && c.ctx.Err() == nil {
		done := make(chan struct{})
		m.looking = done
		c.working.Go(func() {
			t, err := c.observe(c.ctx)
			m.mu.Lock()
			if m.err = err; err == nil {
				m.last = t
			}
			m.looking = nil
			m.mu.Unlock()
			close(done)
		})
	}
	last, looking := m.last, m.looking
	m.mu.Unlock()
	if age <= mapOld || looking == nil {
		return last, c.ctx.Err()
	}
	select {
	case <-looking:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last, m.err
}

func (c *Console) observe(ctx context.Context) (*flow.Topology, error) {
	groups, err := flow.ReadGroups(ctx, c.p.Store(), c.p.Bus())
	if err != nil {
		return nil, err
	}
	return flow.Observe(ctx, c.p.Store(), groups, &flow.ObserveOptions{CountTo: 1}) // the page tells which types there are, not how many
}

// mapNode is a box of the drawn topology.
type mapNode struct {
	Name   string
	Kind   string // service, group, type
	Note   string
	Level  string // ok, warn, bad
	Link   string
	Types  int
	Groups []flow.Consumer
	Lag    int64
	Parked int64
	Rate   float64
}

// mapEdge is an arrow of it.
type mapEdge struct {
	From, To string
	Types    []string
	Rate     float64 // events per minute
	Level    string
}

type topologyView struct {
	T      *flow.Topology
	Scope  string
	Types  bool
	All    bool // carebus's own events and readers of everything too
	SVG    template.HTML
	Nodes  []*mapNode
	Edges  []*mapEdge
	Hidden []string // groups that take everything
	Unread []string // types that nobody takes
}

func (q *request) topology() (*view, error) {
	if err := q.mayAll(auth.Read, "**"); err != nil {
		return nil, err
	}
	t, err := q.observed(q.ctx())
	if err != nil {
		return nil, err
	}
	d := topologyView{T: t, Scope: q.q.Get("scope"), Types: q.q.Get("types") != "", All: q.q.Get("all") != ""}
	d.build(q.r.URL.RequestURI())
	if d.SVG, err = drawMap(&d); err != nil {
		return nil, err
	}
	return &view{Template: "topology", Title: "Topology", Nav: "Topology", CLI: []string{command("topology"), command("topology", "--svg") + " > topology.svg"}, API: "/v1/topology?format=json", Live: "every=5000", Data: d}, nil
}

// build makes boxes and arrows of what was observed. Services are boxes, with the groups that are theirs; groups of nobody
// in particular are boxes of their own. With types, or a scope, each type is a box between them.
func (d *topologyView) build(here string) {
	nodes, edges := map[string]*mapNode{}, map[[2]string]*mapEdge{}
	node := func(kind, name string) *mapNode {
		n := nodes[kind+" "+name]
		if n == nil {
			n = &mapNode{Name: name, Kind: kind, Level: "ok"}
			switch kind {
			case "type":
				n.Link = at("catalog", name)
			default:
				n.Link = with(here, "scope", name)
				if d.Scope == name {
					n.Link = with(here, "scope", "")
				}
			}
			nodes[kind+" "+name] = n
		}
		return n
	}
	owner, groups := map[string]*mapNode{}, map[string]flow.Consumer{}
	named := map[string]string{} // services, by what groups of theirs are called
	for _, s := range d.T.Services {
		named[plainName(s.Name)] = s.Name
	}
	for _, g := range d.T.Groups {
		groups[g.Group] = g
		everything := slices.Contains(g.Patterns, "**") || slices.Contains(g.Patterns, "*")
		if everything && !d.All {
			d.Hidden = append(d.Hidden, g.Group)
			continue
		}
		kind, name := "group", g.Group
		if service, ok := named[plainName(name)]; ok {
			kind, name = "service", service // a group that is called as a service is that service's
		} else if g.Service != "" {
			kind, name = "service", g.Service
		}
		if name == "carebus" && !d.All {
			continue
		}
		n := node(kind, name)
		owner[g.Group] = n
		n.Groups = append(n.Groups, g)
		n.Lag += g.Lag
		n.Parked += g.ParkedKeys
		n.Level = worse(n.Level, levelOf(g))
	}
	rates := map[string]float64{}
	for _, s := range d.T.Services {
		if s.Name == "carebus" && !d.All {
			continue
		}
		n := node("service", s.Name)
		n.Rate += s.PerMinute
		n.Types = len(s.Published)
		for _, p := range s.Published {
			rates[s.Name+" "+p.Type] = p.PerMinute
		}
	}
	arrow := func(from, to *mapNode, eventType string, rate float64, level string) {
		if from == to {
			return
		}
		k := [2]string{from.Kind + " " + from.Name, to.Kind + " " + to.Name}
		e := edges[k]
		if e == nil {
			e = &mapEdge{From: k[0], To: k[1], Level: "ok"}
			edges[k] = e
		}
		if !slices.Contains(e.Types, eventType) {
			e.Types = append(e.Types, eventType)
			e.Rate += rate
		}
		e.Level = worse(e.Level, level)
	}
	taken := map[string]bool{}
	for _, x := range d.T.Edges {
		if strings.HasPrefix(x.Type, "platform.") && !d.All {
			continue
		}
		if x.Group != "" {
			taken[x.Type] = true
		}
		to := owner[x.Group]
		if x.Service == "" || to == nil || nodes["service "+x.Service] == nil {
			continue
		}
		from, level, rate := nodes["service "+x.Service], levelOf(groups[x.Group]), rates[x.Service+" "+x.Type]
		near := d.Scope == "" || from.Name == d.Scope || to.Name == d.Scope
		switch {
		case !near:
		case d.Types || d.Scope != "":
			if from == to && d.Scope == "" {
				continue
			}
			middle := node("type", x.Type)
			middle.Rate = max(middle.Rate, rate)
			arrow(from, middle, x.Type, rate, "ok")
			arrow(middle, to, x.Type, rate, level)
		default:
			arrow(from, to, x.Type, rate, level)
		}
	}
	for _, x := range d.T.Types {
		if !taken[x.Type] && !strings.HasPrefix(x.Type, "platform.") && x.Stored > 0 {
			d.Unread = append(d.Unread, x.Type)
		}
	}
	used := map[string]bool{}
	for _, e := range edges {
		used[e.From], used[e.To] = true, true
	}
	for k, n := range nodes {
		if !used[k] && (d.Scope != "" && n.Name != d.Scope || d.Types) {
			delete(nodes, k)
			continue
		}
		n.note()
	}
	d.Nodes = slices.SortedFunc(maps.Values(nodes), func(a, b *mapNode) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	d.Edges = slices.SortedFunc(maps.Values(edges), func(a, b *mapEdge) int {
		return cmp.Or(strings.Compare(a.From, b.From), strings.Compare(a.To, b.To))
	})
}

// plainName is a name without what tells services from their groups.
func plainName(name string) string {
	return strings.ReplaceAll(strings.TrimSuffix(strings.ToLower(name), "-service"), "-", "")
}

func (n *mapNode) note() {
	switch n.Kind {
	case "type":
		n.Note = perMinute(n.Rate)
		return
	case "service":
		n.Note = perMinute(n.Rate)
	default:
		n.Note = "group"
	}
	if n.Lag > 0 {
		n.Note += " · lag " + count(n.Lag)
	}
	if n.Parked > 0 {
		n.Note += " · " + count(n.Parked) + " parked"
	}
	for _, g := range n.Groups {
		if g.State != "running" {
			n.Note += " · " + g.Group + " " + g.State
		}
	}
}

func perMinute(rate float64) string {
	switch {
	case rate == 0:
		return "quiet"
	case rate < 10:
		return fmt.Sprintf("%.1f/min", rate)
	case rate < 600:
		return fmt.Sprintf("%.0f/min", rate)
	}
	return fmt.Sprintf("%.0f/s", rate/60)
}

func levelOf(g flow.Consumer) string {
	switch {
	case g.State != "" && g.State != "running" || g.Lag > 10_000:
		return "bad"
	case g.Lag > 500 || g.ParkedKeys > 0:
		return "warn"
	}
	return "ok"
}

func worse(a, b string) string {
	order := []string{"ok", "warn", "bad"}
	if slices.Index(order, b) > slices.Index(order, a) {
		return b
	}
	return a
}

// drawMap lays the boxes out in layers, routes the arrows around them, and draws both.
func drawMap(d *topologyView) (template.HTML, error) {
	if len(d.Nodes) == 0 {
		return "", nil
	}
	root := &elk.Graph{ID: elk.StringID("root"), LayoutOptions: elk.LayoutOptions{
		"elk.algorithm": "layered", "elk.direction": "RIGHT", "elk.edgeRouting": "ORTHOGONAL", "spacing.nodeNodeBetweenLayers": 56.0,
		"elk.layered.spacing.nodeNodeBetweenLayers": 56.0, "elk.spacing.nodeNode": 22.0, "elk.layered.spacing.edgeNodeBetweenLayers": 16.0, "elk.spacing.edgeNode": 14.0,
		"elk.layered.spacing.edgeEdgeBetweenLayers": 9.0, "elk.padding": "[top=12,left=12,bottom=12,right=12]", "elk.layered.cycleBreaking.strategy": "GREEDY",
	}}
	byID := map[string]*mapNode{}
	for _, n := range d.Nodes {
		id := n.Kind + " " + n.Name
		byID[id] = n
		width, height := boxSize(n)
		root.Children = append(root.Children, &elk.Node{ID: elk.StringID(id), Width: &width, Height: &height})
	}
	for i, e := range d.Edges {
		root.Edges = append(root.Edges, &elk.Edge{ID: elk.StringID(fmt.Sprint("e", i)), Sources: []elk.ID{elk.StringID(e.From)}, Targets: []elk.ID{elk.StringID(e.To)}})
	}
	if err := elk.Layout(root); err != nil {
		return "", fmt.Errorf("console: laying out the topology: %w", err)
	}
	width, height := int(elk.Number(root.Width))+1, int(elk.Number(root.Height))+1
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="map" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="Who publishes what, and who consumes it">`, width, height, width, height)
	for i, e := range root.Edges {
		drawEdge(&b, d.Edges[i], e)
	}
	for _, c := range root.Children {
		drawBox(&b, byID[c.ID.String()], c)
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String()), nil //nolint:gosec // names are escaped where they are written
}

func boxSize(n *mapNode) (width, height float64) {
	letters := max(utf8.RuneCountInString(clipped(n.Name)), utf8.RuneCountInString(clipped(n.Note))*9/10)
	if n.Kind == "type" {
		return float64(letters)*6.7 + 24, 30
	}
	return float64(letters)*7.9 + 40, 46
}

func clipped(s string) string {
	s = clean(s)
	if r := []rune(s); len(r) > 48 {
		return string(r[:47]) + "…"
	}
	return s
}

func escaped(s string) string { return template.HTMLEscapeString(s) }

func drawEdge(b *strings.Builder, m *mapEdge, e *elk.Edge) {
	weight := "thin"
	if m.Rate > 60 {
		weight = "thick"
	} else if m.Rate > 5 {
		weight = "middle"
	}
	for _, s := range e.Sections {
		if s.StartPoint == nil || s.EndPoint == nil {
			continue
		}
		points := append([]elk.Point{*s.StartPoint}, s.BendPoints...)
		points = append(points, *s.EndPoint)
		var path strings.Builder
		for i, p := range points {
			x, y := pointOf(p)
			if i == 0 {
				fmt.Fprintf(&path, "M%.0f %.0f", x, y)
			} else {
				fmt.Fprintf(&path, "L%.0f %.0f", x, y)
			}
		}
		x, y := pointOf(points[len(points)-1])
		px, _ := pointOf(points[len(points)-2])
		dir := -8
		if px > x {
			dir = 8
		}
		types := strings.Join(m.Types[:min(len(m.Types), 12)], "\n")
		if more := len(m.Types) - 12; more > 0 {
			types += fmt.Sprintf("\n… and %d more", more)
		}
		fmt.Fprintf(b, `<g class="edge %s %s"><path class="reach" d="%s"/><path class="line" d="%s"/><path class="tip" d="M%.0f %.0fl%d -4v8z"/><title>%s</title></g>`,
			m.Level, weight, path.String(), path.String(), x, y, dir, escaped(clean(perMinute(m.Rate)+"\n"+types)))
	}
}

func pointOf(p elk.Point) (x, y float64) { return p.X, p.Y }

func drawBox(b *strings.Builder, n *mapNode, c *elk.Node) {
	x, y, w, h := elk.Number(c.X), elk.Number(c.Y), elk.Number(c.Width), elk.Number(c.Height)
	title := n.Name + "\n" + n.Note
	for _, g := range n.Groups {
		title += fmt.Sprintf("\ngroup %s: %s, lag %s, %s parked", g.Group, g.State, count(g.Lag), count(g.ParkedKeys))
	}
	fmt.Fprintf(b, `<a class="box %s %s" href="%s"><title>%s</title>`, n.Kind, n.Level, escaped(n.Link), escaped(clean(title)))
	if n.Kind == "type" {
		fmt.Fprintf(b, `<rect data-domain="%s" x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="15"/><text class="mono" data-domain="%s" x="%.0f" y="%.0f">%s</text></a>`,
			escaped(domain(n.Name)), x, y, w, h, escaped(domain(n.Name)), x+w/2, y+h/2+4, escaped(clipped(n.Name)))
		return
	}
	fmt.Fprintf(b, `<rect x="%.0f" y="%.0f" width="%.0f" height="%.0f" rx="8"/><circle cx="%.0f" cy="%.0f" r="4"/><text class="name" x="%.0f" y="%.0f">%s</text><text class="note" x="%.0f" y="%.0f">%s</text></a>`,
		x, y, w, h, x+14, y+17, x+24, y+21, escaped(clipped(n.Name)), x+24, y+36, escaped(clipped(n.Note)))
}

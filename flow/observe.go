package flow

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// ObserveOptions say how much of a store is looked at. The zero value looks at the last 20,000 events.
type ObserveOptions struct {
	// Since looks at all events recorded from then on. Default: the last ones, as Last says.
	Since time.Time
	// Last is how many of the latest events are looked at, about; the store's partitions share them by their length.
	// Negative for all. Default 20,000. It is not used with Since.
	Last int64
	// CountTo bounds how many events of each type are counted in the store's index (TypeUse.Stored), so that observing has
	// a cost that does not grow with the store. Default: all are counted.
	CountTo int64
	// Window is the time before At over which rates are taken. Default 1 h.
	Window time.Duration
	// At is the present. Default time.Now.
	At time.Time
}

func (o *ObserveOptions) orDefault() ObserveOptions {
	var out ObserveOptions
	if o != nil {
		out = *o
	}
	if out.Last == 0 {
		out.Last = 20_000
	}
	if out.Window <= 0 {
		out.Window = time.Hour
	}
	if out.At.IsZero() {
		out.At = time.Now()
	}
	return out
}

// Observe looks at a store and says who publishes what and who consumes it. groups are those of ReadGroups. How many events
// of each type there are comes from the store's index; who publishes them from the latest part of the log, or from all of
// it when o says so. The log streams through: memory holds a number for each service and type, and the ids of the last
// 50,000 events, in which causes are found. Payloads are not looked at. o may be nil.
func Observe(ctx context.Context, store *eventstore.Store, groups []Group, o *ObserveOptions) (*Topology, error) {
	opts := o.orDefault()
	count := store.Types
	if opts.CountTo > 0 {
		count = func(ctx context.Context) (map[string]int64, error) { return store.TypesUpTo(ctx, opts.CountTo) }
	}
	stored, err := count(ctx)
	if err != nil {
		return nil, err
	}
	heads, err := store.Heads(ctx)
	if err != nil {
		return nil, err
	}
	from, begin, err := lookFrom(ctx, store, heads, opts)
	if err != nil {
		return nil, err
	}
	x := newObserver(groups, begin, opts)
	for r, err := range store.All(ctx, from, nil) {
		if err != nil {
			return nil, err
		}
		x.see(r)
	}
	t := x.topology(stored)
	for _, h := range heads {
		t.Stored += h
	}
	return t, nil
}

// lookFrom returns the offsets at which the look begins, and the time from which on nothing is missing.
func lookFrom(ctx context.Context, store *eventstore.Store, heads []int64, o ObserveOptions) (from []int64, begin time.Time, err error) {
	if !o.Since.IsZero() {
		from, err = store.OffsetsAt(ctx, o.Since)
		return from, o.Since.UTC(), err
	}
	from = make([]int64, len(heads))
	var total int64
	for _, h := range heads {
		total += h
	}
	if o.Last < 0 || total <= o.Last {
		return from, begin, nil
	}
	for p, h := range heads {
		share := max(1, int64(float64(o.Last)*float64(h)/float64(total)))
		if from[p] = max(0, h-share); from[p] == 0 {
			continue
		}
		b, err := store.Partition(ctx, eventstore.PartitionQuery{Partition: p, From: from[p], Limit: 1})
		if err != nil {
			return nil, begin, err
		}
		// Partitions are cut at different times; only behind the latest cut is every partition whole.
		if len(b.Records) > 0 && b.Records[0].RecordedAt.After(begin) {
			begin = b.Records[0].RecordedAt.UTC()
		}
	}
	return from, begin, nil
}

// memory is how many of the latest events a cause is looked for in.
const memory = 50_000

type observer struct {
	groups    []Group
	opts      ObserveOptions
	begin     time.Time // earlier events are causes at most
	rateFrom  time.Time
	first     time.Time
	looked    int64
	published map[pubKey]*pubCount
	wanted    map[string][]int // group indexes by type
	handled   []int64
	pending   []int64
	types     map[string]string // id to type of the latest events
	ring      []string
	at        int
	reactions map[pubKey]bool // service, and a type that it has reacted to
}

type pubKey struct{ service, eventType string }

type pubCount struct {
	count, recent int64
	first, last   time.Time
}

func newObserver(groups []Group, begin time.Time, o ObserveOptions) *observer {
	x := &observer{
		groups: groups, opts: o, begin: begin, rateFrom: o.At.Add(-o.Window),
		published: map[pubKey]*pubCount{}, wanted: map[string][]int{}, handled: make([]int64, len(groups)), pending: make([]int64, len(groups)),
		types: map[string]string{}, reactions: map[pubKey]bool{},
	}
	if begin.After(x.rateFrom) {
		x.rateFrom = begin
	}
	return x
}

func (x *observer) see(r eventstore.Record) {
	x.remember(r.ID, r.Type)
	if r.RecordedAt.Before(x.begin) {
		return
	}
	x.looked++
	recorded := r.RecordedAt.UTC()
	if x.first.IsZero() || recorded.Before(x.first) {
		x.first = recorded
	}
	k := pubKey{r.Source, r.Type}
	c := x.published[k]
	if c == nil {
		c = &pubCount{first: recorded, last: recorded}
		x.published[k] = c
	}
	c.count++
	if recorded.Before(c.first) {
		c.first = recorded
	}
	if recorded.After(c.last) {
		c.last = recorded
	}
	if !recorded.Before(x.rateFrom) {
		c.recent++
	}
	for _, g := range x.wants(r.Type) {
		if x.groups[g].Progress.Passed(r.Type, r.Partition, r.Offset, r.PartitionKey) {
			x.handled[g]++
		} else {
			x.pending[g]++
		}
	}
	// The platform's own events tell of groups; they are no service's reaction.
	if cause, ok := x.types[r.CausationID]; ok && !strings.HasPrefix(r.Type, "platform.") {
		x.reactions[pubKey{r.Source, cause}] = true
	}
}

func (x *observer) remember(id, eventType string) {
	if len(x.ring) < memory {
		x.ring = append(x.ring, id)
	} else {
		delete(x.types, x.ring[x.at])
		x.ring[x.at] = id
		x.at = (x.at + 1) % memory
	}
	x.types[id] = eventType
}

// wants returns the groups that want a type.
func (x *observer) wants(eventType string) []int {
	if out, ok := x.wanted[eventType]; ok {
		return out
	}
	out := []int{}
	for g := range x.groups {
		if x.groups[g].wants(eventType) {
			out = append(out, g)
		}
	}
	x.wanted[eventType] = out
	return out
}

func (x *observer) topology(stored map[string]int64) *Topology {
	t := &Topology{At: x.opts.At.UTC(), From: x.begin, Looked: x.looked, Services: []Service{}, Types: []TypeUse{}, Groups: []Consumer{}}
	window := x.opts.At.Sub(x.rateFrom)
	if x.first.After(x.rateFrom) {
		window = x.opts.At.Sub(x.first) // a young store has not had the whole window
	}
	window = max(window, time.Second)
	t.WindowMs = millis(window)
	perMinute := func(n int64) float64 { return float64(n) / window.Minutes() }

	uses := map[string]*TypeUse{}
	use := func(name string) *TypeUse {
		u := uses[name]
		if u == nil {
			u = &TypeUse{Type: name, Services: []string{}, Groups: []string{}}
			for _, g := range x.wants(name) {
				u.Groups = append(u.Groups, x.groups[g].Status.Name)
			}
			uses[name] = u
		}
		return u
	}
	for name, n := range stored {
		if n > 0 {
			use(name).Stored = n
		}
	}
	keys := slices.SortedFunc(maps.Keys(x.published), func(a, b pubKey) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.eventType, b.eventType))
	})
	for _, k := range keys {
		c := x.published[k]
		if n := len(t.Services); n == 0 || t.Services[n-1].Name != k.service {
			t.Services = append(t.Services, Service{Name: k.service})
		}
		s := &t.Services[len(t.Services)-1]
		s.Published = append(s.Published, Published{k.eventType, c.count, c.first, c.last, perMinute(c.recent)})
		s.Count += c.count
		s.PerMinute += perMinute(c.recent)
		u := use(k.eventType)
		u.Services = append(u.Services, k.service)
		u.PerMinute += perMinute(c.recent)
	}
	for _, name := range slices.Sorted(maps.Keys(uses)) {
		t.Types = append(t.Types, *uses[name])
	}
	owners := x.owners()
	for g, group := range x.groups {
		s := group.Status
		c := Consumer{
			Group: s.Name, Service: owners[g], State: s.State, Patterns: slices.Clone(s.Patterns), Types: []string{}, Members: len(s.Members),
			Handled: x.handled[g], Pending: x.pending[g], Lag: s.Lag, ParkedKeys: s.ParkedKeys, ParkedEvents: s.Waiting,
		}
		for i := range t.Types {
			if slices.Contains(x.wants(t.Types[i].Type), g) {
				c.Types = append(c.Types, t.Types[i].Type)
			}
		}
		t.Groups = append(t.Groups, c)
	}
	slices.SortFunc(t.Groups, func(a, b Consumer) int { return cmp.Compare(a.Group, b.Group) })
	t.Edges = edges(t.Types)
	return t
}

// owners derives which service a group belongs to, by group; empty where what was seen leaves more than one answer. A
// service that reacted to a type has a group that wants it: when only one group does, it is that service's. Groups that
// want everything are archives, not what makes a service react. A group to which two services would lay claim is left alone.
func (x *observer) owners() []string {
	claims := make([]map[string]bool, len(x.groups))
	for k := range x.reactions {
		candidates := slices.DeleteFunc(slices.Clone(x.wants(k.eventType)), func(g int) bool { return everything(x.groups[g].Status.Patterns) })
		if len(candidates) != 1 {
			continue
		}
		g := candidates[0]
		if claims[g] == nil {
			claims[g] = map[string]bool{}
		}
		claims[g][k.service] = true
	}
	out := make([]string, len(x.groups))
	for g, c := range claims {
		if len(c) == 1 {
			for s := range c {
				out[g] = s
			}
		}
	}
	return out
}

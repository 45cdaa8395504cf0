package flow

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// Flow is the events of one correlation id and what caused what among them. Build makes it; it is not changed afterwards
// and may be read by many goroutines.
type Flow struct {
	CorrelationID string     `json:"correlationId"`
	Start         time.Time  `json:"start"`          // when the first event was recorded, UTC
	DurationMs    float64    `json:"durationMs"`     // from the first to the last recording
	Services      []string   `json:"services"`       // event sources, in order of appearance
	Events        []Event    `json:"events"`         // in the order they were recorded
	Reactions     []Reaction `json:"reactions"`      // which service reacted to which, in order of appearance
	Orphans       int        `json:"orphans"`        // events whose cause is not in the flow
	Failures      int        `json:"failures"`       // events that a group parked or skipped
	More          bool       `json:"more,omitempty"` // a part only was read, and others were recorded behind it; whoever read it says so
}

// Event is one event of a flow, without its payload.
type Event struct {
	EventID     string    `json:"eventId"`
	Type        string    `json:"eventType"`
	Source      string    `json:"eventSource"`
	Version     string    `json:"version"`
	CausationID string    `json:"causationId,omitempty"`
	Key         string    `json:"partitionKey,omitempty"`
	Partition   int       `json:"partition"`
	Offset      int64     `json:"offset"`
	Timestamp   time.Time `json:"timestamp"`  // when the fact happened
	RecordedAt  time.Time `json:"recordedAt"` // when the store recorded it
	AtMs        float64   `json:"atMs"`       // recorded so long after the flow's first event
	TookMs      float64   `json:"tookMs"`     // recorded so long after its cause; 0 without a cause in the flow
	Cause       int       `json:"cause"`      // index of the cause in Flow.Events, -1 for none
	Effects     []int     `json:"effects"`    // indexes of the events that name it as their cause
	Orphan      bool      `json:"orphan,omitempty"`
	Failure     *Failure  `json:"failure,omitempty"`
	Work        *Work     `json:"work,omitempty"`
	HandledBy   []string  `json:"handledBy,omitempty"`  // groups that want the event and are past it
	WaitingFor  []string  `json:"waitingFor,omitempty"` // groups that want it and are not, or have parked its key
}

// Failure is what a platform.key.parked or platform.key.skipped event says: a group failed on the event's cause.
type Failure struct {
	Skipped  bool   `json:"skipped,omitempty"` // given up; otherwise the key waits for a redrive
	Group    string `json:"group"`
	Class    string `json:"class,omitempty"` // dependency, permanent or suspect
	Error    string `json:"error,omitempty"`
	Attempts int    `json:"attempts,omitempty"`
}

// Reaction says that To stated events whose cause was stated by From.
type Reaction struct {
	From     string  `json:"from"`
	To       string  `json:"to"`
	Count    int     `json:"count"`
	MedianMs float64 `json:"medianMs"` // from the recording of the cause to that of the effect
	MaxMs    float64 `json:"maxMs"`
}

// Build makes a flow of the records of one correlation id; the correlation is that of the first. Records come in the
// order they were recorded, as eventstore.Store.Correlation gives them. A second record with the same event id is left
// out. Causes that form a circle, which only a hand-made event can do, are cut at the circle's first event, which then
// counts as an orphan. Build of no records is an empty flow.
//
// Given the groups, as ReadGroups reads them, the flow also says which of them have handled each event and for which it
// waits. A group that began later than the event, or was sent past it, counts as one that has handled it.
func Build(records []eventstore.Record, groups ...Group) *Flow {
	f := &Flow{Services: []string{}, Events: make([]Event, 0, len(records)), Reactions: []Reaction{}}
	index := make(map[string]int, len(records))
	services := map[string]bool{}
	for _, r := range records {
		if _, seen := index[r.ID]; seen {
			continue
		}
		if len(f.Events) == 0 {
			f.CorrelationID, f.Start = r.CorrelationID, r.RecordedAt.UTC()
		}
		index[r.ID] = len(f.Events)
		f.Events = append(f.Events, Event{
			EventID: r.ID, Type: r.Type, Source: r.Source, Version: r.Version, CausationID: r.CausationID,
			Key: r.PartitionKey, Partition: r.Partition, Offset: r.Offset,
			Timestamp: r.Time(), RecordedAt: r.RecordedAt.UTC(), AtMs: millis(r.RecordedAt.Sub(f.Start)),
			Cause: -1, Effects: []int{}, Failure: failureOf(r), Work: workOf(r),
		})
		if !services[r.Source] {
			services[r.Source] = true
			f.Services = append(f.Services, r.Source)
		}
	}
	for i := range f.Events {
		e := &f.Events[i]
		if e.CausationID == "" {
			continue
		}
		if c, ok := index[e.CausationID]; ok {
			e.Cause = c
		}
	}
	f.cutCircles()
	f.link()
	f.handling(groups)
	return f
}

// cutCircles takes the cause from the first event of every circle, so that walking up always ends.
func (f *Flow) cutCircles() {
	done := make([]bool, len(f.Events))
	onPath := make([]bool, len(f.Events))
	var path []int
	for i := range f.Events {
		path = path[:0]
		n := i
		for n >= 0 && !done[n] && !onPath[n] {
			onPath[n] = true
			path = append(path, n)
			n = f.Events[n].Cause
		}
		if n >= 0 && onPath[n] {
			circle := path[slices.Index(path, n):]
			f.Events[slices.Min(circle)].Cause = -1
		}
		for _, p := range path {
			done[p], onPath[p] = true, false
		}
	}
}

// link derives everything that follows from the causes.
func (f *Flow) link() {
	type pair struct{ from, to string }
	took := map[pair][]float64{}
	order := []pair{}
	for i := range f.Events {
		e := &f.Events[i]
		f.DurationMs = max(f.DurationMs, e.AtMs)
		if e.Failure != nil {
			f.Failures++
		}
		if e.Cause < 0 {
			e.Orphan = e.CausationID != ""
			if e.Orphan {
				f.Orphans++
			}
			continue
		}
		cause := &f.Events[e.Cause]
		cause.Effects = append(cause.Effects, i)
		e.TookMs = millis(max(0, e.RecordedAt.Sub(cause.RecordedAt)))
		if e.Failure != nil {
			continue // the platform stated it, not the service that reacts
		}
		p := pair{cause.Source, e.Source}
		if took[p] == nil {
			order = append(order, p)
		}
		took[p] = append(took[p], e.TookMs)
	}
	for _, p := range order {
		all := took[p]
		slices.Sort(all)
		f.Reactions = append(f.Reactions, Reaction{p.from, p.to, len(all), all[len(all)/2], all[len(all)-1]})
	}
}

// failureOf reads a parked or skipped event of the platform; nil for every other event. A payload that cannot be read
// still is a failure, with nothing known of it.
func failureOf(r eventstore.Record) *Failure {
	parked, skipped := r.Type == "platform.key.parked", r.Type == "platform.key.skipped"
	if !parked && !skipped {
		return nil
	}
	f := Failure{}
	if json.Unmarshal(r.Payload, &f) != nil {
		f = Failure{}
	}
	f.Skipped = skipped
	return &f
}

// roots are the events where walking down begins: those without a cause, and the orphans.
func (f *Flow) roots() []int {
	var roots []int
	for i := range f.Events {
		if f.Events[i].Cause < 0 {
			roots = append(roots, i)
		}
	}
	return roots
}

// Options of the drawings. The zero value works.
type Options struct {
	// Limit is how many events are drawn; how many more there are is said. Default 200.
	Limit int
	// Pause is the time without any recording from which on it is marked. Default 1 s.
	Pause time.Duration
	// Theme is the colours of an SVG. Default ThemeAuto.
	Theme Theme
}

func (o *Options) orDefault() Options {
	var out Options
	if o != nil {
		out = *o
	}
	if out.Limit <= 0 {
		out.Limit = 200
	}
	if out.Pause <= 0 {
		out.Pause = time.Second
	}
	return out
}

// pauseBefore returns how long nothing was recorded before event i, when that is worth a mark.
func (f *Flow) pauseBefore(i int, least time.Duration) (float64, bool) {
	if i == 0 {
		return 0, false
	}
	p := f.Events[i].AtMs - f.Events[i-1].AtMs
	return p, p >= millis(least)
}

func itoa(n int) string { return strconv.Itoa(n) }

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// span writes a number of milliseconds for people: three significant steps are enough to compare.
func span(ms float64) string {
	d := time.Duration(ms * float64(time.Millisecond))
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// failureText is what a drawing says of a failure.
func failureText(x *Failure) string {
	var b strings.Builder
	if x.Skipped {
		b.WriteString("skipped")
	} else {
		b.WriteString("parked")
	}
	if x.Group != "" {
		b.WriteString(" by " + x.Group)
	}
	if x.Attempts > 0 {
		b.WriteString(" after " + counted(x.Attempts, "try", "tries"))
	}
	if x.Class != "" {
		b.WriteString(" (" + x.Class + ")")
	}
	return b.String()
}

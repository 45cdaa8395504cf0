package flow

import (
	"slices"
	"time"
)

// Topology is who publishes what and who consumes it, as a store has seen it. Observe makes it; it is not changed
// afterwards and may be read by many goroutines. Everything in it is in a fixed order, so that two of them can be compared.
type Topology struct {
	At       time.Time  `json:"at"`            // when it was observed
	From     time.Time  `json:"from,omitzero"` // publications from here on are counted; zero for all
	Stored   int64      `json:"stored"`        // events in the store
	Looked   int64      `json:"lookedAt"`      // events looked at
	WindowMs float64    `json:"windowMs"`      // time over which rates were taken, up to At
	Services []Service  `json:"services"`      // by name
	Types    []TypeUse  `json:"types"`         // by name, every type in the store
	Groups   []Consumer `json:"groups"`        // by name
	Edges    []Edge     `json:"edges"`         // by service, type and group
}

// Service is an event source and what it has published.
type Service struct {
	Name      string      `json:"service"`
	Published []Published `json:"published"` // by type
	Count     int64       `json:"count"`
	PerMinute float64     `json:"perMinute"`
}

// Published is a type of event that a service has published, as far as the log was looked at.
type Published struct {
	Type      string    `json:"eventType"`
	Count     int64     `json:"count"`
	First     time.Time `json:"first"` // recorded
	Last      time.Time `json:"last"`
	PerMinute float64   `json:"perMinute"`
}

// TypeUse is a type of event and its two sides.
type TypeUse struct {
	Type      string   `json:"eventType"`
	Stored    int64    `json:"stored"` // in the whole store, or ObserveOptions.CountTo of them
	Services  []string `json:"services"`
	Groups    []string `json:"groups"`
	PerMinute float64  `json:"perMinute"`
}

// Consumer is a consumer group.
type Consumer struct {
	Group        string   `json:"group"`
	Service      string   `json:"service,omitempty"` // that it belongs to, where what was published leaves one answer
	State        string   `json:"state"`             // running, paused, stopped
	Patterns     []string `json:"patterns"`
	Types        []string `json:"types"` // of those stored, which it wants
	Members      int      `json:"members"`
	Handled      int64    `json:"handled"` // of the events looked at that it wants, those that it is past
	Pending      int64    `json:"pending"` // and those that it is not, or whose key it has parked
	Lag          int64    `json:"lag"`     // events stored and not yet looked at by it, wanted or not
	ParkedKeys   int64    `json:"parkedKeys"`
	ParkedEvents int64    `json:"parkedEvents"`
}

// Edge says that a group wants a type of event that a service publishes. The group is empty when nobody wants it, the
// service when nobody was seen to publish it.
type Edge struct {
	Service string `json:"service,omitempty"`
	Type    string `json:"eventType"`
	Group   string `json:"group,omitempty"`
}

// edges derives the edges from the types.
func edges(types []TypeUse) []Edge {
	orNone := func(names []string) []string {
		if len(names) == 0 {
			return []string{""}
		}
		return names
	}
	out := []Edge{}
	for _, t := range types {
		for _, s := range orNone(t.Services) {
			for _, g := range orNone(t.Groups) {
				if s != "" || g != "" {
					out = append(out, Edge{s, t.Type, g})
				}
			}
		}
	}
	return out
}

// everything reports whether a group wants every type of event: that is said once instead of drawn as an edge to each.
func everything(patterns []string) bool { return slices.Contains(patterns, "**") }

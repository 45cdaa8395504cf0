package bus

import (
	"encoding/json"
	"fmt"
	"maps"
)

// seen is how far the relays are that have written to a lane, as a reader has found it up to some offset. It makes of a lane
// with repetitions and displaced runs the sequence that the relays have read from their stores: of each origin every event,
// once, in order.
//
// A relay sends the events of its log in order, and names with each the one before it. When something fails it begins
// again at its last checkpoint, at or before the first event that may be missing. So of each origin's events
//
//	offset <= seen            is a repetition;
//	prev <= seen < offset     is the next;
//	seen < prev               came too early: events between are still to come, and then this one comes again.
type seen struct {
	Logs map[string]int64 `json:"logs,omitempty"`
	// Open: reading began somewhere in the middle, so an origin that is met first may begin with any of its events.
	Open bool `json:"open,omitempty"`
}

type verdict int

const (
	nextOne verdict = iota
	repeated
	early
)

func (s seen) judge(o Origin) verdict {
	if o.Log == "" {
		return nextOne
	}
	at, known := s.Logs[o.Log]
	if !known {
		if s.Open {
			return nextOne
		}
		at = -1
	}
	switch {
	case o.Offset <= at:
		return repeated
	case o.Prev > at:
		return early
	}
	return nextOne
}

// add notes an event that was found to be the next.
func (s *seen) add(o Origin) {
	if o.Log == "" {
		return
	}
	if s.Logs == nil {
		s.Logs = map[string]int64{}
	}
	s.Logs[o.Log] = o.Offset
}

func (s seen) clone() seen { return seen{maps.Clone(s.Logs), s.Open} }

// text is what is kept of s for a lane; nothing for a partition of the store, which needs none.
func (s seen) text(part int) string {
	if part < FirstLane || len(s.Logs) == 0 && !s.Open {
		return ""
	}
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a map of texts to numbers
	}
	return string(b)
}

// parseSeen reads what text has written; nothing is the beginning of a lane.
func parseSeen(text string) (s seen, err error) {
	if text == "" {
		return s, nil
	}
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return s, fmt.Errorf("bus: how far a lane was read is not understood: %w", err)
	}
	return s, nil
}

// from is what is known at an offset that reading begins at without knowing what lies before.
func seenFrom(offset int64) seen { return seen{Open: offset > 0} }

// trail is what was found to be the next, by offset: by it seen is known at every offset that was passed.
type trail []step

type step struct {
	offset int64
	origin Origin
}

// at adds to s, which is as of the beginning of the trail, what lies before an offset.
func (t trail) at(s seen, offset int64) seen {
	s = s.clone()
	for _, step := range t {
		if step.offset >= offset {
			break
		}
		s.add(step.origin)
	}
	return s
}

// behind is what is left of the trail from an offset on.
func (t trail) behind(offset int64) trail {
	for len(t) > 0 && t[0].offset < offset {
		t = t[1:]
	}
	return t
}

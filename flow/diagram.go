package flow

import "slices"

// diagram is a flow as a sequence of steps between participants: what every drawing of it shows, in order.
type diagram struct {
	participants []string // services in order of appearance, then the groups that failed
	steps        []step
}

type step struct {
	kind     stepKind
	from, to int // participants
	text     string
	detail   string // of a failure
	atMs     float64
	event    int // index of the event that it is about; -1 for what concerns all
}

type stepKind int

const (
	message     stepKind = iota // an event, and a service that reacted to it
	failed                      // an event, and a group that failed on it
	local                       // an event that nobody reacted to
	work                        // a step that a saga has done by itself
	handled                     // the groups that have handled an event, and those for which it waits
	lostFailure                 // a failure whose event is not in the diagram
	across                      // something that concerns all: a pause, or that there is more
)

func (f *Flow) diagram(opts Options) diagram {
	drawn := f.Events[:min(len(f.Events), opts.Limit)]
	d := diagram{}
	index := map[string]int{}
	participant := func(name string) int {
		i, ok := index[name]
		if !ok {
			i = len(d.participants)
			index[name] = i
			d.participants = append(d.participants, name)
		}
		return i
	}
	for _, e := range drawn {
		if e.Failure == nil {
			participant(e.lifeline())
		}
	}
	for i, e := range drawn {
		for _, c := range f.consumers(i, len(drawn)) {
			if c.failure != nil {
				participant(groupName(c.failure))
			}
		}
		if e.Failure != nil && (e.Cause < 0 || e.Cause >= len(drawn)) {
			participant(groupName(e.Failure))
		}
	}
	for i, e := range drawn {
		if pause, ok := f.pauseBefore(i, opts.Pause); ok {
			d.steps = append(d.steps, step{kind: across, text: "pause of " + span(pause), event: -1})
		}
		if e.Failure != nil {
			if e.Cause < 0 || e.Cause >= len(drawn) {
				// The event that failed is not drawn, so there is nothing to hang the failure on.
				d.steps = append(d.steps, step{kind: lostFailure, from: participant(groupName(e.Failure)), detail: failureText(e.Failure), atMs: e.AtMs, event: i})
			}
			continue
		}
		from := participant(e.lifeline())
		consumers := f.consumers(i, len(drawn))
		switch {
		case e.Work != nil:
			d.steps = append(d.steps, step{kind: work, from: from, to: from, text: workText(e.Work), atMs: e.AtMs, event: i})
			// What a saga does next is its next step, not an answer to itself.
			consumers = slices.DeleteFunc(consumers, func(c consumer) bool { return c.failure == nil && c.lifeline == e.lifeline() })
		case len(consumers) == 0:
			d.steps = append(d.steps, step{kind: local, from: from, text: e.Type, atMs: e.AtMs, event: i})
		}
		for _, c := range consumers {
			s := step{kind: message, from: from, text: e.Type, atMs: e.AtMs, event: i}
			if c.failure != nil {
				s.kind, s.to, s.detail = failed, participant(groupName(c.failure)), failureText(c.failure)
			} else {
				s.to = participant(c.lifeline)
			}
			d.steps = append(d.steps, s)
		}
		if text := handlingText(&e); text != "" && !told(&e, consumers) {
			d.steps = append(d.steps, step{kind: handled, from: from, text: text, atMs: e.AtMs, event: i})
		}
	}
	if more := len(f.Events) - len(drawn); more > 0 && len(d.participants) > 0 {
		d.steps = append(d.steps, step{kind: across, text: "… " + counted(more, "more event", "more events"), event: -1})
	}
	return d
}

type consumer struct {
	lifeline string
	failure  *Failure
}

// told reports whether an arrow says already which group has handled an event: the one group that wants it and the one
// that reacted are the same.
func told(e *Event, consumers []consumer) bool {
	return len(e.HandledBy) == 1 && len(e.WaitingFor) == 0 && len(consumers) == 1 && consumers[0].failure == nil
}

// consumers are the services that reacted to event i, once each, in order, and the groups that failed on it.
func (f *Flow) consumers(i, drawn int) []consumer {
	var out []consumer
	seen := map[string]bool{}
	for _, n := range f.Events[i].Effects {
		e := &f.Events[n]
		switch {
		case n >= drawn:
		case e.Failure != nil:
			out = append(out, consumer{failure: e.Failure})
		case !seen[e.lifeline()]:
			seen[e.lifeline()] = true
			out = append(out, consumer{lifeline: e.lifeline()})
		}
	}
	return out
}

func groupName(x *Failure) string { return "group " + x.Group }

package fhir

import "time"

// moment is a FHIR date, dateTime or instant: what was written, as the instant at which it starts.
type moment struct {
	at    time.Time
	whole bool // has a time of day
}

func (m moment) exists() bool { return !m.at.IsZero() }

// date is the calendar date as written, whatever the offset: a birthday does not move with the time zone.
func (m moment) date() string {
	if !m.exists() {
		return ""
	}
	return m.at.Format(time.DateOnly)
}

// instant is RFC 3339 in UTC.
func (m moment) instant() string {
	if !m.exists() {
		return ""
	}
	return m.at.UTC().Format(instantLayout)
}

const instantLayout = time.RFC3339Nano

var layouts = []struct {
	layout string
	whole  bool
}{
	{time.RFC3339Nano, true},
	{"2006-01-02T15:04:05.999999999", true}, // without an offset: read as UTC
	{"2006-01-02T15:04Z07:00", true},
	{"2006-01-02T15:04", true},
	{time.DateOnly, false},
	{"2006-01", false}, // partial dates start at their first day
	{"2006", false},
}

// moment reads a date member. A text that is no date reads as absent and is noted.
func (n node) moment(name string) moment {
	m := n.get(name)
	s := m.string()
	if s == "" {
		return moment{}
	}
	for _, l := range layouts {
		// Years outside 1..9999 cannot be written in RFC 3339; converting a far offset to UTC may leave that range.
		if t, err := time.Parse(l.layout, s); err == nil && t.UTC().Year() >= 1 && t.UTC().Year() <= 9999 && !t.IsZero() {
			return moment{at: t, whole: l.whole}
		}
	}
	m.note()
	return moment{}
}

// firstOf returns the first that exists.
func firstOf(ms ...moment) moment {
	for _, m := range ms {
		if m.exists() {
			return m
		}
	}
	return moment{}
}

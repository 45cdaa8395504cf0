package main

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// position is a place in the log as a command line names it.
type position struct {
	topic     string
	kind      positionKind
	time      time.Time
	partition int
	offset    int64
}

type positionKind int

const (
	atBeginning positionKind = iota
	atEnd
	atTime
	atOffset
)

const positionHelp = "beginning, now, a time (2026-03-01T10:00:00Z or 2026-03-01), a time ago (-1h, -30m, -7d) or PARTITION:OFFSET, or TOPIC/PARTITION:OFFSET of a group that reads topics"

var (
	offsetForm = regexp.MustCompile(`^(?:([A-Za-z0-9._-]+)/)?(\d{1,9}):(\d{1,18})$`)
	daysForm   = regexp.MustCompile(`^(\d{1,6})d$`)
)

// parsePosition reads what positionHelp says.
func parsePosition(flag, s string, now time.Time) (position, error) {
	switch s {
	case "beginning", "start":
		return position{kind: atBeginning}, nil
	case "now", "end":
		return position{kind: atEnd}, nil
	}
	if m := offsetForm.FindStringSubmatch(s); m != nil {
		p, _ := strconv.Atoi(m[2]) // the form allows nothing that does not fit
		o, _ := strconv.ParseInt(m[3], 10, 64)
		return position{kind: atOffset, topic: m[1], partition: p, offset: o}, nil
	}
	t, err := parseTime(flag, s, now)
	if err != nil {
		return position{}, usagef("--%s %s: no such place; use %s", flag, s, positionHelp)
	}
	return position{kind: atTime, time: t}, nil
}

// parseTime reads an RFC 3339 time, a date, or how long ago.
func parseTime(flag, s string, now time.Time) (time.Time, error) {
	if ago, ok := strings.CutPrefix(s, "-"); ok {
		if m := daysForm.FindStringSubmatch(ago); m != nil {
			n, _ := strconv.Atoi(m[1])
			return now.AddDate(0, 0, -n), nil
		}
		if d, err := time.ParseDuration(ago); err == nil && d >= 0 {
			return now.Add(-d), nil
		}
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("--%s %s: not a time; use 2026-03-01T10:00:00Z, 2026-03-01, or a time ago such as -1h or -7d", flag, s)
}

// target is the position as the bus knows it.
func (p position) target() bus.Target {
	switch p.kind {
	case atEnd:
		return bus.End()
	case atTime:
		return bus.Since(p.time)
	case atOffset:
		if p.topic != "" {
			return bus.AtTopic(p.topic, p.partition, p.offset)
		}
		return bus.At(p.partition, p.offset)
	}
	return bus.Beginning()
}

// exists says whether the store has the partition that the position names, if it names one of the store.
func (p position) exists(s *eventstore.Store) error {
	if p.kind == atOffset && p.topic == "" && p.partition >= s.Partitions() {
		return notFoundf("no partition %d; the store has partitions 0 to %d", p.partition, s.Partitions()-1)
	}
	return nil
}

// offsets is the position in every partition; -1 where a position in one partition says nothing of another.
func (p position) offsets(ctx context.Context, s *eventstore.Store) ([]int64, error) {
	switch p.kind {
	case atEnd:
		return s.Heads(ctx)
	case atTime:
		return s.OffsetsAt(ctx, p.time)
	case atOffset:
		if p.topic != "" {
			return nil, usagef("topic %s: this reads the store; give PARTITION:OFFSET", p.topic)
		}
		if err := p.exists(s); err != nil {
			return nil, err
		}
		out := make([]int64, s.Partitions())
		for i := range out {
			out[i] = -1
		}
		out[p.partition] = p.offset
		return out, nil
	}
	return make([]int64, s.Partitions()), nil
}

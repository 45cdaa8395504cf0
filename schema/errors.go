package schema

import (
	"errors"
	"fmt"
	"strings"

	"github.com/carebus/carebus/event"
)

// What the errors of this package are about: test with errors.Is. The types below, found with errors.As, say more.
var (
	ErrUnknownType    = errors.New("unknown event type")
	ErrUnknownVersion = errors.New("unknown schema version")
	ErrIncompatible   = errors.New("incompatible schema")
	ErrVersion        = errors.New("version cannot be taken")
	ErrVersionExists  = errors.New("version exists with another schema")
	ErrNoUpcaster     = errors.New("no upcaster")
)

// IncompatibleError refuses a version whose step is too small for what changed. It is an ErrIncompatible.
type IncompatibleError struct {
	Type      string
	Version   string // the version that was proposed
	Against   string // the earlier version that it does not fit
	Required  Bump   // the step that the changes need
	Suggested string // the lowest version that would be admitted with these changes
	Changes   []Change
}

func (e *IncompatibleError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s does not fit version %s: the changes need a %s step; register it as %s, or change it back:",
		e.Type, e.Version, e.Against, e.Required, e.Suggested)
	for _, c := range e.Changes {
		b.WriteString("\n  " + c.String())
	}
	return b.String()
}

// Is tells errors.Is that this is an ErrIncompatible.
func (e *IncompatibleError) Is(target error) bool { return target == ErrIncompatible }

// VersionError refuses a version for its number. It is an ErrVersion, and an ErrVersionExists when the version is taken
// by a schema with another content.
type VersionError struct {
	Type      string
	Version   string // the version that was proposed
	Problem   string // what is wrong with it
	Suggested string // a version that could be taken; empty when that depends on what changed
	exists    bool
}

func (e *VersionError) Error() string {
	text := fmt.Sprintf("%s: version %s %s", e.Type, bounded(e.Version), e.Problem)
	if e.Suggested != "" {
		text += "; take " + e.Suggested
	}
	return text
}

// Is tells errors.Is what kind of refusal this is.
func (e *VersionError) Is(target error) bool {
	return target == ErrVersion || e.exists && target == ErrVersionExists
}

// UnknownError names a type or version that is not registered. It is an ErrUnknownType, or an ErrUnknownVersion when
// Version is set.
type UnknownError struct {
	Type    string
	Version string   // empty when it is the type that is unknown
	Known   []string // the names nearest to Type, or the versions of it
}

func (e *UnknownError) Error() string {
	if e.Version != "" {
		return fmt.Sprintf("unknown version %s of %s; known are %s", bounded(e.Version), e.Type, listed(e.Known))
	}
	if len(e.Known) == 0 {
		return fmt.Sprintf("unknown event type %s; register its schema first", bounded(e.Type))
	}
	return fmt.Sprintf("unknown event type %s; did you mean %s?", bounded(e.Type), strings.Join(e.Known, " or "))
}

// Is tells errors.Is what is unknown.
func (e *UnknownError) Is(target error) bool {
	if e.Version != "" {
		return target == ErrUnknownVersion
	}
	return target == ErrUnknownType
}

// finding is the error as a finding about an event's metadata.
func (e *UnknownError) finding() event.Finding {
	if e.Version != "" {
		return event.Finding{Pointer: "/metadata/version", Rule: "schema.unknown-version",
			Message: "the event type has no version " + bounded(e.Version), Remedy: "known are " + listed(e.Known)}
	}
	remedy := "register its schema first"
	if len(e.Known) > 0 {
		remedy = "did you mean " + strings.Join(e.Known, " or ") + "? Else register its schema first"
	}
	return event.Finding{Pointer: "/metadata/eventType", Rule: "schema.unknown-type",
		Message: "there is no schema for the event type " + bounded(e.Type), Remedy: remedy}
}

// UpcastError says why an event could not be brought to another major version. It is an ErrNoUpcaster when a step is
// missing; else Err is what the upcaster of the step returned.
type UpcastError struct {
	Type     string
	From, To int // the step that is missing or failed, as major versions
	Err      error
}

func (e *UpcastError) Error() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("upcasting %s from major %d to %d: %v", e.Type, e.From, e.To, e.Err)
	case e.To < e.From:
		return fmt.Sprintf("%s of major %d cannot be read as major %d; events are only brought forward", e.Type, e.From, e.To)
	}
	return fmt.Sprintf("no upcaster brings %s from major %d to %d; add one with AddUpcaster", e.Type, e.From, e.To)
}

// Unwrap returns what the upcaster returned.
func (e *UpcastError) Unwrap() error { return e.Err }

// Is tells errors.Is that a step is missing.
func (e *UpcastError) Is(target error) bool { return e.Err == nil && target == ErrNoUpcaster }

// listed joins names, the last few when there are many.
func listed(names []string) string {
	const most = 8
	if len(names) == 0 {
		return "none"
	}
	if len(names) > most {
		return "… " + strings.Join(names[len(names)-most:], ", ")
	}
	return strings.Join(names, ", ")
}

// bounded cuts a name that came from outside, so that an error does not become a large text.
func bounded(name string) string {
	const most = 128
	if len(name) > most {
		return strings.ToValidUTF8(name[:most], "") + "…"
	}
	return name
}

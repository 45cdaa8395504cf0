package confluent

import (
	"slices"
	"strings"

	"github.com/carebus/carebus/event"
)

const (
	ourLevel = "FULL_TRANSITIVE" // the nearest name for the rules of package schema, and the strictest there is
	ourMode  = "READWRITE"
)

var (
	levels = []string{"NONE", "BACKWARD", "BACKWARD_TRANSITIVE", "FORWARD", "FORWARD_TRANSITIVE", "FULL", ourLevel}
	modes  = []string{ourMode, "READONLY", "READONLY_OVERRIDE", "IMPORT", "FORWARD"}
)

func (h *Handler) root(*request) (any, error) { return struct{}{}, nil }

func (h *Handler) types(*request) (any, error) { return []string{"JSON"}, nil }

func (h *Handler) contexts(*request) (any, error) { return []string{"."}, nil }

// setting checks a request about the level or mode of everything, or of a subject. Every event type has the one level
// and mode, whether it has schemas yet or not; what can be no subject has none of its own.
func (h *Handler) setting(r *request, write bool, none int) error {
	subject := r.path["subject"]
	if err := h.authorize(r, write, subject); err != nil {
		return err
	}
	if subject == "" || checkSubject(subject) == nil || !write && r.flag("defaultToGlobal") {
		return nil
	}
	if write {
		return checkSubject(subject)
	}
	return refuse(none, "Subject '%s' has no settings of its own: it is no event type", bounded(subject))
}

func (h *Handler) level(r *request) (any, error) {
	if err := h.setting(r, false, codeNoSubjectLevel); err != nil {
		return nil, err
	}
	return map[string]string{"compatibilityLevel": ourLevel}, nil
}

func (h *Handler) setLevel(r *request) (any, error) {
	if err := h.setting(r, true, codeNoSubjectLevel); err != nil {
		return nil, err
	}
	var body struct {
		Compatibility string `json:"compatibility"`
	}
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	switch level := strings.ToUpper(body.Compatibility); {
	case level == ourLevel:
		return map[string]string{"compatibility": ourLevel}, nil
	case slices.Contains(levels, level):
		return nil, refuse(codeNotPermitted, "the level is %s for every subject and cannot be lowered to %s: within a major version old producers and old consumers stay valid; what must break them is registered as a new major, with metadata.properties.version", ourLevel, level)
	}
	return nil, refuse(codeInvalidLevel, "Invalid compatibility level. Valid values are %s", strings.Join(levels, ", "))
}

// resetLevel answers with both members that clients look for.
func (h *Handler) resetLevel(r *request) (any, error) {
	if err := h.setting(r, true, codeNoSubjectLevel); err != nil {
		return nil, err
	}
	return map[string]string{"compatibilityLevel": ourLevel, "compatibility": ourLevel}, nil
}

func (h *Handler) mode(r *request) (any, error) {
	if err := h.setting(r, false, codeNoSubjectMode); err != nil {
		return nil, err
	}
	return map[string]string{"mode": ourMode}, nil
}

func (h *Handler) setMode(r *request) (any, error) {
	if err := h.setting(r, true, codeNoSubjectMode); err != nil {
		return nil, err
	}
	var body struct {
		Mode string `json:"mode"`
	}
	if err := readBody(r, &body); err != nil {
		return nil, err
	}
	switch mode := strings.ToUpper(body.Mode); {
	case mode == ourMode:
		return map[string]string{"mode": ourMode}, nil
	case slices.Contains(modes, mode):
		return nil, refuse(codeNotPermitted, "the mode is %s and cannot be %s: ids are given by this registry only, and who may register is a question of access", ourMode, mode)
	}
	return nil, refuse(codeInvalidMode, "Invalid mode. Valid values are %s", strings.Join(modes, ", "))
}

func (h *Handler) resetMode(r *request) (any, error) {
	if err := h.setting(r, true, codeNoSubjectMode); err != nil {
		return nil, err
	}
	return map[string]string{"mode": ourMode}, nil
}

// checkSubject checks that a subject may be registered: it is the name of an event type, and not one of carebus's own.
func checkSubject(subject string) error {
	if strings.HasPrefix(subject, ":") {
		return refuse(codeInvalidSubject, "Subject '%s': there are no contexts but the one named '.'", bounded(subject))
	}
	e := event.Event{Metadata: event.Metadata{ID: "x", Type: subject, Source: "x", CorrelationID: "x", Timestamp: 1e12, Version: "1.0.0"}, Payload: []byte("{}")}
	if _, err := e.Check(nil); err != nil {
		return refuse(codeInvalidSubject, "Subject '%s' is no event type; name it domain.entity.action, such as medication.prescription.filled, and have the client name subjects after records or events, not topics", bounded(subject))
	}
	if domain, _, _ := strings.Cut(subject, "."); domain == "platform" {
		return refuse(codeInvalidSubject, "Subject '%s': the domain platform is carebus's own; use a domain of yours", bounded(subject))
	}
	return nil
}

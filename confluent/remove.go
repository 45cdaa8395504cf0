package confluent

import (
	"context"
	"errors"

	"github.com/carebus/carebus/eventstore"
)

const deletedReason = "deleted by a client of the schema registry's API"

// deletable returns all versions of the subject in the path, for a request that deletes.
func (h *Handler) deletable(r *request) ([]*version, error) {
	subject := r.path["subject"]
	if err := h.authorize(r, true, subject); err != nil {
		return nil, err
	}
	ix, err := h.look(r.ctx())
	if err != nil {
		return nil, err
	}
	all := ix.subjects[subject]
	if len(all) == 0 {
		return nil, unknownSubject(subject)
	}
	if checkSubject(subject) != nil {
		return nil, refuse(codeNotPermitted, "Subject '%s' is carebus's own and is not deleted", subject)
	}
	return all, nil
}

func (h *Handler) deleteSubject(r *request) (any, error) {
	all, err := h.deletable(r)
	if err != nil {
		return nil, err
	}
	subject := all[0].subject
	var visible []*version
	var numbers []int
	for _, v := range all {
		if !v.hidden {
			visible, numbers = append(visible, v), append(numbers, v.number)
		}
	}
	switch permanent := r.flag("permanent"); {
	case permanent && len(visible) > 0:
		return nil, refuse(codeSubjectNotGone, "Subject '%s' was not deleted first before being permanently deleted; and %s", subject, messageNotPermanent)
	case permanent:
		return nil, refuse(codeNotPermitted, "Subject '%s' is not deleted permanently: %s", subject, messageNotPermanent)
	case len(visible) == 0:
		return nil, refuse(codeSubjectGone, "Subject '%s' was soft deleted; %s", subject, messageNotPermanent)
	}
	return numbers, h.hide(r.ctx(), "", visible)
}

func (h *Handler) deleteVersion(r *request) (any, error) {
	number, err := parseVersion(r)
	if err != nil {
		return nil, err
	}
	all, err := h.deletable(r)
	if err != nil {
		return nil, err
	}
	v := pick(all, number)
	switch permanent := r.flag("permanent"); {
	case v == nil:
		return nil, refuse(codeVersion, "Version %s not found.", r.path["version"])
	case permanent && !v.hidden:
		return nil, refuse(codeVersionNotGone, "Subject '%s' Version %d was not deleted first before being permanently deleted; and %s", v.subject, v.number, messageNotPermanent)
	case permanent:
		return nil, refuse(codeNotPermitted, "Subject '%s' Version %d is not deleted permanently: %s", v.subject, v.number, messageNotPermanent)
	case v.hidden:
		return nil, refuse(codeVersionGone, "Subject '%s' Version %d was soft deleted; %s", v.subject, v.number, messageNotPermanent)
	}
	return v.number, h.hide(r.ctx(), v.semver, []*version{v})
}

// hide deprecates a version, or with an empty one the whole type, and then hides what the client sees of it. A crash in
// between leaves it deprecated and visible; deleting it again completes it. What is deprecated already keeps its reason.
func (h *Handler) hide(ctx context.Context, semver string, versions []*version) error {
	defer h.forget()
	deprecated := true
	for _, v := range versions {
		doc, err := h.r.Registry().Get(v.subject, v.semver)
		if err != nil {
			return err
		}
		deprecated = deprecated && doc.Deprecated
	}
	if !deprecated {
		// ErrDifferentContent: somebody else has just stated the same, at another time.
		err := h.r.DeprecateSchema(ctx, versions[0].subject, semver, deletedReason, "")
		if err != nil && !errors.Is(err, eventstore.ErrDifferentContent) {
			return err
		}
	}
	return h.store.Update(ctx, func(tx *eventstore.Tx) error {
		for _, v := range versions {
			if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_confluent_hidden (type, version) VALUES ($1, $2)
				ON CONFLICT (type, version) DO NOTHING`, v.subject, v.semver); err != nil {
				return err
			}
		}
		return nil
	})
}

// unhide shows a version again that was deleted, since it has been registered again, and returns it as it is now.
func (h *Handler) unhide(ctx context.Context, v *version) (*version, error) {
	if !v.hidden {
		return v, nil
	}
	defer h.forget()
	shown := *v
	shown.hidden = false
	return &shown, h.store.Update(ctx, func(tx *eventstore.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM carebus_confluent_hidden WHERE type = $1 AND version = $2`, v.subject, v.semver)
		return err
	})
}

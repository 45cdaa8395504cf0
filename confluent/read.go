package confluent

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
)

// schemaBody is a schema as it is asked for by its id.
type schemaBody struct {
	Schema string `json:"schema"`
	Type   string `json:"schemaType"`
	MaxID  int    `json:"maxId,omitempty"`
}

// versionBody is a version of a subject.
type versionBody struct {
	Subject  string        `json:"subject"`
	Version  int           `json:"version"`
	ID       int           `json:"id"`
	GUID     string        `json:"guid,omitempty"`
	Schema   string        `json:"schema"`
	Type     string        `json:"schemaType"`
	Metadata *metadataBody `json:"metadata,omitempty"`
	Deleted  bool          `json:"deleted,omitempty"`
}

type metadataBody struct {
	Properties map[string]string          `json:"properties,omitempty"`
	Tags       map[string]json.RawMessage `json:"tags,omitempty"`
	Sensitive  []string                   `json:"sensitive,omitempty"`
}

// The properties of a version; those behind the first are told, and not taken.
const (
	propertyVersion    = "version"
	propertyDeprecated = "deprecated"
	propertyReason     = "deprecationReason"
	propertyReplacedBy = "replacedBy"
)

// properties are what the registry says of a version beside its schema.
func (h *Handler) properties(v *version) map[string]string {
	p := map[string]string{propertyVersion: v.semver}
	if doc, err := h.r.Registry().Get(v.subject, v.semver); err == nil && doc.Deprecated {
		p[propertyDeprecated], p[propertyReason] = "true", doc.DeprecationReason
		if doc.ReplacedBy != "" {
			p[propertyReplacedBy] = doc.ReplacedBy
		}
	}
	return p
}

// body tells a version. Members that old clients stumble over are for those who say that they do not.
func (h *Handler) body(r *request, v *version) versionBody {
	b := versionBody{Subject: v.subject, Version: v.number, ID: v.text.id, Schema: v.text.schema, Type: "JSON",
		Metadata: &metadataBody{Properties: h.properties(v)}}
	if acceptsUnknown(r) {
		b.GUID, b.Deleted = v.text.guid(), v.hidden
	}
	return b
}

func acceptsUnknown(r *request) bool {
	return strings.EqualFold(r.Header.Get("Confluent-Accept-Unknown-Properties"), "true")
}

// shown tells whether a version is one that the request asks for.
func shown(r *request, v *version) bool {
	if r.flag("deletedOnly") {
		return v.hidden
	}
	return !v.hidden || r.flag("deleted")
}

// page is the part of a list that the request asks for.
func page[T any](r *request, list []T) []T {
	if offset, err := strconv.Atoi(r.query.Get("offset")); err == nil && offset > 0 {
		list = list[min(offset, len(list)):]
	}
	if limit, err := strconv.Atoi(r.query.Get("limit")); err == nil && limit >= 0 {
		list = list[:min(limit, len(list))]
	}
	if list == nil {
		list = []T{} // a list is never null
	}
	return list
}

// visible lists the subjects that the request asks for and may see.
func (h *Handler) visible(r *request) (*index, []string, error) {
	ix, err := h.look(r.ctx())
	if err != nil {
		return nil, nil, err
	}
	prefix := r.query.Get("subjectPrefix")
	if s, ok := strings.CutPrefix(prefix, ":*:"); ok { // of all contexts
		prefix = s
	}
	prefix = strings.TrimPrefix(prefix, ":.:")
	var names []string
	for _, name := range ix.names {
		if strings.HasPrefix(name, prefix) && h.authorize(r, false, name) == nil {
			names = append(names, name)
		}
	}
	return ix, names, nil
}

func (h *Handler) subjects(r *request) (any, error) {
	ix, names, err := h.visible(r)
	if err != nil {
		return nil, err
	}
	return page(r, slices.DeleteFunc(names, func(name string) bool {
		hidden := latest(ix.subjects[name]) == nil
		return hidden && !r.flag("deleted") && !r.flag("deletedOnly") || !hidden && r.flag("deletedOnly")
	})), nil
}

func (h *Handler) schemas(r *request) (any, error) {
	ix, names, err := h.visible(r)
	if err != nil {
		return nil, err
	}
	var list []*version
	for _, name := range names {
		var of []*version
		for _, v := range ix.subjects[name] {
			if shown(r, v) {
				of = append(of, v)
			}
		}
		if r.flag("latestOnly") && len(of) > 0 {
			last := latest(of)
			if last == nil { // all are deleted
				last = of[len(of)-1]
			}
			of = []*version{last}
		}
		list = append(list, of...)
	}
	bodies := []versionBody{}
	for _, v := range page(r, list) {
		bodies = append(bodies, h.body(r, v))
	}
	return bodies, nil
}

// subject returns the versions of the subject in the path, hidden ones among them. There is at least one that the
// request may see.
func (h *Handler) subject(r *request) ([]*version, error) {
	name := r.path["subject"]
	if err := h.authorize(r, false, name); err != nil {
		return nil, err
	}
	ix, err := h.look(r.ctx())
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(ix.subjects[name], func(v *version) bool { return shown(r, v) }) {
		return nil, unknownSubject(name)
	}
	return ix.subjects[name], nil
}

func (h *Handler) versions(r *request) (any, error) {
	all, err := h.subject(r)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, v := range all {
		if shown(r, v) {
			n := v.number
			if v.hidden && r.flag("deletedAsNegative") {
				n = -n
			}
			numbers = append(numbers, n)
		}
	}
	return page(r, numbers), nil
}

// parseVersion reads the version in the path: a number, or 0 for the latest.
func parseVersion(r *request) (int, error) {
	s := r.path["version"]
	if s == "latest" || s == "-1" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > math.MaxInt32 {
		return 0, refuse(codeInvalidVersion, "The specified version '%s' is not a valid version id. Allowed values are between [1, 2^31-1] and the string \"latest\"", bounded(s))
	}
	return n, nil
}

// pick chooses a version of a subject by its number; nil when there is none.
func pick(versions []*version, number int) *version {
	switch {
	case number == 0:
		return latest(versions)
	case number > len(versions):
		return nil
	}
	return versions[number-1]
}

func (h *Handler) version(r *request) (*version, error) {
	number, err := parseVersion(r)
	if err != nil {
		return nil, err
	}
	all, err := h.subject(r)
	if err != nil {
		return nil, err
	}
	v := pick(all, number)
	if v == nil || v.hidden && !r.flag("deleted") {
		return nil, refuse(codeVersion, "Version %s not found.", r.path["version"])
	}
	return v, nil
}

func (h *Handler) byVersion(r *request) (any, error) {
	v, err := h.version(r)
	if err != nil {
		return nil, err
	}
	return h.body(r, v), nil
}

func (h *Handler) schemaByVersion(r *request) (any, error) {
	v, err := h.version(r)
	if err != nil {
		return nil, err
	}
	return json.RawMessage(v.text.schema), nil
}

// referencedBy is empty: schemas stand alone.
func (h *Handler) referencedBy(r *request) (any, error) {
	if _, err := h.version(r); err != nil {
		return nil, err
	}
	return []int{}, nil
}

// byMetadata finds the newest version that has all the properties asked for.
func (h *Handler) byMetadata(r *request) (any, error) {
	all, err := h.subject(r)
	if err != nil {
		return nil, err
	}
	keys, values := r.query["key"], r.query["value"]
	for _, v := range slices.Backward(all) {
		if !shown(r, v) || len(keys) != len(values) {
			continue
		}
		has := h.properties(v)
		fits := true
		for i, key := range keys {
			value, ok := has[key]
			fits = fits && ok && value == values[i]
		}
		if fits {
			return h.body(r, v), nil
		}
	}
	return nil, refuse(codeSchema, "no version has the properties asked for")
}

// text finds a schema by its global id, and the versions that have it and that the caller may see: there is one.
func (h *Handler) text(r *request) (*index, *text, []*version, error) {
	ix, err := h.look(r.ctx())
	if err != nil {
		return nil, nil, nil, err
	}
	id, err := strconv.Atoi(r.path["id"])
	if t := ix.texts[id]; err == nil && t != nil {
		uses, err := h.uses(r, t)
		return ix, t, uses, err
	}
	return nil, nil, nil, refuse(codeSchema, "Schema %s not found", bounded(r.path["id"]))
}

func (h *Handler) uses(r *request, t *text) (uses []*version, refused error) {
	asked, may := "", error(nil)
	for _, v := range t.uses { // by subject
		if v.subject != asked {
			asked, may = v.subject, h.authorize(r, false, v.subject)
		}
		if may != nil {
			refused = may
			continue
		}
		uses = append(uses, v)
	}
	if len(uses) > 0 {
		refused = nil
	}
	return uses, refused
}

func (h *Handler) byID(r *request) (any, error) {
	ix, t, _, err := h.text(r)
	if err != nil {
		return nil, err
	}
	b := schemaBody{Schema: t.schema, Type: "JSON"}
	if r.flag("fetchMaxId") {
		b.MaxID = ix.maxID
	}
	return b, nil
}

func (h *Handler) schemaByID(r *request) (any, error) {
	_, t, _, err := h.text(r)
	if err != nil {
		return nil, err
	}
	return json.RawMessage(t.schema), nil
}

func (h *Handler) subjectsOfID(r *request) (any, error) {
	_, _, uses, err := h.text(r)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, v := range uses {
		if shown(r, v) && !slices.Contains(names, v.subject) {
			names = append(names, v.subject)
		}
	}
	return page(r, names), nil
}

func (h *Handler) versionsOfID(r *request) (any, error) {
	_, _, uses, err := h.text(r)
	if err != nil {
		return nil, err
	}
	type subjectVersion struct {
		Subject string `json:"subject"`
		Version int    `json:"version"`
	}
	var list []subjectVersion
	for _, v := range uses {
		if shown(r, v) {
			list = append(list, subjectVersion{v.subject, v.number})
		}
	}
	return page(r, list), nil
}

func (h *Handler) guid(r *request) (*text, error) {
	ix, err := h.look(r.ctx())
	if err != nil {
		return nil, err
	}
	for _, t := range ix.texts {
		if strings.EqualFold(t.guid(), r.path["guid"]) {
			_, err := h.uses(r, t)
			return t, err
		}
	}
	return nil, refuse(codeSchema, "Schema %s not found", bounded(r.path["guid"]))
}

func (h *Handler) byGUID(r *request) (any, error) {
	t, err := h.guid(r)
	if err != nil {
		return nil, err
	}
	return schemaBody{Schema: t.schema, Type: "JSON"}, nil
}

func (h *Handler) idsOfGUID(r *request) (any, error) {
	t, err := h.guid(r)
	if err != nil {
		return nil, err
	}
	return []struct {
		Context string `json:"context"`
		ID      int    `json:"id"`
	}{{".", t.id}}, nil
}

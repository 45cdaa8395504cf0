package confluent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/mod/semver"

	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/schema"
)

// tables are this package's part of the store.
//
// A schema's row may be there before it has an id: the text as the client sent it is kept first, then the schema is
// registered, and whoever sees the registration gives the id.
//
//  1. A crash between the first two steps leaves a text that nobody asks for.
//  2. A crash between the last two is made up by the next request to any process.
//  3. Two processes that give ids at once do so one after the other: a transaction holds up every other writer. The
//     second finds the first one's id.
var tables = []string{`
CREATE TABLE carebus_confluent_schemas (
	fingerprint TEXT PRIMARY KEY,
	id BIGINT UNIQUE,
	text TEXT NOT NULL
);
CREATE TABLE carebus_confluent_hidden (
	type TEXT NOT NULL,
	version TEXT NOT NULL,
	PRIMARY KEY (type, version)
);`}

// version is one version of a subject.
type version struct {
	subject string
	number  int    // place in the order of registration, from 1
	semver  string // version in the registry
	text    *text
	hidden  bool // deleted, as far as this API is concerned
}

// text is a schema with its global id.
type text struct {
	id          int
	fingerprint string
	schema      string
	uses        []*version // by subject and number
}

// guid is derived from the content, in the form of a UUID of version 8.
func (t *text) guid() string {
	sum := sha256.Sum256([]byte(t.fingerprint))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// index is what the registry and the tables say, at a moment. It is not changed after it has been made.
type index struct {
	subjects map[string][]*version // by number
	names    []string              // of the subjects, sorted
	texts    map[int]*text
	maxID    int
}

// registration is a version's place in the history of its type.
type registration struct {
	version string
	at      time.Time
}

// memory is what the handler has read so far; Handler.mu guards it.
type memory struct {
	order  map[string][]registration // per type, in order of registration
	ids    map[string]storedText     // by fingerprint
	hidden map[[2]string]bool
	tick   eventstore.Tick
	index  *index // nil when it must be made anew
}

type storedText struct {
	id     int
	schema string
}

// look returns the present index.
func (h *Handler) look(ctx context.Context) (*index, error) {
	if err := h.r.Refresh(ctx); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	tick := h.store.Tick() // taken before looking: what comes meanwhile is looked at next time
	if h.mem.index != nil && h.mem.tick == tick {
		return h.mem.index, nil
	}
	if err := h.learn(ctx); err != nil {
		return nil, err
	}
	h.mem.tick = tick
	return h.mem.index, nil
}

// forget makes the next look read again, after this handler has written.
func (h *Handler) forget() {
	h.mu.Lock()
	h.mem.index = nil
	h.mu.Unlock()
}

// learn reads what has changed and makes a new index if anything has.
func (h *Handler) learn(ctx context.Context) error {
	m := &h.mem
	changed := m.index == nil
	for _, t := range h.r.Registry().Types() {
		if len(h.r.Registry().Versions(t)) == len(m.order[t]) {
			continue
		}
		order, err := h.history(ctx, t)
		if err != nil {
			return err
		}
		m.order[t], m.index, changed = order, nil, true // whatever fails from here on, it is made anew
	}
	hidden, err := h.readHidden(ctx)
	if err != nil {
		return err
	}
	if !changed && maps.Equal(hidden, m.hidden) {
		return nil
	}
	m.hidden, m.index = hidden, nil
	if err := h.identify(ctx); err != nil {
		return err
	}
	index, err := h.build()
	if err != nil {
		return err
	}
	m.index = index
	return nil
}

// history reads the order in which a type's versions were registered.
func (h *Handler) history(ctx context.Context, eventType string) ([]registration, error) {
	var order []registration
	q := eventstore.StreamQuery{Stream: schema.StreamOf(eventType), From: 1, Limit: 200}
	for {
		records, err := h.store.Stream(ctx, q)
		if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
			return nil, err
		}
		for _, r := range records {
			if r.Type != "platform.schema.registered" {
				continue
			}
			var p struct{ Version string }
			if err := json.Unmarshal(r.Payload, &p); err != nil {
				return nil, fmt.Errorf("confluent: event %s of the registry cannot be read: %w", r.ID, err)
			}
			if slices.ContainsFunc(order, func(have registration) bool { return have.version == p.Version }) {
				continue // two programs met; the first registration counts
			}
			if _, err := h.r.Registry().Get(eventType, p.Version); err != nil {
				return order, nil // it came after the registry was refreshed: next time
			}
			order = append(order, registration{p.Version, r.RecordedAt})
		}
		if len(records) < q.Limit {
			return order, nil
		}
		q.From += int64(len(records))
	}
}

func (h *Handler) readHidden(ctx context.Context) (map[[2]string]bool, error) {
	hidden := map[[2]string]bool{}
	err := h.store.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT type, version FROM carebus_confluent_hidden`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var key [2]string
			if err := rows.Scan(&key[0], &key[1]); err != nil {
				return err
			}
			hidden[key] = true
		}
		return rows.Err()
	})
	return hidden, err
}

// identify gives ids to the schemas that have none yet, in the order in which they were registered.
func (h *Handler) identify(ctx context.Context) error {
	type unknown struct {
		registration
		doc schema.Document
	}
	missing := func() (list []unknown, err error) {
		for t, order := range h.mem.order {
			for _, r := range order {
				doc, err := h.r.Registry().Get(t, r.version)
				if err != nil {
					return nil, err
				}
				if _, ok := h.mem.ids[doc.Fingerprint]; !ok {
					list = append(list, unknown{r, doc})
				}
			}
		}
		// The sort is stable over what comes from one type in its order; those of different types are told apart.
		slices.SortStableFunc(list, func(a, b unknown) int {
			return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.doc.Type, b.doc.Type))
		})
		return list, nil
	}
	list, err := missing()
	if err != nil || len(list) == 0 {
		return err
	}
	if err := h.readIDs(ctx); err != nil {
		return err
	}
	if list, err = missing(); err != nil || len(list) == 0 {
		return err
	}
	err = h.store.Update(ctx, func(tx *eventstore.Tx) error {
		for _, u := range list {
			if err := keepText(ctx, tx, u.doc.Fingerprint, string(u.doc.Schema)); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `UPDATE carebus_confluent_schemas
				SET id = (SELECT COALESCE(MAX(id), 0) + 1 FROM carebus_confluent_schemas)
				WHERE fingerprint = $1 AND id IS NULL`, u.doc.Fingerprint); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("confluent: giving ids to schemas: %w", err)
	}
	return h.readIDs(ctx)
}

// keepText keeps a schema's text unless there is one already.
func keepText(ctx context.Context, tx *eventstore.Tx, fingerprint, schema string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO carebus_confluent_schemas (fingerprint, text) VALUES ($1, $2)
		ON CONFLICT (fingerprint) DO NOTHING`, fingerprint, schema)
	return err
}

// readIDs reads the schemas whose ids are above those known. An id is given after all lower ones were.
func (h *Handler) readIDs(ctx context.Context) error {
	known := 0
	for _, t := range h.mem.ids {
		known = max(known, t.id)
	}
	return h.store.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT fingerprint, id, text FROM carebus_confluent_schemas WHERE id > $1`, known)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var fingerprint string
			var t storedText
			if err := rows.Scan(&fingerprint, &t.id, &t.schema); err != nil {
				return err
			}
			h.mem.ids[fingerprint] = t
		}
		return rows.Err()
	})
}

// build makes an index of what was read.
func (h *Handler) build() (*index, error) {
	ix := &index{subjects: map[string][]*version{}, texts: map[int]*text{}}
	ix.names = slices.Sorted(maps.Keys(h.mem.order))
	for _, name := range ix.names {
		for i, r := range h.mem.order[name] {
			doc, err := h.r.Registry().Get(name, r.version)
			if err != nil {
				return nil, err
			}
			stored, ok := h.mem.ids[doc.Fingerprint]
			if !ok {
				return nil, fmt.Errorf("confluent: the store has no id for %s %s; was its table changed by hand?", name, r.version)
			}
			t := ix.texts[stored.id]
			if t == nil {
				t = &text{id: stored.id, fingerprint: doc.Fingerprint, schema: stored.schema}
				ix.texts[t.id] = t
				ix.maxID = max(ix.maxID, t.id)
			}
			v := &version{subject: name, number: i + 1, semver: r.version, text: t, hidden: h.mem.hidden[[2]string{name, r.version}]}
			t.uses = append(t.uses, v)
			ix.subjects[name] = append(ix.subjects[name], v)
		}
	}
	return ix, nil
}

// latest returns the highest release that is not hidden, else the highest pre-release; nil when there is none.
func latest(versions []*version) *version {
	var best *version
	release := func(v *version) bool { return semver.Prerelease("v"+v.semver) == "" }
	for _, v := range versions {
		switch {
		case v.hidden:
		case best == nil,
			release(v) && !release(best),
			release(v) == release(best) && semver.Compare("v"+v.semver, "v"+best.semver) > 0:
			best = v
		}
	}
	return best
}

// byContent returns the version of a subject with this content and, unless wanted is empty, this semantic version: one
// that is not hidden before one that is, the newest before older ones.
func byContent(versions []*version, fingerprint, wanted string) *version {
	var found *version
	for _, v := range slices.Backward(versions) {
		if v.text.fingerprint != fingerprint || wanted != "" && v.semver != wanted {
			continue
		}
		if found == nil || found.hidden && !v.hidden {
			found = v
		}
	}
	return found
}

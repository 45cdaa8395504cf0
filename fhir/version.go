package fhir

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strconv"
	"time"
)

// How versions of one resource are told apart, without holding resources in memory:
//
//  1. The first pass computes the identity of every mapped resource (what its events would say) and keeps 62 bits of
//     it per (type, id). A second, different identity sets flagSeveral.
//  2. The second pass publishes a resource at first sight and sets flagPublished; the same again is a duplicate.
//  3. A resource with flagSeveral is written to the held spool instead: history bundles come newest first, and a
//     change can only be told from the version before. At the end its versions are sorted (meta.lastUpdated, then
//     meta.versionId, then order of appearance), the first one is published as new, the others as changes.

const (
	flagPublished = 1
	flagSeveral   = 2
	contentMask   = ^uint64(3)
)

type sight int

const (
	newResource sight = iota
	seenBefore
	severalVersions
)

func (r *run) sawContent(kind, id string, content key) error {
	k := hashOf("seen", kind, id)
	v := binary.LittleEndian.Uint64(content[:]) & contentMask
	v &^= 1 << 63 // the table stores the number plus one
	old, ok, err := r.seen.get(k)
	switch {
	case err != nil:
		return err
	case !ok:
		return r.seen.put(k, v)
	case old&contentMask != v && old&flagSeveral == 0:
		return r.seen.put(k, old|flagSeveral)
	}
	return nil
}

func (r *run) firstSight(kind, id string) (sight, error) {
	k := hashOf("seen", kind, id)
	v, _, err := r.seen.get(k)
	switch {
	case err != nil:
		return 0, err
	case v&flagSeveral != 0:
		return severalVersions, nil
	case v&flagPublished != 0:
		return seenBefore, nil
	}
	return newResource, r.seen.put(k, v|flagPublished)
}

// held is the spool of resources with several versions. The records of one resource form a chain, newest place first.
type held struct {
	records spool
	last    table // type and id -> place of the last record
	count   int64
}

type heldRecord struct {
	Kind, ID, FullURL, Scope, File, Pointer string
	Line, Number                            int64
	Prev                                    uint64 // place of the record before, plus one
	Raw                                     json.RawMessage
}

func (r *run) hold(doc *document, x *found) error {
	k := hashOf(x.kind, doc.id)
	prev, ok, err := r.held.last.get(k)
	if err != nil {
		return err
	}
	if ok {
		prev++
	}
	r.held.count++
	rec, err := json.Marshal(heldRecord{
		Kind: x.kind, ID: doc.id, FullURL: x.fullURL, Scope: x.scope, File: r.file, Pointer: x.pointer, Line: x.line,
		Number: r.held.count, Prev: prev, Raw: x.raw,
	})
	if err != nil {
		return err
	}
	place, err := r.held.records.add(rec)
	if err != nil {
		return err
	}
	return r.held.last.put(k, place)
}

// publishVersions publishes what was held: resource by resource, in the order of their last appearance.
func (r *run) publishVersions() error {
	for at := int64(0); at < r.held.records.size; {
		raw, err := r.held.records.get(uint64(at))
		if err != nil {
			return err
		}
		var rec heldRecord
		if err := json.Unmarshal(raw, &rec); err != nil {
			return err
		}
		last, _, err := r.held.last.get(hashOf(rec.Kind, rec.ID))
		if err != nil {
			return err
		}
		if last == uint64(at) {
			if err := r.publishChain(last); err != nil {
				return err
			}
		}
		at += int64(len(raw)) + 4
	}
	return nil
}

// version is a held resource without its text.
type version struct {
	place   uint64
	number  int64
	updated time.Time
	id      int64 // meta.versionId, when it is a number
}

func (r *run) publishChain(last uint64) error {
	var chain []version
	for place := last + 1; place != 0; {
		_, rec, m, err := r.reopen(place - 1)
		if err != nil {
			return err
		}
		meta := m.top.get("meta")
		n, _ := strconv.ParseInt(meta.text("versionId"), 10, 64)
		chain = append(chain, version{place: place - 1, number: rec.Number, updated: meta.moment("lastUpdated").at, id: n})
		place = rec.Prev
	}
	slices.SortFunc(chain, func(a, b version) int {
		return cmp.Or(a.updated.Compare(b.updated), cmp.Compare(a.id, b.id), cmp.Compare(a.number, b.number))
	})
	type stamp struct {
		content key
		updated int64
		id      int64
	}
	done := make(map[stamp]bool)
	var before *mapping
	var beforeID key
	published := false // a draft that became an order is new, not changed
	for _, v := range chain {
		x, _, m, err := r.reopen(v.place)
		if err != nil {
			return err
		}
		content := newMapping(m.doc, x, nil, r.now).identity()
		at := stamp{content, v.updated.UnixNano(), v.id}
		if done[at] || before != nil && content == beforeID {
			r.count(x, duplicate, 0)
			continue
		}
		done[at] = true
		var events []draft
		salt := ""
		if !published {
			events = m.run()
		} else {
			events, salt = m.change(before), saltOf(beforeID, content, v)
		}
		if err := r.conclude(m, x, events, salt); err != nil {
			return err
		}
		published = published || m.err == "" && len(events) > 0
		if m.err == "" { // a broken version is no base for the next
			before, beforeID = m, content
		}
	}
	return nil
}

func saltOf(before, after key, v version) string {
	return string(before[:]) + string(after[:]) + strconv.FormatInt(v.updated.UnixNano(), 36) + "/" + strconv.FormatInt(v.id, 36)
}

// reopen reads a held resource back and sets r.file, so that problems name its own place.
func (r *run) reopen(place uint64) (*found, *heldRecord, *mapping, error) {
	raw, err := r.held.records.get(place)
	if err != nil {
		return nil, nil, nil, err
	}
	rec := new(heldRecord)
	if err := json.Unmarshal(raw, rec); err != nil {
		return nil, nil, nil, err
	}
	x := &found{raw: rec.Raw, kind: rec.Kind, fullURL: rec.FullURL, scope: rec.Scope, pointer: rec.Pointer, line: rec.Line}
	r.file = rec.File
	doc, err := r.open(x)
	if err != nil {
		return nil, nil, nil, err
	}
	return x, rec, newMapping(doc, x, &r.index, r.now), nil
}

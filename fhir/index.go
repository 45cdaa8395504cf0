package fhir

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"time"
)

// summary is what other resources need to know about a referenced one. Only these members are kept.
type summary struct {
	Kind      string    `json:"k"`
	ID        string    `json:"i"`
	Name      string    `json:"n,omitempty"` // person, organization, place, medication; text of a goal or condition
	NPI       string    `json:"npi,omitempty"`
	NCPDP     string    `json:"nc,omitempty"`
	Codings   []coding  `json:"c,omitempty"`
	Refs      []stored  `json:"r,omitempty"` // onward references: a role's practitioner, a request's medication
	Members   []stored  `json:"m,omitempty"` // of a care team
	Start     time.Time `json:"s,omitzero"`
	Priority  string    `json:"p,omitempty"`
	Updated   string    `json:"u,omitempty"` // meta.lastUpdated as UTC, to choose between two versions
	PlanID    string    `json:"pl,omitempty"`
	MemberID  string    `json:"mi,omitempty"`
	PayerName string    `json:"pn,omitempty"`
}

// stored is a reference kept in a summary.
type stored struct {
	Kind    string `json:"k,omitempty"`
	ID      string `json:"i,omitempty"`
	URL     string `json:"u,omitempty"`
	Token   string `json:"t,omitempty"`
	Display string `json:"d,omitempty"`
	Role    string `json:"r,omitempty"`
	Use     string `json:"s,omitempty"` // which member it was
	Scope   string `json:"b,omitempty"`
}

func store(r reference, use, role, scope string) stored {
	s := stored{Kind: r.kind, ID: r.id, URL: r.url, Token: r.token, Display: r.display, Use: use, Role: role}
	if r.url != "" {
		s.Scope = scope
	}
	return s
}

func (s stored) reference() reference {
	return reference{kind: s.Kind, id: s.ID, url: s.URL, token: s.Token, display: s.Display}
}

// index finds summaries by resource type and id, by identifier, and by a bundle's fullUrl. It is filled in the first
// pass and read in the second.
type index struct {
	places  table // hash of a name -> place in records
	records spool
	starts  table // patient -> first encounter, seconds since year 1 are not needed: Unix seconds, shifted to be positive
}

func (x *index) close() {
	x.places.close()
	x.records.close()
	x.starts.close()
}

func hashOf(parts ...string) key {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return key(h.Sum(nil)[:16])
}

// add keeps a summary. Of two versions of one resource the later one stays (meta.lastUpdated, then the larger text),
// so that the outcome does not depend on the order of files.
func (x *index) add(s *summary, tokens []string) error {
	rec, err := json.Marshal(s)
	if err != nil {
		return err
	}
	names := []key{hashOf("id", s.Kind, s.ID)}
	for _, t := range tokens {
		names = append(names, hashOf("token", s.Kind, t))
	}
	place, known := uint64(0), false
	for i, name := range names {
		at, ok, err := x.places.get(name)
		if err != nil {
			return err
		}
		if ok {
			old, err := x.records.get(at)
			if err != nil {
				return err
			}
			if bytes.Equal(old, rec) {
				place, known = at, true
				continue
			}
			var was summary
			if json.Unmarshal(old, &was) == nil && newer(&was, old, s, rec) {
				if i == 0 {
					return nil // an older version of this very resource
				}
				continue // another resource that carries the same identifier
			}
		}
		if !known {
			if place, err = x.records.add(rec); err != nil {
				return err
			}
			known = true
		}
		if err := x.places.put(name, place); err != nil {
			return err
		}
	}
	return nil
}

// newer says whether a is to be kept over b.
func newer(a *summary, atext []byte, b *summary, btext []byte) bool {
	if a.Updated != b.Updated {
		return a.Updated > b.Updated
	}
	return bytes.Compare(atext, btext) > 0
}

// alias notes that inside one bundle a fullUrl means a resource with another id.
func (x *index) alias(scope, fullURL, kind, id string) error {
	rec, err := json.Marshal(summary{Kind: kind, ID: id})
	if err != nil {
		return err
	}
	place, err := x.records.add(rec)
	if err != nil {
		return err
	}
	return x.places.put(hashOf("url", scope, fullURL), place)
}

func (x *index) find(name key) (*summary, error) {
	at, ok, err := x.places.get(name)
	if err != nil || !ok {
		return nil, err
	}
	rec, err := x.records.get(at)
	if err != nil {
		return nil, err
	}
	s := new(summary)
	if err := json.Unmarshal(rec, s); err != nil {
		return nil, err
	}
	return s, nil
}

// epochShift makes every year from 1 on a positive number of seconds.
const epochShift = 62135596800

// began notes an encounter of a patient; the earliest stays.
func (x *index) began(patient string, at time.Time) error {
	k, v := hashOf("start", patient), uint64(at.Unix()+epochShift)
	old, ok, err := x.starts.get(k)
	if err != nil || ok && old <= v {
		return err
	}
	return x.starts.put(k, v)
}

func (x *index) firstEncounter(patient string) (time.Time, bool, error) {
	v, ok, err := x.starts.get(hashOf("start", patient))
	if err != nil || !ok {
		return time.Time{}, false, err
	}
	return time.Unix(int64(v)-epochShift, 0).UTC(), true, nil
}

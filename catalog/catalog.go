package catalog

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
)

//go:generate go run ./gen

//go:embed all:schemas
var files embed.FS

// Entry is one version of an event type. Schema and Examples are shared by all callers and must not be changed.
type Entry struct {
	Type        string // event type, such as "medication.prescription.filled"
	Version     string // semantic version, such as "2.0.0"
	Title       string
	Description string
	Owner       string            // the service that publishes it
	DataClass   string            // "restricted" when payloads hold protected health information, else "internal"
	EntityID    string            // JSON pointer to the id that orders the events: the default partition key
	SubjectID   string            // JSON pointer to the patient it is about; empty when there is none
	Deprecated  bool              // not for new work; still accepted
	ReplacedBy  string            // the event type to use instead, when Deprecated
	Schema      json.RawMessage   // the JSON Schema, draft 2020-12
	Examples    []json.RawMessage // payloads of which every one is valid
}

var entries = sync.OnceValues(func() ([]Entry, error) { return load(files) })

// Entries returns every version of every event type of the catalog, ordered by type and then by version. It is safe for
// concurrent use; the slice is the caller's own.
func Entries() []Entry {
	all, err := entries()
	if err != nil {
		return nil // cannot happen in a build that passed its tests: the files are part of it
	}
	return slices.Clone(all)
}

// Lookup returns the entry of an event type at a version, or at its highest version when version is empty. It is safe
// for concurrent use.
func Lookup(eventType, version string) (Entry, bool) {
	all, _ := entries()
	i, found := slices.BinarySearchFunc(all, eventType, func(e Entry, t string) int { return strings.Compare(e.Type, t) })
	if !found {
		return Entry{}, false
	}
	var last Entry
	for ; i < len(all) && all[i].Type == eventType; i++ {
		last = all[i]
		if last.Version == version {
			return last, true
		}
	}
	if version != "" {
		return Entry{}, false
	}
	return last, true
}

// load reads schemas/TYPE/VERSION.json.
func load(fsys fs.FS) ([]Entry, error) {
	names, err := fs.Glob(fsys, "schemas/*/*.json")
	if err != nil {
		return nil, err
	}
	all := make([]Entry, 0, len(names))
	for _, name := range names {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		e, err := parse(name, data)
		if err != nil {
			return nil, err
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b Entry) int {
		if c := strings.Compare(a.Type, b.Type); c != 0 {
			return c
		}
		av, _ := parseVersion(a.Version)
		bv, _ := parseVersion(b.Version)
		return slices.Compare(av[:], bv[:])
	})
	return all, nil
}

func parse(name string, data []byte) (Entry, error) {
	var doc struct {
		Title       string            `json:"title"`
		Description string            `json:"description"`
		Owner       string            `json:"x-owner"`
		DataClass   string            `json:"x-data-class"`
		EntityID    string            `json:"x-entity-id"`
		SubjectID   string            `json:"x-subject-id"`
		Deprecated  bool              `json:"deprecated"`
		ReplacedBy  string            `json:"x-replaced-by"`
		Examples    []json.RawMessage `json:"examples"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return Entry{}, fmt.Errorf("catalog: %s: %w", name, err)
	}
	version := strings.TrimSuffix(path.Base(name), ".json")
	if _, ok := parseVersion(version); !ok {
		return Entry{}, fmt.Errorf("catalog: %s: the file's name is no version; name it MAJOR.MINOR.PATCH.json", name)
	}
	return Entry{
		Type: path.Base(path.Dir(name)), Version: version,
		Title: doc.Title, Description: doc.Description, Owner: doc.Owner, DataClass: doc.DataClass,
		EntityID: doc.EntityID, SubjectID: doc.SubjectID, Deprecated: doc.Deprecated, ReplacedBy: doc.ReplacedBy,
		Schema: bytes.TrimSpace(data), Examples: doc.Examples,
	}, nil
}

func parseVersion(v string) (parts [3]int, ok bool) {
	fields := strings.Split(v, ".")
	if len(fields) != 3 {
		return parts, false
	}
	for i, f := range fields {
		n, err := strconv.Atoi(f)
		if err != nil || n < 0 || strconv.Itoa(n) != f {
			return parts, false
		}
		parts[i] = n
	}
	return parts, true
}

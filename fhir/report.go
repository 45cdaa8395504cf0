package fhir

import (
	"fmt"
	"maps"
	"strings"
)

// Report is the account of an import. Every resource found in the input has exactly one outcome:
//
//	Resources = Mapped + Duplicates + Skipped + Errors
//
// for each entry of ByType and for their sum, which is Total. A resource that the input holds but that cannot be read
// (a broken line, an entry that is no object) counts as a resource of type "(unreadable)"; one without a resourceType,
// or an entry without a resource, as "(none)". Bundles and Parameters are containers and count in Bundles only.
type Report struct {
	Files    int64 // opened and read, in whole or up to an error
	Ignored  int64 // in directories: neither .json, .ndjson nor .jsonl, packed or not
	Bytes    int64 // read from the files, as they lie on disk
	Bundles  int64 // containers opened, nested ones included
	Surveyed int64 // resources seen by the first pass, which publishes nothing

	Total     Counts
	ByType    map[string]Counts
	Events    map[string]int64 // handed to emit, by event type
	Skips     map[string]int64 // resources, by reason
	Undated   int64            // resources whose events had no usable date: they carry the start of 1970
	FileFails int64            // files not read, or not to their end; each is a Problem

	// Problems lists the first Options.MaxProblems errors and warnings; ErrorCount and Warnings are exact.
	Problems   []Problem
	ErrorCount int64 // = Total.Errors + FileFails
	Warnings   int64 // members of a wrong type, which read as absent
}

// Counts are the outcomes of the resources of one type.
type Counts struct {
	Resources  int64 // found
	Mapped     int64 // became one event or more
	Events     int64 // events made of them; may be more than Mapped
	Duplicates int64 // the same content of the same resource was seen before in this import
	Skipped    int64 // by a rule; Report.Skips has the reasons
	Errors     int64 // each is a Problem
}

func (c *Counts) add(o outcome, events int64) {
	c.Resources++
	c.Events += events
	switch o {
	case mapped:
		c.Mapped++
	case duplicate:
		c.Duplicates++
	case skipped:
		c.Skipped++
	case failed:
		c.Errors++
	}
}

type outcome int

const (
	mapped outcome = iota
	duplicate
	skipped
	failed
)

// Problem is one thing that could not be imported, with its place. It quotes no value of the resource but its id.
type Problem struct {
	File    string `json:"file"`
	Line    int64  `json:"line,omitempty"`     // 1-based, for one resource per line
	Pointer string `json:"pointer,omitempty"`  // JSON pointer into the file or line
	Type    string `json:"resource,omitempty"` // resource type
	ID      string `json:"id,omitempty"`       // resource id
	Message string `json:"message"`            // what is wrong and what to do
	Warning bool   `json:"warning,omitempty"`  // the resource was imported all the same
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	if p.Pointer != "" {
		b.WriteString("#" + p.Pointer)
	}
	b.WriteString(": ")
	if p.Type != "" {
		b.WriteString(p.Type)
		if p.ID != "" {
			b.WriteString("/" + p.ID)
		}
		b.WriteString(": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

func (r *Report) clone() Report {
	c := *r
	c.ByType = maps.Clone(r.ByType)
	c.Events = maps.Clone(r.Events)
	c.Skips = maps.Clone(r.Skips)
	c.Problems = append([]Problem(nil), r.Problems...)
	return c
}

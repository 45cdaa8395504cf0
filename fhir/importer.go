package fhir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/carebus/carebus/event"
)

// Options configure an Importer. The zero value of each field is its default.
type Options struct {
	Source      string           // eventSource of every event; default "fhir-import"
	Now         func() time.Time // clock, to refuse facts of the future; default time.Now
	Stdin       io.Reader        // what "-" reads; default os.Stdin
	TempDir     string           // for what does not fit in MemoryLimit, and for standard input; default os.TempDir()
	MemoryLimit int64            // bytes that the index and the record of what was seen may take before they move to disk; default 64 MiB
	MaxResource int64            // bytes of one resource; larger ones are errors; default 64 MiB
	BatchSize   int              // items per call of emit; default 200
	MaxProblems int              // problems kept in the report; default 1000

	// Progress is called from Run's goroutine after each file and every few thousand resources, in both passes.
	Progress func(Report)
}

// Item is one event and the place it came from.
type Item struct {
	Event   event.Event
	File    string
	Line    int64  // 1-based, for one resource per line
	Pointer string // JSON pointer of the resource in the file or line
	Type    string // resource type
	ID      string // resource id
}

// Importer turns FHIR R4 files into catalog events. It keeps nothing between runs and may be used by several
// goroutines at once, as long as Options.Stdin and Progress may.
type Importer struct{ o Options }

// New returns an importer. nil options mean the defaults.
func New(o *Options) *Importer {
	im := &Importer{}
	if o != nil {
		im.o = *o
	}
	d := &im.o
	if d.Source == "" {
		d.Source = "fhir-import"
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Stdin == nil {
		d.Stdin = os.Stdin
	}
	if d.MemoryLimit <= 0 {
		d.MemoryLimit = 64 << 20
	}
	if d.MaxResource <= 0 {
		d.MaxResource = 64 << 20
	}
	if d.BatchSize <= 0 {
		d.BatchSize = 200
	}
	if d.MaxProblems <= 0 {
		d.MaxProblems = 1000
	}
	return im
}

// Run reads the files and directories ("-" is standard input) and hands the events to emit, batch by batch, in
// Run's goroutine; emit owns the slice. Bad input never ends the run: it is in the report. Run ends early, with what
// was done so far in the report, when the context ends, when emit fails (its error is returned, wrapped), or when the
// temporary directory cannot be used.
func (im *Importer) Run(ctx context.Context, paths []string, emit func(context.Context, []Item) error) (Report, error) {
	r := newRun(im.o, ctx, emit)
	defer r.close()
	err := r.all(paths)
	return r.report.clone(), err
}

// run is the state of one import.
type run struct {
	o      Options
	ctx    context.Context
	emit   func(context.Context, []Item) error
	report Report
	index  index
	seen   table // type and id -> content, see seenValue
	held   held
	batch  []Item
	now    time.Time
	file   string
}

func newRun(o Options, ctx context.Context, emit func(context.Context, []Item) error) *run {
	part := o.MemoryLimit / 4
	entries := int(part / 64) // about what a map entry of a key and a number costs
	r := &run{o: o, ctx: ctx, emit: emit, now: o.Now()}
	r.report.ByType = make(map[string]Counts)
	r.report.Events = make(map[string]int64)
	r.report.Skips = make(map[string]int64)
	r.seen = table{dir: o.TempDir, limit: entries}
	r.index.places = table{dir: o.TempDir, limit: entries / 2}
	r.index.starts = table{dir: o.TempDir, limit: entries / 2}
	r.index.records = spool{dir: o.TempDir, limit: part}
	r.held.last = table{dir: o.TempDir, limit: entries / 4}
	r.held.records = spool{dir: o.TempDir, limit: part / 2}
	return r
}

func (r *run) close() {
	r.index.close()
	r.seen.close()
	r.held.last.close()
	r.held.records.close()
}

// all is the import: survey everything, then publish file by file, then what exists in several versions.
func (r *run) all(paths []string) error {
	files, release, err := r.sources(paths)
	if err != nil {
		return err
	}
	defer release()
	for _, f := range files {
		f.rank = lastRank
		if err := r.walk(f, false, func(x *found) error { return r.survey(f, x) }); err != nil {
			return err
		}
	}
	// Prescriptions before their fills, claims before their answers, also when each type has a file of its own.
	slices.SortStableFunc(files, func(a, b *source) int { return a.rank - b.rank })
	for _, f := range files {
		if err := r.walk(f, true, func(x *found) error { return r.publish(f, x) }); err != nil {
			return err
		}
	}
	if err := r.publishVersions(); err != nil {
		return err
	}
	return r.flush()
}

// walk reads one file. Only the second pass reports.
func (r *run) walk(f *source, report bool, visit func(*found) error) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	in, err := f.read(r.ctx)
	if err != nil {
		if ctxErr := r.ctx.Err(); ctxErr != nil {
			return ctxErr
		}
		if report {
			if errors.Is(err, errEmpty) {
				r.report.Files++
			}
			r.fileProblem(f.name, "", 0, readable(err))
		}
		return nil
	}
	defer in.Close()
	w := &walker{file: f.name, limit: r.o.MaxResource, visit: visit}
	err = w.run(in.Reader)
	if report {
		r.report.Files++
		r.report.Bytes += in.raw.n
		r.report.Bundles += w.bundles
	}
	var stop *stopError
	if errors.As(err, &stop) {
		return stop.err
	}
	if ctxErr := r.ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	if err != nil && report {
		var place *placeError
		if !errors.As(err, &place) {
			place = &placeError{err: err}
		}
		r.fileProblem(f.name, place.pointer, place.line, "not read to the end: "+readable(place.err))
	}
	r.progress()
	return nil
}

// survey is the first pass: it fills the index and learns which resources come in more than one version.
func (r *run) survey(f *source, x *found) error {
	r.report.Surveyed++
	if r.report.Surveyed%progressEvery == 0 {
		r.progress()
	}
	if x.err != nil || !indexed(x.kind) && mappers[x.kind].events == nil {
		return nil
	}
	if k := mappers[x.kind]; k.events != nil {
		f.rank = min(f.rank, k.rank)
	}
	doc, err := r.open(x)
	if err != nil {
		return nil // the second pass reports it
	}
	if err := r.remember(doc, x); err != nil {
		return err
	}
	if mappers[x.kind].events == nil {
		return nil
	}
	id := newMapping(doc, x, nil, r.now).identity()
	return r.sawContent(x.kind, doc.id, id)
}

// publish is the second pass.
func (r *run) publish(f *source, x *found) error {
	r.file = f.name
	if r.report.Total.Resources%progressEvery == progressEvery-1 {
		r.progress()
	}
	switch {
	case x.bare:
		return r.skip(x, "bundle entry without a resource")
	case x.err != nil:
		return r.fail(x, "", "(unreadable)", readable(x.err))
	case x.kind == "":
		return r.fail(x, "", "(none)", "no resourceType: not a FHIR resource")
	case !resourceName.MatchString(x.kind):
		return r.fail(x, "", "(none)", "resourceType is not the name of a resource type")
	case mappers[x.kind].events == nil && !known(x.kind):
		return r.skip(x, "unknown resource type "+x.kind)
	case mappers[x.kind].events == nil:
		return r.skip(x, "no mapping for "+x.kind)
	}
	doc, err := r.open(x)
	if err != nil {
		return r.fail(x, "", x.kind, err.Error())
	}
	state, err := r.firstSight(x.kind, doc.id)
	if err != nil {
		return err
	}
	switch state {
	case seenBefore:
		r.count(x, duplicate, 0)
		return nil
	case severalVersions:
		return r.hold(doc, x)
	}
	m := newMapping(doc, x, &r.index, r.now)
	return r.conclude(m, x, m.run(), "")
}

// conclude gives the outcome of one mapped resource and queues its events. salt sets the ids of a later version apart.
func (r *run) conclude(m *mapping, x *found, events []draft, salt string) error {
	if m.fault != nil {
		return m.fault
	}
	for _, at := range m.doc.wrong {
		r.warn(x, m.doc.id, at+": a type that FHIR does not allow there; read as absent")
	}
	if m.err != "" {
		return r.fail(x, m.doc.id, x.kind, m.err)
	}
	if len(events) == 0 {
		reason := m.skip
		if reason == "" {
			reason = "no event for this " + x.kind
		}
		return r.skip(x, reason)
	}
	items, err := r.items(m, x, events, salt)
	if err != nil {
		return r.fail(x, m.doc.id, x.kind, err.Error())
	}
	if m.undated {
		r.report.Undated++
	}
	r.count(x, mapped, int64(len(items)))
	for _, it := range items {
		r.report.Events[it.Event.Type]++
		r.batch = append(r.batch, it)
		if len(r.batch) >= r.o.BatchSize {
			if err := r.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *run) flush() error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	if len(r.batch) == 0 {
		return nil
	}
	batch := r.batch
	r.batch = nil
	if err := r.emit(r.ctx, batch); err != nil {
		return fmt.Errorf("fhir: emit %d events: %w", len(batch), err)
	}
	return nil
}

const progressEvery = 5000

func (r *run) progress() {
	if r.o.Progress != nil {
		r.o.Progress(r.report.clone())
	}
}

func (r *run) count(x *found, o outcome, events int64) { r.countAs(x.kind, o, events) }

// maxKinds bounds the report: a broken input may name a new resource type in every line.
const maxKinds = 500

func (r *run) countAs(kind string, o outcome, events int64) {
	if kind == "" {
		kind = "(none)"
	}
	c, ok := r.report.ByType[kind]
	if !ok && len(r.report.ByType) >= maxKinds {
		kind = "(other)"
		c = r.report.ByType[kind]
	}
	c.add(o, events)
	r.report.ByType[kind] = c
	r.report.Total.add(o, events)
}

func (r *run) skip(x *found, reason string) error {
	r.count(x, skipped, 0)
	if _, ok := r.report.Skips[reason]; !ok && len(r.report.Skips) >= maxKinds {
		reason = "other reasons"
	}
	r.report.Skips[reason]++
	return nil
}

func (r *run) fail(x *found, id, kind, message string) error {
	r.countAs(kind, failed, 0)
	r.report.ErrorCount++
	p := Problem{File: r.file, Line: x.line, Pointer: x.pointer, Type: x.kind, ID: id, Message: message}
	if !resourceName.MatchString(p.Type) {
		p.Type = ""
	}
	r.problem(p)
	return nil
}

func (r *run) warn(x *found, id, message string) {
	r.report.Warnings++
	r.problem(Problem{File: r.file, Line: x.line, Pointer: x.pointer, Type: x.kind, ID: id, Message: message, Warning: true})
}

func (r *run) fileProblem(file, pointer string, line int64, message string) {
	r.report.FileFails++
	r.report.ErrorCount++
	r.problem(Problem{File: file, Pointer: pointer, Line: line, Message: message})
}

func (r *run) problem(p Problem) {
	if len(r.report.Problems) < r.o.MaxProblems {
		r.report.Problems = append(r.report.Problems, p)
	}
}

// readable names a reading error without the text that caused it, which may be protected.
func readable(err error) string {
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends in the middle"
	case errors.As(err, &syntax):
		return fmt.Sprintf("invalid JSON at byte %d", syntax.ByteOffset)
	}
	return err.Error()
}

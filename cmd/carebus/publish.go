package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/schema"
)

// publishFlags of the command line.
type publishFlags struct {
	eventType, source, version, key string
	stream                          string
	expect                          int64
	expects                         bool
	dryRun, atomic, receipts        bool
}

// publishReport is what `carebus publish -o json` prints.
type publishReport struct {
	Published  int64          `json:"published"`
	Duplicates int64          `json:"duplicates"`
	Refused    int64          `json:"refused"`
	Checked    int64          `json:"checked,omitempty"` // with --dry-run: events that would be accepted
	Refusals   []refusal      `json:"refusals"`          // the first 1000
	Receipts   []receiptEntry `json:"receipts,omitempty"`
}

// refusal is an event of the input that was not accepted, and why.
type refusal struct {
	File     string          `json:"file"`
	Line     int             `json:"line"`
	Index    int             `json:"index"` // of the event in the file, from 1
	EventID  string          `json:"eventId,omitempty"`
	Type     string          `json:"eventType,omitempty"`
	Findings []event.Finding `json:"findings"`

	order int // among all events of the command
}

type receiptEntry struct {
	EventID       string `json:"eventId"`
	Partition     int    `json:"partition"`
	Offset        int64  `json:"offset"`
	Stream        string `json:"stream,omitempty"`
	StreamVersion int64  `json:"streamVersion,omitempty"`
	RecordedAt    string `json:"recordedAt"`
	Duplicate     bool   `json:"duplicate,omitempty"`
}

func newPublishCommand(a *app) *cobra.Command {
	var f publishFlags
	cmd := &cobra.Command{
		Use:   "publish [FILE|-...]",
		Short: "Publish events from files or standard input",
		Long: `Publishes events in carebus's own JSON form or as CloudEvents: one object, an array, one object per line, or one after
the other, from files or standard input. Every event is checked; one that is refused is reported with its place, rule
and remedy, and the others go on. Publishing the same events again stores nothing twice.

With --type the input is payloads. The envelope is made from the flags, and every payload is a new event with its own id.`,
		Example: `carebus publish events.ndjson
  echo '{"patientId":"P1"}' | carebus publish --type patient.enrolled --source patient-service
  carebus publish --dry-run -o json events.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.expects = cmd.Flags().Changed("expect")
			return a.publish(cmd, f, args)
		},
	}
	cmd.Flags().StringVar(&f.eventType, "type", "", "the input is payloads of this event type")
	cmd.Flags().StringVar(&f.source, "source", "carebus-cli", "with --type: the service that states the fact")
	cmd.Flags().StringVar(&f.version, "version", "", "with --type: version of the schema (default: the newest)")
	cmd.Flags().StringVar(&f.key, "key", "", "with --type: partition key (default: the entity's id in the payload)")
	cmd.Flags().StringVar(&f.stream, "stream", "", "append to this stream, such as patient.record/P1")
	cmd.Flags().Int64Var(&f.expect, "expect", 0, "with --stream: the version it must be at, 0 for a new stream; implies --atomic")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only check")
	cmd.Flags().BoolVar(&f.atomic, "atomic", false, "all or none; holds all events in memory")
	cmd.Flags().BoolVar(&f.receipts, "receipts", false, "list where each event was stored")
	_ = cmd.RegisterFlagCompletionFunc("type", completeTypes)
	return cmd
}

func (f *publishFlags) check(cmd *cobra.Command) error {
	for _, name := range []string{"source", "version", "key"} {
		if f.eventType == "" && cmd.Flags().Changed(name) {
			return usagef("--%s goes with --type; events in full bring their own", name)
		}
	}
	if f.expects && f.stream == "" {
		return usagef("--expect goes with --stream")
	}
	if f.expects && f.expect < 0 {
		return usagef("--expect %d: give the number of events in the stream, 0 for a new one", f.expect)
	}
	if !f.expects {
		f.expect = eventstore.AnyVersion
	}
	f.atomic = f.atomic || f.expects
	return nil
}

func (a *app) publish(cmd *cobra.Command, f publishFlags, files []string) (err error) {
	if err := f.check(cmd); err != nil {
		return err
	}
	if len(files) == 0 {
		files = []string{"-"}
	}
	for _, name := range files { // before anything is stored
		if info, err := os.Stat(name); name != "-" && err != nil {
			return notFoundf("%s: no such file", name)
		} else if name != "-" && info.IsDir() {
			return usagef("%s is a folder; name files", name)
		}
	}
	if f.dryRun {
		return a.withRegistry(cmd, func(ctx context.Context, p *carebus.Platform) error { return a.publishTo(ctx, cmd, p, f, files) })
	}
	p, err := a.open(cmd.Context(), cmd, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	return a.publishTo(cmd.Context(), cmd, p, f, files)
}

func (a *app) publishTo(ctx context.Context, cmd *cobra.Command, p *carebus.Platform, f publishFlags, files []string) (err error) {
	if f.eventType != "" {
		find := p.Registry().Latest
		if f.version != "" {
			find = func(t string) (schema.Document, error) { return p.Registry().Get(t, f.version) }
		}
		doc, err := find(f.eventType)
		if err != nil {
			return err
		}
		f.version = doc.Version
	}
	u := &publisher{a: a, p: p, f: f, report: publishReport{Refusals: []refusal{}}, errw: cmd.ErrOrStderr(), bar: newProgress(cmd.ErrOrStderr(), "publishing")}
	for _, name := range files {
		if err = u.file(ctx, name); err != nil {
			break
		}
	}
	if err == nil {
		err = u.finish(ctx)
	}
	u.bar.end()
	if perr := u.print(cmd.OutOrStdout()); err == nil {
		err = perr
	}
	if err == nil && u.report.Refused > 0 {
		err = fmt.Errorf("%s refused", plural(u.report.Refused, "event"))
		if u.f.atomic && !u.f.dryRun {
			err = fmt.Errorf("%w; nothing was published", err)
		}
	}
	return err
}

const (
	publishBatch      = 256
	publishBatchBytes = 4 << 20
	maxRefusals       = 1000
)

// pending is an event read and not yet published, with its place in the input.
type pending struct {
	event       event.Event
	file        string
	line, index int
	order       int // among all events of the command
}

// publisher carries out one publish command.
type publisher struct {
	a      *app
	p      *carebus.Platform
	f      publishFlags
	report publishReport
	errw   io.Writer
	bar    *progress
	batch  []pending
	bytes  int
	read   int // events so far
}

func (u *publisher) file(ctx context.Context, name string) error {
	r := u.a.stdin
	shown := "stdin"
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		r, shown = file, name
	} else if isTerminal(r) {
		fmt.Fprintln(u.errw, "reading from the terminal; end with Ctrl-D")
	}
	split := newSplitter(r)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		t, err := split.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", shown, errors.Join(err, u.flush(ctx)))
		}
		u.read++
		at := pending{file: shown, line: t.line, index: t.index, order: u.read}
		var warnings []event.Finding
		if at.event, warnings, err = u.parse(t.data); err != nil {
			if err := u.refuse(at, err); err != nil {
				return err
			}
			continue
		}
		u.warn(at, warnings)
		u.batch, u.bytes = append(u.batch, at), u.bytes+len(at.event.Payload)
		if !u.f.atomic && (len(u.batch) >= publishBatch || u.bytes >= publishBatchBytes) {
			if err := u.flush(ctx); err != nil {
				return err
			}
		}
	}
}

// parse makes an event of one JSON value.
func (u *publisher) parse(data []byte) (event.Event, []event.Finding, error) {
	if u.f.eventType != "" {
		return event.Event{
			Metadata: event.Metadata{Type: u.f.eventType, Version: u.f.version, Source: u.f.source, PartitionKey: u.f.key},
			Payload:  bytes.Clone(data),
		}, nil, nil
	}
	if isCloudEvent(data) {
		return event.ParseCloudEvent(data, nil)
	}
	return event.Parse(data, nil)
}

func isCloudEvent(data []byte) bool {
	if !bytes.Contains(data, []byte(`"specversion"`)) {
		return false
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil {
		return false
	}
	_, is := members["specversion"]
	_, native := members["metadata"]
	return is && !native
}

// finish publishes what is left.
func (u *publisher) finish(ctx context.Context) error {
	if u.f.atomic && !u.f.dryRun {
		return u.all(ctx)
	}
	return u.flush(ctx)
}

// all publishes everything in one append, unless something was refused.
func (u *publisher) all(ctx context.Context) error {
	if err := u.sift(ctx); err != nil || u.report.Refused > 0 {
		return err
	}
	return u.publishBatch(ctx)
}

// flush publishes the batch: at once, or when something in it is refused, without that.
func (u *publisher) flush(ctx context.Context) error {
	defer func() { u.batch, u.bytes = u.batch[:0], 0 }()
	if u.f.dryRun {
		if err := u.sift(ctx); err != nil {
			return err
		}
		u.report.Checked += int64(len(u.batch))
		return nil
	}
	if u.f.atomic {
		return nil // an array that ended too early; nothing is published
	}
	err := u.publishBatch(ctx)
	if err == nil || !refused(err) {
		return err
	}
	if err := u.sift(ctx); err != nil {
		return err
	}
	if err = u.publishBatch(ctx); err == nil || !refused(err) {
		return err
	}
	// Only the store can have refused now (an id that was used for another content), and it does not say which event.
	for _, one := range u.batch {
		rs, err := u.append(ctx, []pending{one})
		if err == nil {
			u.count(rs)
		} else if err := u.refuse(one, err); err != nil {
			return err
		}
	}
	return nil
}

// publishBatch publishes the batch in one append.
func (u *publisher) publishBatch(ctx context.Context) error {
	if len(u.batch) == 0 {
		return nil
	}
	rs, err := u.append(ctx, u.batch)
	if err == nil {
		u.count(rs)
	}
	return err
}

func (u *publisher) append(ctx context.Context, batch []pending) ([]carebus.Receipt, error) {
	events := make([]event.Event, len(batch))
	for i := range batch {
		events[i] = batch[i].event
	}
	return u.p.Append(ctx, u.f.stream, u.f.expect, events...)
}

// sift takes out of the batch what would be refused, and reports it.
func (u *publisher) sift(ctx context.Context) error {
	good := u.batch[:0]
	for _, one := range u.batch {
		_, warnings, err := u.p.Check(ctx, one.event)
		if err == nil && strings.HasPrefix(one.event.Type, "platform.") {
			err = carebus.ErrReserved
		}
		if err == nil {
			if u.f.eventType != "" {
				u.warn(one, warnings) // those of events in full were shown when they were read
			}
			good = append(good, one)
		} else if err := u.refuse(one, err); err != nil {
			return err
		}
	}
	u.batch = good
	return nil
}

// refused says whether an error is about the event itself; others end the work.
func refused(err error) bool {
	var invalid *event.InvalidError
	return errors.As(err, &invalid) || errors.Is(err, carebus.ErrReserved) || errors.Is(err, eventstore.ErrDifferentContent)
}

// refuse reports an event that is not accepted. An error that is not about the event comes back.
func (u *publisher) refuse(at pending, err error) error {
	r := refusal{File: at.file, Line: at.line, Index: at.index, EventID: at.event.ID, Type: at.event.Type, order: at.order}
	var invalid *event.InvalidError
	switch {
	case errors.As(err, &invalid):
		r.Findings = invalid.Findings
		if r.EventID == "" {
			r.EventID = invalid.EventID
		}
		if r.Type == "" {
			r.Type = invalid.Type
		}
	case errors.Is(err, carebus.ErrReserved):
		r.Findings = []event.Finding{{Pointer: "/metadata/eventType", Rule: "event.reserved", Message: carebus.ErrReserved.Error(), Remedy: "choose another domain"}}
	case errors.Is(err, eventstore.ErrDifferentContent):
		r.Findings = []event.Finding{{Pointer: "/metadata/eventId", Rule: "event.different-content", Message: "this id is stored already, with another content",
			Remedy: "state a new fact under a new id; see carebus event get " + r.EventID}}
	default:
		return err
	}
	u.report.Refused++
	if len(u.report.Refusals) < maxRefusals {
		u.report.Refusals = append(u.report.Refusals, r)
	}
	for _, f := range r.Findings {
		u.say(at, f)
	}
	return nil
}

func (u *publisher) warn(at pending, findings []event.Finding) {
	for _, f := range findings {
		u.say(at, f)
	}
}

func (u *publisher) say(at pending, f event.Finding) {
	kind := ""
	if f.Warning {
		kind = "warning: "
	}
	fmt.Fprintf(u.errw, "%s:%d: event %d: %s%s\n", at.file, at.line, at.index, kind, f)
}

func (u *publisher) count(rs []carebus.Receipt) {
	for _, r := range rs {
		if r.Duplicate {
			u.report.Duplicates++
		} else {
			u.report.Published++
		}
		if u.f.receipts {
			u.report.Receipts = append(u.report.Receipts, receiptEntry{r.EventID, r.Partition, r.Offset, r.Stream, r.StreamVersion, micros6(r.RecordedAt), r.Duplicate})
		}
	}
	u.bar.set(u.report.Published+u.report.Duplicates, -1)
}

func (u *publisher) print(w io.Writer) error {
	r := u.report
	slices.SortFunc(r.Refusals, func(a, b refusal) int { return a.order - b.order })
	if u.a.json() {
		return printJSON(w, r)
	}
	if len(r.Receipts) > 0 {
		rows := [][]string{}
		for _, e := range r.Receipts {
			version, duplicate := "", ""
			if e.Stream != "" {
				version = fmt.Sprint(e.StreamVersion)
			}
			if e.Duplicate {
				duplicate = "duplicate"
			}
			rows = append(rows, []string{e.EventID, fmt.Sprintf("%d:%d", e.Partition, e.Offset), e.Stream, version, e.RecordedAt, duplicate})
		}
		if err := u.a.table(w, []string{"event", "place", "stream", "version", "recorded", ""}, rows); err != nil {
			return err
		}
	}
	if u.f.dryRun {
		_, err := fmt.Fprintf(w, "checked: %d would be accepted, %d refused\n", r.Checked, r.Refused)
		return err
	}
	_, err := fmt.Fprintf(w, "published %d, duplicates %d, refused %d\n", r.Published, r.Duplicates, r.Refused)
	return err
}

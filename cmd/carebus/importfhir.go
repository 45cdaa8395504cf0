package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/fhir"
	"github.com/carebus/carebus/services/audit"
	"github.com/carebus/carebus/services/simulation"
)

func newImportCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Bring records of other systems in as events",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newImportFHIRCommand(a))
	return cmd
}

// importReport is what `carebus import fhir -o json` prints. Resources are counted by what became of them:
//
//	resources = mapped + repeated + skipped + those of byType's errors
//
// and events by what the store said of them: published + known + refused.
type importReport struct {
	Complete   bool                      `json:"complete"` // false: the import was broken off
	Files      int64                     `json:"files"`
	Bytes      int64                     `json:"bytes"`
	Resources  int64                     `json:"resources"`
	Mapped     int64                     `json:"mapped"`     // resources that became events
	Published  int64                     `json:"published"`  // events that are new in the store
	Duplicates int64                     `json:"duplicates"` // known + repeated
	Known      int64                     `json:"known"`      // events that the store had already
	Repeated   int64                     `json:"repeated"`   // resources that the input holds more than once
	Skipped    int64                     `json:"skipped"`    // resources; skips has the reasons
	Errors     int64                     `json:"errors"`     // resources and files that could not be imported; problems has them
	Warnings   int64                     `json:"warnings"`   // members of a wrong type, read as absent
	Undated    int64                     `json:"undated"`    // resources without any date: their events carry the start of 1970
	ByType     map[string]resourceCounts `json:"byType"`     // by FHIR resource type
	Events     map[string]eventCounts    `json:"events"`     // by event type
	Skips      map[string]int64          `json:"skips"`      // resources by reason
	Problems   []fhir.Problem            `json:"problems"`   // the first 1000
}

type resourceCounts struct {
	Resources int64 `json:"resources"`
	Mapped    int64 `json:"mapped"`
	Events    int64 `json:"events"`
	Repeated  int64 `json:"repeated"`
	Skipped   int64 `json:"skipped"`
	Errors    int64 `json:"errors"`
}

type eventCounts struct {
	Published int64 `json:"published"`
	Known     int64 `json:"known"`
	Refused   int64 `json:"refused"`
}

const maxImportProblems = 1000

func newImportFHIRCommand(a *app) *cobra.Command {
	var dryRun, react bool
	var pickup time.Duration
	cmd := &cobra.Command{
		Use:   "fhir PATH|-...",
		Short: "Import FHIR R4 resources",
		Long: `Reads FHIR R4 resources and publishes what they say as events of the catalog. PATH is a file or a folder with bundles,
single resources or one resource per line, packed with gzip or not. Importing the same again adds nothing.

Every resource is accounted for: it became events, or was held twice, or was skipped by a rule, or is an error that is
reported with its file and place while the others go on. What is skipped is not an error. The exit code is 1 when there
were errors, and when the import was broken off; what was published until then stays, and the next run goes on.

With --react the reference services handle what was imported: prescriptions go through prior authorization and fulfilment,
a simulated supplier delivers what they need, and simulated prescribers and patients answer and come. When everything is
done, the rules of carebus audit are checked.`,
		Example: `carebus import fhir export/
  carebus import fhir --react export/
  carebus import fhir -o json Patient.ndjson.gz Claim.ndjson.gz
  curl -s https://fhir.example.org/Patient | carebus import fhir -`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			for _, path := range args { // before anything is stored
				if _, err := os.Stat(path); path != "-" && err != nil {
					return notFoundf("%s: no such file or folder", path)
				}
			}
			if dryRun && react {
				return usagef("--dry-run stores nothing that services could react to; leave one of them out")
			}
			if dryRun {
				return a.withRegistry(cmd, func(ctx context.Context, p *carebus.Platform) error {
					return a.importFHIR(ctx, cmd, p, args, true)
				})
			}
			p, err := a.open(cmd.Context(), cmd, nil)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, p.Close()) }()
			if err := a.importFHIR(cmd.Context(), cmd, p, args, false); err != nil || !react {
				return err
			}
			return a.react(cmd, p, pickup)
		},
	}
	cmd.Flags().BoolVar(&react, "react", false, "run the reference services on what was imported, until all is done, and audit them")
	cmd.Flags().DurationVar(&pickup, "pickup", 5*time.Second, "with --react: how long the pharmacy keeps what nobody comes for")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "read and check everything, store nothing")
	return cmd
}

// react runs the reference services until everything that was imported is handled, and audits what they did.
func (a *app) react(cmd *cobra.Command, p *carebus.Platform, pickup time.Duration) (err error) {
	ctx, errw := cmd.Context(), cmd.ErrOrStderr()
	if err := simulation.Supply(ctx, p); err != nil {
		return err
	}
	if err := (&demoWorld{pickup: pickup, mended: true}).join(ctx, p, demoNames()...); err != nil {
		return err
	}
	watch, err := newDemoWatch(ctx, p, errw, "")
	if err != nil {
		return err
	}
	drained := false
	err = whileRunning(ctx, p, watch, true, func(func()) (err error) {
		drained, err = drain(ctx, p, p.Bus().Joined())
		return stopped(ctx, err)
	})
	switch {
	case err != nil:
		return err
	case !drained:
		return errors.New("broken off, or a group is paused or stopped; what was done stays, and the same command goes on where this one ended")
	}
	report, err := audit.Run(ctx, p, projections()...)
	if err != nil {
		return err
	}
	if a.json() {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		fmt.Fprintln(cmd.OutOrStdout())
		err = a.printAudit(cmd.OutOrStdout(), report)
	}
	if n := report.Violations(); err == nil && n > 0 {
		err = fmt.Errorf("%s of the rules; see carebus audit", plural(n, "violation"))
	}
	return err
}

// importer publishes the events of one import and keeps the account of them.
type importer struct {
	p       *carebus.Platform
	dryRun  bool
	events  map[string]eventCounts
	moved   map[string]int64 // resources of a type that the importer mapped and the store refused
	refused []fhir.Problem
	errors  int64
	last    fhir.Item // of the last refusal: a resource may lose several events, and is one error
}

func (a *app) importFHIR(ctx context.Context, cmd *cobra.Command, p *carebus.Platform, paths []string, dryRun bool) error {
	reading, storing := newProgress(cmd.ErrOrStderr(), "reading"), newProgress(cmd.ErrOrStderr(), "importing")
	reading.unit, storing.unit = "resources", "resources"
	im := &importer{p: p, dryRun: dryRun, events: map[string]eventCounts{}, moved: map[string]int64{}}
	account, err := fhir.New(&fhir.Options{
		Stdin: a.stdin, MaxProblems: maxImportProblems,
		Progress: func(r fhir.Report) {
			if r.Total.Resources == 0 {
				reading.set(r.Surveyed, -1)
				return
			}
			reading.end()
			storing.set(r.Total.Resources, max(r.Surveyed, 1))
		},
	}).Run(ctx, paths, im.publish)
	reading.end()
	storing.end()
	report := im.report(account, err == nil)
	if perr := a.printImport(cmd, report, dryRun); perr != nil {
		return errors.Join(err, perr)
	}
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("broken off; what was published stays, and the same command goes on where this one ended")
	case err != nil:
		return err
	case report.Errors > 0:
		return fmt.Errorf("%s: not imported", plural(report.Errors, "error"))
	case report.Resources == 0:
		fmt.Fprintln(cmd.ErrOrStderr(), "no FHIR resource found: give bundles, resources or NDJSON, in files named .json, .ndjson or .jsonl, or as .gz of these")
	}
	return nil
}

// publish stores a batch: at once, or when something in it is refused, without that.
func (im *importer) publish(ctx context.Context, items []fhir.Item) error {
	if !im.dryRun {
		if err := im.append(ctx, items); err == nil || !refused(err) {
			return err
		}
	}
	good := items[:0]
	for _, it := range items {
		if _, _, err := im.p.Check(ctx, it.Event); err != nil {
			if !refused(err) {
				return err
			}
			im.refuse(it, err)
			continue
		}
		good = append(good, it)
	}
	if im.dryRun {
		for _, it := range good {
			im.count(it, func(c *eventCounts) { c.Published++ })
		}
		return nil
	}
	return im.halve(ctx, good)
}

// halve publishes what can be published of items that are valid, in order. Only the store can refuse one of them now:
// its id is taken by an event that says more or less, because an earlier import saw other resources beside it.
func (im *importer) halve(ctx context.Context, items []fhir.Item) error {
	if len(items) == 0 {
		return nil
	}
	err := im.append(ctx, items)
	switch {
	case err == nil:
		return nil
	case !refused(err):
		return err
	case len(items) > 1:
		return errors.Join(im.halve(ctx, items[:len(items)/2]), im.halve(ctx, items[len(items)/2:]))
	case errors.Is(err, eventstore.ErrDifferentContent):
		im.count(items[0], func(c *eventCounts) { c.Known++ })
	default:
		im.refuse(items[0], err)
	}
	return nil
}

// categories are the entities that services keep as streams: what is imported of them is their history.
var categories = map[string]string{
	"patient.record.created": "patient.record", "patient.record.updated": "patient.record", "patient.demographics.changed": "patient.record",
	"patient.address.changed": "patient.record", "patient.contact.changed": "patient.record", "patient.enrolled": "patient.record",
	"patient.consent.provided": "patient.record", "patient.consent.revoked": "patient.record",
	"medication.prescription.created": "medication.prescription", "medication.prescription.cancelled": "medication.prescription",
	"priorauth.request.submitted": "priorauth.request",
	"care.task.assigned":          "care.task", "care.task.completed": "care.task",
}

func (im *importer) append(ctx context.Context, items []fhir.Item) error {
	receipts := make([]eventstore.Receipt, len(items))
	err := im.p.Store().Update(ctx, func(tx *eventstore.Tx) error {
		for i, it := range items {
			stream := ""
			if category, ok := categories[it.Event.Type]; ok && it.Event.PartitionKey != "" {
				stream = category + "/" + it.Event.PartitionKey
			}
			stored, err := tx.Append(ctx, stream, eventstore.AnyVersion, it.Event)
			if err != nil {
				return err
			}
			receipts[i] = stored[0]
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, r := range receipts {
		im.count(items[i], func(c *eventCounts) {
			if r.Duplicate {
				c.Known++
			} else {
				c.Published++
			}
		})
	}
	return nil
}

func (im *importer) count(it fhir.Item, add func(*eventCounts)) {
	c := im.events[it.Event.Type]
	add(&c)
	im.events[it.Event.Type] = c
}

// refuse makes an error of a resource whose event breaks a rule.
func (im *importer) refuse(it fhir.Item, err error) {
	im.count(it, func(c *eventCounts) { c.Refused++ })
	if it.File != im.last.File || it.Line != im.last.Line || it.Pointer != im.last.Pointer {
		im.errors++
		im.moved[it.Type]++
	}
	im.last = it
	if len(im.refused) >= maxImportProblems {
		return
	}
	text := err.Error()
	var invalid *event.InvalidError
	if errors.As(err, &invalid) && len(invalid.Findings) > 0 {
		text = invalid.Findings[0].String()
		if more := len(invalid.Findings) - 1; more > 0 {
			text += fmt.Sprintf(" (and %d more)", more)
		}
	}
	im.refused = append(im.refused, fhir.Problem{File: it.File, Line: it.Line, Pointer: it.Pointer, Type: it.Type, ID: it.ID,
		Message: it.Event.Type + " was refused: " + text})
}

// report joins the importer's account of resources with the store's account of events.
func (im *importer) report(r fhir.Report, complete bool) importReport {
	out := importReport{
		Complete: complete, Files: r.Files, Bytes: r.Bytes,
		Resources: r.Total.Resources, Mapped: r.Total.Mapped - im.errors, Repeated: r.Total.Duplicates, Skipped: r.Total.Skipped,
		Errors: r.ErrorCount + im.errors, Warnings: r.Warnings, Undated: r.Undated,
		ByType: map[string]resourceCounts{}, Events: im.events, Skips: r.Skips,
		Problems: append([]fhir.Problem{}, r.Problems...),
	}
	for kind, c := range r.ByType {
		out.ByType[kind] = resourceCounts{c.Resources, c.Mapped - im.moved[kind], c.Events, c.Duplicates, c.Skipped, c.Errors + im.moved[kind]}
	}
	for _, c := range im.events {
		out.Published += c.Published
		out.Known += c.Known
	}
	out.Duplicates = out.Known + out.Repeated
	out.Problems = append(out.Problems, im.refused[:min(len(im.refused), max(0, maxImportProblems-len(out.Problems)))]...)
	return out
}

// shownProblems is how many problems people see; -o json has more.
const shownProblems = 20

func (a *app) printImport(cmd *cobra.Command, r importReport, dryRun bool) error {
	w, errw := cmd.OutOrStdout(), cmd.ErrOrStderr()
	for i, p := range r.Problems {
		if i == shownProblems {
			fmt.Fprintf(errw, "… and more; -o json lists the first %d\n", maxImportProblems)
			break
		}
		kind := ""
		if p.Warning {
			kind = "warning: "
		}
		fmt.Fprintln(errw, kind+p.String())
	}
	if a.json() {
		return printJSON(w, r)
	}
	n := func(v int64) string {
		if v == 0 {
			return "-"
		}
		return fmt.Sprint(v)
	}
	rows := [][]string{}
	for _, kind := range slices.Sorted(maps.Keys(r.ByType)) {
		c := r.ByType[kind]
		rows = append(rows, []string{kind, n(c.Resources), n(c.Mapped), n(c.Events), n(c.Repeated), n(c.Skipped), n(c.Errors)})
	}
	if len(rows) > 0 {
		if err := a.table(w, []string{"resource", "found", "mapped", "events", "repeated", "skipped", "errors"}, rows); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	rows = rows[:0]
	for _, eventType := range slices.Sorted(maps.Keys(r.Events)) {
		c := r.Events[eventType]
		rows = append(rows, []string{eventType, n(c.Published), n(c.Known), n(c.Refused)})
	}
	published := "published"
	if dryRun {
		published = "acceptable"
	}
	if len(rows) > 0 {
		if err := a.table(w, []string{"event", published, "known", "refused"}, rows); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	rows = rows[:0]
	for _, reason := range slices.Sorted(maps.Keys(r.Skips)) {
		rows = append(rows, []string{reason, n(r.Skips[reason])})
	}
	if len(rows) > 0 {
		if err := a.table(w, []string{"skipped because", "resources"}, rows); err != nil {
			return err
		}
		fmt.Fprintln(w)
	}
	_, err := fmt.Fprintf(w, "resources %d, %s %d, duplicates %d, skipped %d, errors %d\n", r.Resources, published, r.Published, r.Duplicates, r.Skipped, r.Errors)
	return err
}

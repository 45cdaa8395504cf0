package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/adrg/xdg"
	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// demoFile is the demo's own store, in the user's data directory.
const demoFile = "carebus/carebus-demo.db"

type demoFlags struct {
	patients int
	rate     float64
	length   time.Duration
	seed     uint64
	mended   bool
}

// demoReport is what `carebus demo -o json` prints.
type demoReport struct {
	Store         string                  `json:"store"`
	Seed          uint64                  `json:"seed"`
	Run           int64                   `json:"run"` // of the demos on this store
	Patients      int                     `json:"patients"`
	Prescriptions int64                   `json:"prescriptions"`
	Filled        int64                   `json:"filled"`
	Denied        int64                   `json:"denied"`
	Waiting       int64                   `json:"waiting"`   // prescriptions that are neither: behind a parked key, or not yet drained
	Earlier       int64                   `json:"earlier"`   // prescriptions of earlier runs that were filled or denied in this one
	Seconds       float64                 `json:"seconds"`   // until everything was drained
	Published     int64                   `json:"published"` // events of this run, the services' ones too
	PerSecond     float64                 `json:"perSecond"`
	Events        map[string]int64        `json:"events"`
	Orders        int64                   `json:"orders"`    // rows that the pharmacy wrote
	Fills         int64                   `json:"fills"`     // counted in those rows; equals filled
	MostFills     int64                   `json:"mostFills"` // of one order; more than 1 would be an effect done twice
	Groups        []bus.GroupStatus       `json:"groups"`
	Parked        []bus.DeadLetter        `json:"parked"` // without error texts
	Verify        eventstore.VerifyReport `json:"verify"`
	Drained       bool                    `json:"drained"` // false: broken off, or a group is paused or stopped
	Explore       []string                `json:"explore"` // commands to go on with
}

func newDemoCommand(a *app) *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a small healthcare system in one process and leave its store to be explored",
		Long: `Runs a provider system that prescribes, and five services that react to events and know nothing of each other: prior
authorization, payer, pharmacy, patient portal, care coordination. Some patients have a plan that the prior authorization
service was never told of: their keys are parked, and everybody else goes on. It ends by itself, when everything under way
is done, and shows how to look at what happened.

Without --store it uses a store of its own, carebus-demo.db in the user's data directory. A second demo on the same store
adds another population. With --mended the prior authorization service knows the plan, and what was parked completes.`,
		Example: `carebus demo
  carebus demo --patients 2000 --rate 400 --for 1m --seed 7`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case f.patients < 1 || f.patients > 1_000_000:
				return usagef("--patients %d: give 1 to 1000000", f.patients)
			case !(f.rate > 0) || f.rate > 100_000:
				return usagef("--rate %g: give prescriptions per second, above 0 and up to 100000", f.rate)
			case f.length <= 0 || f.length > 24*time.Hour:
				return usagef("--for %v: give a time above 0 and up to 24h", f.length)
			case f.seed > 1<<53:
				return usagef("--seed %d: give a number up to %d", f.seed, int64(1)<<53)
			}
			return a.demo(cmd, f)
		},
	}
	cmd.Flags().IntVar(&f.patients, "patients", 100, "how many patients")
	cmd.Flags().Float64Var(&f.rate, "rate", 50, "prescriptions per second")
	cmd.Flags().DurationVar(&f.length, "for", 20*time.Second, "how long prescriptions are written")
	cmd.Flags().Uint64Var(&f.seed, "seed", 1, "the same seed gives the same patients and prescriptions")
	cmd.Flags().BoolVar(&f.mended, "mended", false, "the services know the new plan: parked keys complete")
	return cmd
}

func (a *app) demo(cmd *cobra.Command, f demoFlags) (err error) {
	if a.store == "" {
		path, err := xdg.DataFile(demoFile)
		if err != nil {
			return fmt.Errorf("no place for the store in the user's data directory: %w; name one with --store", err)
		}
		a.store = "sqlite:" + path
	}
	ctx, errw := cmd.Context(), cmd.ErrOrStderr()
	// Keys that are parked are part of the show; the display tells of them.
	p, err := a.open(ctx, cmd, &carebus.Options{Logger: slog.New(slog.NewTextHandler(errw, &slog.HandlerOptions{Level: slog.LevelError}))})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	fmt.Fprintln(errw, "store", a.store)

	run, err := beginDemo(ctx, p, f.seed)
	if err != nil {
		return err
	}
	services := &demoServices{run: run, mended: f.mended}
	if err := services.join(p); err != nil {
		return err
	}
	people := newDemoPopulation(f.seed, run, f.patients)
	watch, err := newDemoWatch(ctx, p, errw, "P"+people.prefix+"-")
	if err != nil {
		return err
	}
	begin := time.Now()
	drained, err := runDemo(ctx, p, people, f, watch)
	seconds := time.Since(begin).Seconds()
	if err != nil {
		return err
	}
	last := context.WithoutCancel(ctx) // the summary is shown also to who has broken off
	report, err := demoSummary(last, p, watch, run)
	if err != nil {
		return err
	}
	report.Store, report.Seed, report.Patients, report.Drained = a.store, f.seed, f.patients, drained
	report.Seconds, report.PerSecond = seconds, float64(report.Published)/seconds
	report.Explore = a.explore(watch, report)
	if report.Verify, err = p.Store().Verify(last, nil); err != nil {
		return err
	}
	if a.json() {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		err = a.printDemo(cmd.OutOrStdout(), report)
	}
	if err == nil && report.Verify.FaultCount > 0 {
		err = fmt.Errorf("the store contradicts itself: %s; see carebus verify", plural(report.Verify.FaultCount, "fault"))
	}
	return err
}

// beginDemo makes the demo's tables and takes the next number of a run.
func beginDemo(ctx context.Context, p *carebus.Platform, seed uint64) (run int64, err error) {
	if err := p.Store().Migrate(ctx, "demo", demoTables...); err != nil {
		return 0, err
	}
	err = p.Store().Update(ctx, func(tx *eventstore.Tx) error {
		if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(run), 0) + 1 FROM demo_runs`).Scan(&run); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO demo_runs (run, seed, started_at) VALUES ($1, $2, $3)`, run, int64(seed), tx.Now().UnixMicro())
		return err
	})
	return run, err
}

// runDemo writes prescriptions for the time asked for while the services react, then lets everything under way be done.
// Who breaks off gets what is done by then.
func runDemo(ctx context.Context, p *carebus.Platform, people *demoPopulation, f demoFlags, watch *demoWatch) (drained bool, err error) {
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 2)
	go func() { ended <- p.Run(working) }()
	go func() { ended <- watch.run(working) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended, <-ended)
		watch.clear()
	}()
	if err := admit(ctx, p, people); err != nil {
		return false, stopped(ctx, err)
	}
	if err := prescribe(ctx, p, people, f); err != nil {
		return false, stopped(ctx, err)
	}
	drained, err = drain(ctx, p)
	return drained, stopped(ctx, err)
}

// stopped is err, unless a person has broken off.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// admit opens the patients' records, some hundred in one commit.
func admit(ctx context.Context, p *carebus.Platform, people *demoPopulation) error {
	for chunk := range slices.Chunk(people.patients, 200) {
		err := p.Store().Update(ctx, func(tx *eventstore.Tx) error {
			for _, one := range chunk {
				if _, err := tx.Append(ctx, "patient.record/"+one.id, eventstore.NoStream, people.record(one)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// prescribe publishes what is due by now, again and again. When the store is slower than the rate, it sets the pace.
func prescribe(ctx context.Context, p *carebus.Platform, people *demoPopulation, f demoFlags) error {
	begin := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		since := min(time.Since(begin), f.length)
		due := int(since.Seconds()*f.rate+1e-6) - people.written
		batch := []event.Event{}
		for range min(due, 1000) {
			batch = append(batch, people.prescribe(time.Now()))
		}
		if len(batch) > 0 {
			if _, err := p.PublishBatch(ctx, batch); err != nil {
				return err
			}
		}
		if since >= f.length {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// drain waits until nothing is under way: no group behind, and nothing stored while it was looked. A group that a person
// has paused, or that has stopped itself, is not waited for; the answer is false then.
func drain(ctx context.Context, p *carebus.Platform) (bool, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		before, err := p.Store().Heads(ctx)
		if err != nil {
			return false, err
		}
		idle, all := true, true
		for _, name := range demoGroups {
			g, err := p.Bus().Group(ctx, name)
			if err != nil && !errors.Is(err, bus.ErrNoGroup) { // it has not taken its first look yet
				return false, err
			}
			if err == nil && g.State != "running" {
				all = false
				continue
			}
			idle = idle && err == nil && g.Lag == 0 && len(g.Partitions) == len(before)
		}
		after, err := p.Store().Heads(ctx)
		if err != nil {
			return false, err
		}
		if idle && slices.Equal(before, after) {
			return all, nil
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-tick.C:
		}
	}
}

func demoSummary(ctx context.Context, p *carebus.Platform, watch *demoWatch, run int64) (demoReport, error) {
	r := demoReport{Run: run, Events: map[string]int64{}, Groups: []bus.GroupStatus{}, Parked: []bus.DeadLetter{}}
	if err := watch.catchUp(ctx); err != nil { // what was stored since the last look
		return r, err
	}
	for eventType, n := range watch.types {
		r.Events[eventType] = n
		r.Published += n
	}
	r.Prescriptions, r.Filled, r.Denied = watch.begun, watch.filled, watch.denied
	r.Waiting, r.Earlier = max(0, r.Prescriptions-r.Filled-r.Denied), watch.earlier
	for _, name := range demoGroups {
		g, err := p.Bus().Group(ctx, name)
		if errors.Is(err, bus.ErrNoGroup) {
			continue
		}
		if err != nil {
			return r, err
		}
		r.Groups = append(r.Groups, g)
		letters, err := p.Bus().DeadLetters(ctx, bus.Filter{Group: name}, 100)
		if err != nil {
			return r, err
		}
		for _, d := range letters {
			mask(p.Registry(), &d, false)
			r.Parked = append(r.Parked, d)
		}
	}
	err := p.Store().View(ctx, func(q eventstore.Querier) error {
		return q.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(SUM(fills), 0), COALESCE(MAX(fills), 0) FROM demo_orders WHERE run = $1`, run).Scan(&r.Orders, &r.Fills, &r.MostFills)
	})
	return r, err
}

// explore are commands to go on with, ready to be pasted.
func (a *app) explore(watch *demoWatch, r demoReport) []string {
	var out []string
	if os.Getenv("CAREBUS_STORE") != r.Store {
		out = append(out, "export CAREBUS_STORE='"+strings.ReplaceAll(r.Store, "'", `'\''`)+"'")
	}
	if id := watch.show(); id != "" {
		out = append(out, "carebus flow "+id, "carebus flow --mermaid "+id)
	}
	out = append(out, "carebus tail --from beginning 'priorauth.**'", "carebus group list")
	if len(r.Parked) > 0 {
		d := r.Parked[0]
		out = append(out, "carebus dlq list", fmt.Sprintf("carebus dlq show %s %s", d.Group, d.Key), "carebus flow "+d.EventID,
			"carebus demo --mended --for 2s   # the service learns of the plan: what is parked completes")
	}
	return append(out, "carebus verify")
}

func (a *app) printDemo(w io.Writer, r demoReport) error {
	rows := [][]string{}
	for _, eventType := range slices.Sorted(maps.Keys(r.Events)) {
		rows = append(rows, []string{eventType, fmt.Sprint(r.Events[eventType])})
	}
	if err := a.table(w, []string{"event", "stored"}, rows); err != nil {
		return err
	}
	rows = rows[:0]
	for _, g := range r.Groups {
		rows = append(rows, []string{g.Name, g.State, fmt.Sprint(g.Lag), fmt.Sprint(g.ParkedKeys), fmt.Sprint(g.Waiting)})
	}
	fmt.Fprintln(w)
	if err := a.table(w, []string{"group", "state", "lag", "parked keys", "parked events"}, rows); err != nil {
		return err
	}
	earlier, undone := "", ""
	if r.Earlier > 0 {
		earlier = fmt.Sprintf("; %d of earlier runs completed", r.Earlier)
	}
	if !r.Drained {
		undone = "; not everything under way was waited for"
	}
	fmt.Fprintf(w, `
%s in %.1f s, %.0f a second, from %s%s
flows       %s: %d filled, %d denied, %d waiting%s
effects     %s at the pharmacy, %s, at most %d of one order
store       %s in %s, %s
`, plural(r.Published, "event"), r.Seconds, r.PerSecond, plural(int64(r.Patients), "patient"), undone,
		plural(r.Prescriptions, "prescription"), r.Filled, r.Denied, r.Waiting, earlier,
		plural(r.Orders, "order"), plural(r.Fills, "fill"), r.MostFills,
		plural(r.Verify.Events, "event"), plural(int64(r.Verify.Partitions), "partition"), plural(r.Verify.FaultCount, "fault"))
	_, err := fmt.Fprintf(w, "\nGo on with:\n  %s\n", strings.Join(r.Explore, "\n  "))
	return err
}

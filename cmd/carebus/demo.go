package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/adrg/xdg"
	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/bus/kafka"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/saga"
	"github.com/carebus/carebus/services/audit"
	"github.com/carebus/carebus/services/fulfillment"
	"github.com/carebus/carebus/services/payer"
	"github.com/carebus/carebus/services/priorauth"
	"github.com/carebus/carebus/services/simulation"
)

// demoFile is the demo's own store, in the user's data directory.
const demoFile = "carebus/carebus-demo.db"

type demoFlags struct {
	patients int
	rate     float64
	length   time.Duration
	seed     uint64
	world    demoWorld
	apart    bool // the services are other processes
	stay     bool
	http     serveFlags

	telemetry telemetryFlags
}

// demoReport is what `carebus demo -o json` prints.
type demoReport struct {
	Store         string            `json:"store"`
	Seed          uint64            `json:"seed"`
	Run           int64             `json:"run"` // of the demos on this store
	Patients      int               `json:"patients"`
	Prescriptions int64             `json:"prescriptions"` // of this run
	Seconds       float64           `json:"seconds"`       // until everything was drained
	Published     int64             `json:"published"`     // events of this run, the services' ones too
	PerSecond     float64           `json:"perSecond"`
	Events        map[string]int64  `json:"events"`
	Audit         audit.Report      `json:"audit"` // of the whole store, earlier runs included
	Groups        []bus.GroupStatus `json:"groups"`
	ParkedKeys    int64             `json:"parkedKeys"`
	Parked        []bus.DeadLetter  `json:"parked"`        // a hundred at most, without error texts
	Drained       bool              `json:"drained"`       // false: broken off, or a group is paused or stopped
	Explore       []string          `json:"explore"`       // commands to go on with
	URL           string            `json:"url,omitempty"` // of the HTTP API, while it is served
}

func newDemoCommand(a *app) *cobra.Command {
	var f demoFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a small healthcare system in one process and leave its store to be explored",
		Long: `Runs a simulated population, and the reference services, which react to events and know nothing of each other:
prescribing, prior authorization, payer, pharmacy and the fulfilment saga, patient portal, care coordination, medication
safety. Payers deny, ask for more, cut quantities and reject claims; prescribers answer and appeal, or do not; a drug runs
out; some patients never come for what lies ready. Some have a plan that the prior authorization service was never told
of: their prescriptions are parked, and everybody else goes on.

It ends by itself, when everything under way is done. Then an auditor, which reads nothing but the store, holds what has
happened against the rules that must never be broken, and the demo shows how to look around.

A person who watches is also served over HTTP, until they break off: the API is described at /docs. In a script, --stay
does that, and --listen serves as long as the demo runs.

Without --store it uses a store of its own, carebus-demo.db in the user's data directory. A second demo on the same store
adds another population. With --mended the prior authorization service knows the plan, and what was parked completes.

The services may run elsewhere, as they do in production: start them by carebus run --demo, in as many processes as you
like, on this store, and drive them with --no-services.`,
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
			if err := f.world.check(); err != nil {
				return err
			}
			if !cmd.Flags().Changed("stay") && !f.apart {
				f.stay = !a.json() && isTerminal(cmd.OutOrStdout())
			}
			return a.demo(cmd, f)
		},
	}
	cmd.Flags().IntVar(&f.patients, "patients", 100, "how many patients")
	cmd.Flags().Float64Var(&f.rate, "rate", 50, "prescriptions per second")
	cmd.Flags().DurationVar(&f.length, "for", 20*time.Second, "how long prescriptions are written")
	cmd.Flags().Uint64Var(&f.seed, "seed", 1, "the same seed gives the same patients and prescriptions")
	f.world.add(cmd)
	cmd.Flags().BoolVar(&f.apart, "no-services", false, "only write prescriptions, wait and audit: the services are processes of their own, see carebus run --demo")
	cmd.Flags().BoolVar(&f.stay, "stay", false, "go on serving when all is done, until the program is told to end (default: when a person watches)")
	cmd.Flags().StringVar(&f.http.listen, "listen", defaultListen, "address of the HTTP API; any free port when the default is taken")
	f.http.add(cmd)
	for _, theirs := range []string{"pickup", "mended", "stay", "listen"} { // those of the services, and of carebus serve
		cmd.MarkFlagsMutuallyExclusive("no-services", theirs)
	}
	f.telemetry.add(cmd, "error", true) // keys that are parked are part of the show; the display tells of them
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
	t, err := f.telemetry.start(ctx, cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	p, err := a.open(ctx, cmd, t.options())
	if err != nil {
		return err
	}
	t.Watch(p)
	defer func() { err = errors.Join(err, p.Close()) }()
	fmt.Fprintln(errw, "store", shown(a.store))

	run, err := beginDemo(ctx, p, f.seed)
	if err != nil {
		return err
	}
	// Where the services are elsewhere nothing runs here. What they are called is to be known all the same.
	if err := f.world.join(ctx, p, demoNames()...); err != nil {
		return err
	}
	if f.apart {
		fmt.Fprintf(errw, "the services run elsewhere: carebus run --demo --store '%s'\n", shown(a.store))
	}
	ours := p.Bus().Joined() // clients over HTTP may join more, which the demo does not wait for
	people := simulation.New(f.seed, run, f.patients, true)
	watch, err := newDemoWatch(ctx, p, errw, people.Prefix+"-")
	if err != nil {
		return err
	}
	report := demoReport{Store: shown(a.store), Seed: f.seed, Run: run, Patients: f.patients}
	return whileRunning(ctx, p, watch, !f.apart, func(endShow func()) (err error) {
		if f.stay || cmd.Flags().Changed("listen") {
			end, serr := f.serve(ctx, cmd, p, t, &report)
			if serr != nil {
				return serr
			}
			defer func() { err = errors.Join(err, end()) }()
		}
		begin := time.Now()
		report.Drained, err = runDemo(ctx, p, people, f, ours)
		report.Seconds = time.Since(begin).Seconds()
		endShow()
		if err != nil {
			return err
		}
		if err := a.demoEnds(cmd, p, watch, &report); err != nil {
			return err
		}
		if f.stay && report.Drained {
			fmt.Fprintf(errw, "\nserving %s until you break off (Ctrl-C)\n", report.URL)
			<-ctx.Done()
		}
		return nil
	})
}

// demoEnds audits and tells what was done. It is told also to who has broken off.
func (a *app) demoEnds(cmd *cobra.Command, p *carebus.Platform, watch *demoWatch, report *demoReport) (err error) {
	last := context.WithoutCancel(cmd.Context())
	if err := demoSummary(last, p, watch, report); err != nil {
		return err
	}
	report.PerSecond = float64(report.Published) / report.Seconds
	report.Explore = a.explore(watch, *report)
	if report.Drained {
		if report.Audit, err = audit.Run(last, p, projections()...); err != nil {
			return err
		}
	}
	if a.json() {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		err = a.printDemo(cmd.OutOrStdout(), *report)
	}
	if n := report.Audit.Violations(); err == nil && n > 0 {
		err = fmt.Errorf("the audit has found %s; see carebus audit", plural(n, "violation"))
	}
	return err
}

// serve serves the demo's platform over HTTP until end is called.
func (f *demoFlags) serve(ctx context.Context, cmd *cobra.Command, p *carebus.Platform, t *observed, report *demoReport) (end func() error, err error) {
	begin := func(flags serveFlags) (func() error, error) {
		serving, stop := context.WithCancel(context.WithoutCancel(ctx))
		ready, ended := make(chan string, 1), make(chan error, 1)
		go func() { ended <- flags.run(serving, p, t, func(url string) { ready <- url }) }()
		select {
		case report.URL = <-ready:
			return func() error { stop(); return <-ended }, nil
		case err := <-ended:
			stop()
			return nil, err
		}
	}
	end, err = begin(f.http)
	if errors.Is(err, syscall.EADDRINUSE) && !cmd.Flags().Changed("listen") { // another demo, perhaps
		free := f.http
		free.listen = "127.0.0.1:0"
		end, err = begin(free)
	}
	if err == nil {
		fmt.Fprintln(cmd.ErrOrStderr(), "serving", report.URL)
	}
	return end, err
}

// demoWorld is how the demo's services differ from those of carebus run: what they know, and the people around them.
type demoWorld struct {
	pickup time.Duration
	mended bool
}

func (w *demoWorld) add(cmd *cobra.Command) {
	cmd.Flags().DurationVar(&w.pickup, "pickup", 5*time.Second, "how long the pharmacy of the demo keeps what nobody comes for")
	cmd.Flags().BoolVar(&w.mended, "mended", false, "the services of the demo know the new plan: parked keys complete")
}

func (w *demoWorld) check() error {
	if w.pickup <= 0 || w.pickup > time.Hour {
		return usagef("--pickup %v: give a time above 0 and up to 1h", w.pickup)
	}
	return nil
}

// demoNames are those of every service, and of the world around them.
func demoNames() []string { return append(serviceNames(), simulation.Group) }

// join makes this process a member of services.
func (w *demoWorld) join(ctx context.Context, p *carebus.Platform, names ...string) error {
	formulary, err := simulation.Formulary(w.mended)
	if err != nil {
		return err
	}
	version := "1.0.0"
	if w.mended {
		version = "1.1.0" // other code than the one that failed: parked keys are tried again at once
	}
	for _, name := range names {
		switch name {
		case "priorauth":
			// A demo that is run often parks a few keys each time. That is no flood.
			err = priorauth.Join(ctx, p, priorauth.Options{Required: formulary, Group: []bus.Option{bus.Version(version), bus.FloodLimit(1 << 20)}})
		case "payer":
			err = payer.Join(ctx, p, payer.Options{Overturn: simulation.Overturn})
		case "fulfillment":
			err = fulfillment.Join(ctx, p, fulfillment.Options{PickupWindow: w.pickup})
		case simulation.Group:
			err = simulation.Join(ctx, p)
		default:
			err = services[name](ctx, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// demoTables number the runs: each has people of its own.
var demoTables = []string{`CREATE TABLE demo_runs (run BIGINT PRIMARY KEY, seed BIGINT NOT NULL, started_at BIGINT NOT NULL)`}

// beginDemo takes the next number of a run.
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
func runDemo(ctx context.Context, p *carebus.Platform, people *simulation.Population, f demoFlags, groups []string) (drained bool, err error) {
	err = errors.Join(people.Admit(ctx, p), people.Deliver(ctx, p, int(f.rate*f.length.Seconds())))
	if err == nil {
		err = prescribe(ctx, p, people, f)
	}
	if err == nil {
		drained, err = drain(ctx, p, groups)
	}
	return drained, stopped(ctx, err)
}

// whileRunning does something while the services run: here, or elsewhere. They are shown until endShow is called.
func whileRunning(ctx context.Context, p *carebus.Platform, watch *demoWatch, here bool, do func(endShow func()) error) error {
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	showing, hide := context.WithCancel(working)
	ran, shown := make(chan error, 1), make(chan error, 1)
	go func() {
		if here {
			ran <- p.Run(working)
		} else {
			ran <- nil
		}
	}()
	go func() { shown <- watch.run(showing) }()
	endShow := sync.OnceValue(func() error {
		hide()
		defer watch.clear()
		return <-shown
	})
	err := do(func() { _ = endShow() }) // its error is told below
	err = errors.Join(err, endShow())
	stop()
	return errors.Join(err, <-ran)
}

// stopped is err, unless a person has broken off.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// prescribe writes what is due by now, again and again. When the store is slower than the rate, it sets the pace.
func prescribe(ctx context.Context, p *carebus.Platform, people *simulation.Population, f demoFlags) error {
	begin, written := time.Now(), 0
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		since := min(time.Since(begin), f.length)
		due := min(int(since.Seconds()*f.rate+1e-6)-written, 1000)
		if err := people.Prescribe(ctx, p, due); err != nil {
			return err
		}
		written += due
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

// drain waits until nothing is under way: no group behind, no saga at work, and nothing stored while it was looked. A group
// that a person has paused, or that has stopped itself, is not waited for; the answer is false then. A store that cannot be
// reached for a while is.
func drain(ctx context.Context, p *carebus.Platform, groups []string) (bool, error) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		rests, all, err := atRest(ctx, p, groups)
		switch {
		case err == nil && rests:
			return all, nil
		case err != nil && !errors.Is(err, eventstore.ErrUnavailable):
			return false, err
		}
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-tick.C:
		}
	}
}

// atRest looks once. all is false when a group is paused or stopped.
func atRest(ctx context.Context, p *carebus.Platform, groups []string) (rests, all bool, err error) {
	before, err := p.Store().Heads(ctx)
	if err != nil {
		return false, false, err
	}
	rests, all = true, true
	// What is sent to a bus beside the store comes first: the lag of the others is known when all is sent.
	groups = slices.Clone(groups)
	if i := slices.Index(groups, kafka.RelayGroup); i > 0 {
		groups[0], groups[i] = groups[i], groups[0]
	}
	for _, name := range groups {
		g, err := p.Bus().Group(ctx, name)
		if err != nil && !errors.Is(err, bus.ErrNoGroup) { // it has not taken its first look yet
			return false, false, err
		}
		if err == nil && g.State != "running" {
			all = false
			continue
		}
		rests = rests && err == nil && g.Lag == 0 && !g.LagUnknown && len(g.Partitions) >= len(before)
	}
	sagas, err := saga.Count(ctx, p.Store(), fulfillment.Name)
	if err != nil {
		return false, false, err
	}
	for _, byStatus := range sagas { // some of which may wait for a group that is paused
		rests = rests && (!all || byStatus[saga.Running]+byStatus[saga.Compensating] == 0)
	}
	after, err := p.Store().Heads(ctx)
	return rests && slices.Equal(before, after), all, err
}

func demoSummary(ctx context.Context, p *carebus.Platform, watch *demoWatch, r *demoReport) error {
	r.Events, r.Groups, r.Parked = map[string]int64{}, []bus.GroupStatus{}, []bus.DeadLetter{}
	if err := watch.catchUp(ctx); err != nil { // what was stored since the last look
		return err
	}
	for eventType, n := range watch.types {
		r.Events[eventType] = n
		r.Published += n
	}
	r.Prescriptions = watch.begun
	for _, name := range p.Bus().Joined() {
		g, err := p.Bus().Group(ctx, name)
		if errors.Is(err, bus.ErrNoGroup) {
			continue
		}
		if err != nil {
			return err
		}
		r.Groups = append(r.Groups, g)
		r.ParkedKeys += g.ParkedKeys
		letters, err := p.Bus().DeadLetters(ctx, bus.Filter{Group: name}, 100-len(r.Parked))
		if err != nil {
			return err
		}
		for _, d := range letters {
			mask(p.Registry(), &d, false)
			r.Parked = append(r.Parked, d)
		}
		if len(r.Parked) >= 100 {
			break
		}
	}
	return nil
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
	out = append(out, "carebus tail --from beginning 'priorauth.**'", "carebus group list", "carebus projection list", "carebus saga list --status failed")
	if len(r.Parked) > 0 {
		d := r.Parked[0]
		out = append(out, "carebus dlq list", fmt.Sprintf("carebus dlq show %s %s", d.Group, d.Key), "carebus flow "+d.EventID,
			"carebus demo --mended --for 2s   # the service learns of the plan: what is parked completes")
	}
	if r.URL != "" {
		out = append(out, "curl '"+r.URL+"/v1/events?type=priorauth.**&limit=3'", "curl -N '"+r.URL+"/v1/live?type=**&from=beginning'")
	}
	return append(out, "carebus audit")
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
	undone := ""
	if !r.Drained {
		undone = "; not everything under way was waited for, so nothing was audited"
	}
	fmt.Fprintf(w, "\n%s in %.1f s, %.0f a second, from %s and %s%s\n", plural(r.Published, "event"), r.Seconds, r.PerSecond,
		plural(int64(r.Patients), "patient"), plural(r.Prescriptions, "prescription"), undone)
	if r.Drained {
		fmt.Fprintln(w)
		if err := a.printAudit(w, r.Audit); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "\nGo on with:\n  %s\n", strings.Join(r.Explore, "\n  "))
	return err
}

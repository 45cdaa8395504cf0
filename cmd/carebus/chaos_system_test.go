package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/simulation"
)

const pickup = "3s"

// ground is what the services stand on. Another rung is another store, and flags that every command is given.
type ground struct {
	store string   // as the services and the driver reach it
	whole string   // as it is looked at in the end: past a proxy
	flags []string // further flags of the commands
	kafka bool     // groups read topics
	frees bool     // others go on while a process hangs in a transaction
	lease time.Duration
}

// system is the deployment that harm is done to.
type system struct {
	rung     ground
	ctx      context.Context // ends before the time for tests is over, so that there is time to tell what was waited for
	p        *carebus.Platform
	groups   []string
	replicas []*replica
	begun    []*process // all that there ever were
	mended   bool
	rnd      *rand.Rand
	acked    *ledger
	fell     int // processes that ended by themselves, while they began

	stopDriving context.CancelFunc
	drove       chan error // of the driver, once
}

// replica is a place in the deployment. When its process ends, another takes its place.
type replica struct {
	services []string
	*process
}

// deployment is a process for each service, or a few of them, and two of some; in a long run two of each that others wait for.
func deployment() (replicas []*replica) {
	for _, names := range [][]string{{"priorauth"}, {"payer"}, {"fulfillment"}, {"patient", "portal", "prescribing"}} {
		replicas = append(replicas, &replica{services: names})
		if len(replicas) == 1 || times(1, 2) == 2 {
			replicas = append(replicas, &replica{services: names})
		}
	}
	return append(replicas, &replica{services: []string{"care", "safety", simulation.Group}})
}

// deploy starts the services, and the people who keep them busy.
func deploy(t *testing.T, r ground) *system {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s := &system{rung: r, ctx: t.Context(), replicas: deployment(), rnd: rand.New(rand.NewPCG(seed, 0)), acked: newLedger(), drove: make(chan error, 1)}
	if deadline, ok := t.Deadline(); ok {
		ctx, cancel := context.WithDeadline(t.Context(), deadline.Add(-20*time.Second))
		t.Cleanup(cancel)
		s.ctx = ctx
	}
	a := &app{}
	cmd := a.root()
	if err := cmd.ParseFlags(append([]string{"--store", r.store}, r.flags...)); err != nil {
		t.Fatal(err)
	}
	cmd.SetErr(io.Discard)
	p, err := a.open(s.ctx, cmd, &carebus.Options{Hooks: []any{s.acked}, Lease: r.lease})
	if err != nil {
		t.Fatal(err)
	}
	s.p = p
	t.Cleanup(func() {
		for _, p := range s.begun {
			p.kill()
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	w := demoWorld{mended: true}
	if err := w.join(s.ctx, p, demoNames()...); err != nil { // it does not run: what is to be waited for is to be known
		t.Fatal(err)
	}
	s.groups = p.Bus().Joined()
	for _, v := range s.replicas {
		s.start(t, v)
	}
	people := simulation.New(seed%1000, 1, 200, true)
	if err := errors.Join(people.Admit(s.ctx, p), people.Deliver(s.ctx, p, 6000)); err != nil {
		t.Fatal(err)
	}
	driving, stop := context.WithCancel(s.ctx)
	s.stopDriving = stop
	go func() { s.drove <- s.drive(driving, people) }()
	for _, v := range s.replicas {
		s.joins(t, v)
	}
	return s
}

// drive writes a prescription now and then, for as long as the services keep up: what harm does is to be seen, and not what
// a machine does that is given too much.
func (s *system) drive(ctx context.Context, people *simulation.Population) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		behind, err := s.behind(ctx)
		if err == nil && behind < 2000 {
			err = people.Prescribe(ctx, s.p, 1)
		}
		if err != nil && !errors.Is(err, eventstore.ErrUnavailable) {
			return err
		}
	}
}

// behind is how many events all groups together have not looked at.
func (s *system) behind(ctx context.Context) (n int64, err error) {
	if s.rung.kafka {
		groups, err := s.p.Bus().Summary(ctx)
		for _, g := range groups {
			n += g.Lag
		}
		if err != nil && ctx.Err() == nil { // a broker is away: nobody knows
			return 0, nil
		}
		return n, err
	}
	heads, err := s.p.Store().Heads(ctx)
	if err != nil {
		return 0, err
	}
	places, _, err := s.look(ctx)
	for at, now := range places {
		if at.partition < len(heads) {
			n += max(0, heads[at.partition]-now.next)
		}
	}
	return n, err
}

// endDriving ends the stream of prescriptions. What is on its way then may be stored or not.
func (s *system) endDriving(t *testing.T) {
	t.Helper()
	s.stopDriving()
	if err := <-s.drove; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("the driver: %v", err)
	}
	s.drove = nil
}

// start puts a new process into a place.
func (s *system) start(t *testing.T, v *replica) {
	t.Helper()
	args := append([]string{"run", "--demo", "--lease", s.rung.lease.String(), "--pickup", pickup, "--store", s.rung.store}, s.rung.flags...)
	if s.mended {
		args = append(args, "--mended")
	}
	p := &process{services: v.services, cmd: exec.Command("carebus", append(args, v.services...)...), ended: make(chan struct{})}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v.process = p
	s.begun = append(s.begun, p)
	go p.watch(stderr)
}

// process is a process of carebus run.
type process struct {
	services []string
	cmd      *exec.Cmd
	ended    chan struct{} // closed when it has ended
	err      error         // how it has ended
	mu       sync.Mutex
	said     []string // the last lines
}

func (p *process) watch(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		p.mu.Lock()
		p.said = append(p.said[max(0, len(p.said)-20):], lines.Text())
		p.mu.Unlock()
	}
	p.err = p.cmd.Wait()
	close(p.ended)
}

func (p *process) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("process %d, %s:\n  %s", p.cmd.Process.Pid, strings.Join(p.services, ", "), strings.Join(p.said, "\n  "))
}

// has tells what the process has, by the names that carebus run gives its members.
func (p *process) has(member string) bool {
	return strings.Contains(member, fmt.Sprintf("-%d-", p.cmd.Process.Pid))
}

func (p *process) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("%v: %v", p, err)
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.ended
}

// stop asks the process to end, which it must do well.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	<-p.ended
	if p.err != nil {
		t.Errorf("%v\n%v", p.err, p)
	}
}

// place is a partition of a group.
type place struct {
	group     string
	partition int
}

// standing is how far a group is in a partition, and which member has it.
type standing struct {
	next    int64
	owner   string
	expires int64 // of the lease
}

// look reads how all groups stand, and which of them each member takes part in. It is one glance at small tables: who looks
// often must not be a burden to what is looked at.
func (s *system) look(ctx context.Context) (places map[place]standing, members map[string][]string, err error) {
	places, members = map[place]standing{}, map[string][]string{}
	err = s.p.Store().View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT grp, part, next, owner, expires_at FROM carebus_checkpoints`)
		if err != nil {
			return err
		}
		for rows.Next() {
			var at place
			var now standing
			if err := rows.Scan(&at.group, &at.partition, &now.next, &now.owner, &now.expires); err != nil {
				return errors.Join(err, rows.Close())
			}
			places[at] = now
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			return err
		}
		if rows, err = q.QueryContext(ctx, `SELECT grp, member FROM carebus_members`); err != nil {
			return err
		}
		for rows.Next() {
			var group, member string
			if err := rows.Scan(&group, &member); err != nil {
				return errors.Join(err, rows.Close())
			}
			members[member] = append(members[member], group)
		}
		return errors.Join(rows.Err(), rows.Close())
	})
	return places, members, err
}

// places are those whose owners fit.
func (s *system) places(t *testing.T, of func(owner string) bool) (held map[place]standing) {
	t.Helper()
	s.until(t, "a look at the groups", func() (_ bool, err error) {
		if held, _, err = s.look(s.ctx); err != nil {
			return false, err
		}
		maps.DeleteFunc(held, func(_ place, now standing) bool { return !of(now.owner) })
		return true, nil
	})
	return held
}

// feels waits until every place that a harm has hit is further than it was, or has changed hands and is at the end of the
// log, and notes when the first and the last was.
func (s *system) feels(t *testing.T, f *felt, begin time.Time, held map[place]standing) {
	t.Helper()
	n := len(held)
	if n == 0 {
		return // it had nothing
	}
	s.until(t, f.what, func() (bool, error) {
		heads, err := s.p.Store().Heads(s.ctx)
		if err != nil {
			return false, err
		}
		places, _, err := s.look(s.ctx)
		if err != nil {
			return false, err
		}
		maps.DeleteFunc(held, func(at place, before standing) bool {
			now := places[at]
			taken := now.owner != "" && now.owner != before.owner
			if at.partition >= bus.FirstLane { // where it ends only Kafka knows: it is well when it has other hands, or the old ones hold it anew
				return now.next > before.next || taken || now.owner != "" && now.expires > before.expires
			}
			return now.next > before.next || taken && at.partition < len(heads) && now.next >= heads[at.partition]
		})
		if n > 0 && len(held) < n {
			f.first = append(f.first, time.Since(begin))
			n = 0
		}
		return len(held) == 0, nil
	})
	f.last = append(f.last, time.Since(begin))
}

// joins waits until the process of a place in the deployment has its share in its groups: where a group has more members than
// places, as the one that every process is in may have, that may be nothing.
func (s *system) joins(t *testing.T, v *replica) {
	t.Helper()
	s.until(t, "a process to take part", func() (bool, error) {
		places, members, err := s.look(s.ctx)
		if err != nil {
			return false, err
		}
		has, room := map[string]bool{}, map[string]int{}
		for at, now := range places {
			has[at.group] = has[at.group] || v.has(now.owner)
			room[at.group]++
		}
		for _, groups := range members {
			for _, g := range groups {
				room[g]--
			}
		}
		for member, groups := range members {
			if v.has(member) {
				return !slices.ContainsFunc(groups, func(g string) bool { return !has[g] && room[g] >= 0 }), nil
			}
		}
		return false, nil
	})
}

// others says whether another place has the same services.
func (s *system) others(v *replica) bool {
	return slices.ContainsFunc(s.replicas, func(o *replica) bool { return o != v && slices.Equal(o.services, v.services) })
}

// progress waits until the driver has had so many more acknowledgements.
func (s *system) progress(t *testing.T, n int) {
	t.Helper()
	from := s.acked.count()
	s.until(t, "the driver's next acknowledgement", func() (bool, error) { return s.acked.count() >= from+n, nil })
}

// until looks again and again until it is so. A store that cannot be reached is looked at later.
func (s *system) until(t *testing.T, what string, so func() (bool, error)) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		s.supervise(t)
		yes, err := so()
		switch {
		case err == nil && yes:
			return
		case err != nil && !errors.Is(err, eventstore.ErrUnavailable) && s.ctx.Err() == nil:
			s.fatal(t, fmt.Sprintf("%s: %v", what, err))
		}
		select {
		case <-s.ctx.Done():
			s.fatal(t, "time is over, waiting for "+what)
		case err := <-s.drove:
			s.fatal(t, fmt.Sprintf("the driver has ended: %v", err))
		case <-tick.C:
		}
	}
}

// supervise replaces processes that have ended by themselves. That happens only to those that begin while the store cannot
// be reached.
func (s *system) supervise(t *testing.T) {
	t.Helper()
	for _, v := range s.replicas {
		if v.process == nil {
			continue
		}
		select {
		case <-v.ended:
		default:
			continue
		}
		t.Logf("ended by itself: %v, %v", v.err, v.process)
		s.fell++
		s.start(t, v)
	}
}

// fatal ends the test and tells how things stand.
func (s *system) fatal(t *testing.T, what string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), 5*time.Second)
	defer cancel()
	groups, err := s.p.Bus().Groups(ctx)
	for _, g := range groups {
		t.Logf("group %s %s %s: lag %d, parked %d, members %v, %+v", g.Name, g.State, g.Reason, g.Lag, g.ParkedKeys, g.Members, g.Partitions)
	}
	for _, v := range s.replicas {
		t.Log(v.process)
	}
	t.Fatalf("%s (%v)", what, err)
}

// command runs a command on the store.
func (s *system) command(t *testing.T, args ...string) string {
	t.Helper()
	return carebusOK(t, append(append(args, "--store", s.rung.whole), s.rung.flags...)...)
}

// felt is for how long a harm of a kind was felt, each time it was done: until the first of the partitions that it has hit
// went on, and until the last did.
type felt struct {
	what        string
	first, last []time.Duration
}

func (f *felt) String() string {
	if len(f.last) == 0 {
		return f.what + ": never felt"
	}
	of := func(all []time.Duration) string {
		all = slices.Sorted(slices.Values(all))
		return fmt.Sprintf("median %v, at most %v", all[len(all)/2].Round(time.Millisecond), all[len(all)-1].Round(time.Millisecond))
	}
	return fmt.Sprintf("%s %d times; until the first of its partitions went on: %s; until the last did: %s", f.what, len(f.last), of(f.first), of(f.last))
}

// ledger is a hook that remembers what was acknowledged.
type ledger struct {
	mu       sync.Mutex
	receipts map[string]eventstore.Receipt
}

func newLedger() *ledger { return &ledger{receipts: map[string]eventstore.Receipt{}} }

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.receipts)
}

func (l *ledger) OnAppend(ctx context.Context, _ []event.Event, _ bool) (context.Context, func([]eventstore.Receipt, error)) {
	return ctx, func(receipts []eventstore.Receipt, err error) {
		if err != nil {
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, r := range receipts {
			l.receipts[r.EventID] = r
		}
	}
}

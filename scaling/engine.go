package scaling

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// engine is a discrete-event simulation: a clock that jumps from one thing that happens to the next. It is deterministic:
// what is due at the same moment happens in the order in which it was planned.
type engine struct {
	now    time.Duration
	agenda agenda
	count  int
	random *rand.Rand
}

type due struct {
	at    time.Duration
	order int
	do    func()
}

type agenda []due

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].order < a[j].order
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)   { *a = append(*a, x.(due)) }
func (a *agenda) Pop() any {
	old := *a
	last := old[len(old)-1]
	old[len(old)-1] = due{}
	*a = old[:len(old)-1]
	return last
}

func newEngine(seed uint64) *engine { return &engine{random: rand.New(rand.NewPCG(seed, 0))} }

// after plans something for a moment to come.
func (e *engine) after(d time.Duration, do func()) {
	e.count++
	heap.Push(&e.agenda, due{e.now + d, e.count, do})
}

// run lets time go by until end, or until nothing is planned.
func (e *engine) run(end time.Duration) {
	for len(e.agenda) > 0 && e.agenda[0].at <= end {
		next := heap.Pop(&e.agenda).(due)
		e.now = next.at
		next.do()
	}
	e.now = end
}

// exponential is a random time with a mean.
func (e *engine) exponential(mean time.Duration) time.Duration {
	return time.Duration(e.random.ExpFloat64() * float64(mean))
}

// station has some servers alike, which its users share: who has had least of them is next. Within a user it is first come,
// first served. With a slice, who takes longer than that goes to the end of its user's queue after it. So an operating
// system shares processors between processes, and a process its own share between what it has to do.
type station struct {
	*user // the first
	e     *engine
	free  int
	all   int
	slice time.Duration
	users []*user
	busy  time.Duration // of all servers together
}

type user struct {
	s       *station
	queue   []job
	head    int
	running int
	had     time.Duration
}

type job struct {
	takes time.Duration
	then  func()
}

func newStation(e *engine, servers int, slice time.Duration) *station {
	s := &station{e: e, free: servers, all: servers, slice: slice}
	s.user = s.another()
	return s
}

// another is one more user.
func (s *station) another() *user {
	u := &user{s: s}
	s.users = append(s.users, u)
	return u
}

func (u *user) waits() bool { return u.head < len(u.queue) }

// use takes a server for a time, when it is this job's turn, and goes on then.
func (u *user) use(takes time.Duration, then func()) {
	if !u.waits() && u.running == 0 { // who has done without for a while has no claim for it
		least := time.Duration(-1)
		for _, o := range u.s.users {
			if (o.waits() || o.running > 0) && (least < 0 || o.had < least) {
				least = o.had
			}
		}
		u.had = max(u.had, least)
	}
	u.queue = append(u.queue, job{takes, then})
	u.s.serve()
}

func (s *station) serve() {
	for s.free > 0 {
		var u *user
		for _, o := range s.users {
			if o.waits() && (u == nil || o.had < u.had) {
				u = o
			}
		}
		if u == nil {
			return
		}
		j := u.queue[u.head]
		u.queue[u.head] = job{}
		if u.head++; u.head > 1024 && 2*u.head > len(u.queue) {
			u.queue, u.head = append([]job{}, u.queue[u.head:]...), 0
		}
		s.free--
		takes := j.takes
		if s.slice > 0 {
			takes = min(takes, s.slice)
		}
		j.takes -= takes
		u.had += takes
		u.running++
		s.busy += takes
		s.e.after(takes, func() {
			s.free++
			u.running--
			if j.takes > 0 {
				u.queue = append(u.queue, j)
			} else {
				j.then()
			}
			s.serve()
		})
	}
}

// load is how much of the servers' time was used.
func (s *station) load() float64 {
	if s.e.now == 0 {
		return 0
	}
	return min(1, float64(s.busy)/float64(s.e.now)/float64(s.all))
}

// lock is held by one at a time; who waits gets it in the order of asking.
type lock struct {
	e     *engine
	held  bool
	queue []func()
	since time.Duration
	busy  time.Duration
}

// take goes on when the lock is the caller's, who must call release.
func (l *lock) take(then func()) {
	if l.held {
		l.queue = append(l.queue, then)
		return
	}
	l.held, l.since = true, l.e.now
	then()
}

func (l *lock) release() {
	l.busy += l.e.now - l.since
	l.held = false
	if len(l.queue) > 0 {
		next := l.queue[0]
		l.queue = l.queue[1:]
		l.take(next)
	}
}

func (l *lock) load() float64 {
	busy := l.busy
	if l.held {
		busy += l.e.now - l.since
	}
	if l.e.now == 0 {
		return 0
	}
	return float64(busy) / float64(l.e.now)
}

// batcher serves all that wait, up to a bound, at once: a process's sequencer.
type batcher struct {
	most    int
	serve   func() // calls take, and done when what was taken is served
	waiting []unit
	taken   []unit
	busy    bool
	batches int
	units   int
}

// unit is what waits for a commit: events to be stored, or events that were handled.
type unit struct {
	stored, handled int
	done            func()
}

func (b *batcher) add(u unit) {
	b.waiting = append(b.waiting, u)
	b.next()
}

func (b *batcher) next() {
	if b.busy || len(b.waiting) == 0 {
		return
	}
	b.busy = true
	b.serve()
}

// take returns all that wait at this moment.
func (b *batcher) take() []unit {
	n := min(len(b.waiting), b.most)
	b.taken = append([]unit{}, b.waiting[:n]...)
	b.waiting = append([]unit{}, b.waiting[n:]...)
	b.batches++
	b.units += n
	return b.taken
}

func (b *batcher) done() {
	taken := b.taken
	b.taken, b.busy = nil, false
	for _, u := range taken {
		u.done()
	}
	b.next()
}

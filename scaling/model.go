package scaling

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Costs are what a deployment's parts take, each as measured on one machine. Times are of one processor.
type Costs struct {
	// Publish is what a publisher's process does for one event: validate, hash, compress, answer.
	Publish time.Duration
	// Group is what a commit takes for being one, under the lock, without the disk: round trips, begin and commit.
	Group time.Duration
	// Row is what the server does to insert one event, with its indexes, under the lock.
	Row time.Duration
	// Ends is what it takes, under the lock, to read where the partitions end, when another process has stored something.
	Ends time.Duration
	// Encode is what a process does under the lock for one event of its own: its place, its hash, its part of the statement.
	Encode time.Duration
	// Turn is how long the server and a process that holds the lock take to hand over to each other, once in a commit.
	Turn time.Duration
	// News is what a commit costs every other process, which is told of it; no lock.
	News time.Duration
	// Sync is how long the disk takes to make a commit durable.
	Sync time.Duration
	// Read is what reading and decoding one event takes for a consumer; no lock.
	Read time.Duration
	// Handle is what a handler with one statement takes for one event in its transaction, under the lock.
	Handle time.Duration
	// Relay is what copying one event to Kafka takes for the relay's process; no lock.
	Relay time.Duration
	// Broker is what a broker does for one record, with its share of the copies on others.
	Broker time.Duration
	// Ack is how long a batch of records takes to be acknowledged by all in-sync replicas, beside the work for its records.
	Ack time.Duration
	// RawRow is what the raw insert's own process does for one row: the baseline beside which the others were measured.
	RawRow time.Duration
}

// Load is what is asked of one database, with the processes around it.
type Load struct {
	// EventsPerSecond arrive at random over all processes. 0: closed, Publishers publish again as soon as they are answered.
	EventsPerSecond float64
	// Publishers in each process of a closed load, each with Batch events at a time.
	Publishers int
	// Batch is how many events are published at once. Default 1.
	Batch int
	// Processes that publish and handle. Default 1.
	Processes int
	// Handlers are how many groups handle each event with one statement in the database.
	Handlers int
	// Relayed says that each event is copied to Kafka.
	// Groups handle it when it is there, not before.
	Relayed bool
	// Cores of the machine on which server and processes are together; with Apart, of the server, and of each process.
	Cores int
	Apart bool
	// Raw is the baseline instead of carebus: no validation.
	Raw bool
	// Time to simulate. Default 10 s, of which the first fifth is not counted.
	Time time.Duration
	// Seed of the arrivals.
	Seed uint64
}

// Result is what the simulation has found.
type Result struct {
	PerSecond     float64       // events stored
	Commits       float64       // per second
	Median, P99   time.Duration // from publishing to the acknowledgement
	Handled       float64       // per second, by all groups together
	Behind        int           // events stored and not handled by all groups, at the end
	Lock          float64       // share of the time in which somebody held the writer's lock
	Disk          float64       // share in which the disk synced
	Server        float64       // share of the server's processors that was used
	Client        float64       // the same of the processes'; with one machine for all, that of the server
	Relay         float64       // share in which the relay worked or waited for an acknowledgement
	Broker        float64       // share in which the broker worked for this database
	Reach         time.Duration // median from the commit until a relayed event is acknowledged by Kafka
	Bottleneck    string        // what is used most
	Unanswered    int           // events that wait for their acknowledgement at the end: many where more comes than is stored
	unacknowledge time.Duration // how long the oldest of them waits
}

// Saturated says that the deployment does not keep up with what comes.
func (r *Result) Saturated() bool {
	return r.unacknowledge > time.Second || float64(r.Behind) > max(r.PerSecond, 1000) // a second behind
}

const (
	slice  = time.Millisecond // of a processor, before others come in between
	groups = 1024             // most units that share a commit
	batch  = 500              // most events that a handler's transaction takes at once

	forwarded = 4096 // most records of the relay that are on their way at once
)

// model is one database and its processes, in virtual time.
type model struct {
	*engine
	c    Costs
	l    Load
	lock *lock
	disk *station
	cpu  *station // of the server
	each []*process

	stored   int // in all
	counted  int // since the beginning of counting
	commits  int
	handled  int
	begin    time.Duration
	times    []time.Duration
	pending  map[int]pending
	arrivals int

	broker  *station
	relay   *user // its process's processors
	relayed int   // events that are in Kafka
	way     bool  // a batch is on its way
	waySum  time.Duration
	fresh   []landing // what is stored and not in Kafka
	reach   []time.Duration
}

// landing is a commit on its way to Kafka.
type landing struct {
	at   time.Duration
	upTo int
}

type pending struct {
	since time.Duration
	n     int
}

// process is one of the service.
type process struct {
	m     *model
	cpu   *user
	seq   *batcher
	seen  int // of the log, by its writer
	reads []*reader
}

// reader is a group's share in a process.
type reader struct {
	p    *process
	at   int // events of its share that are handled
	busy bool
}

// Simulate runs a load in virtual time. It is deterministic: the same arguments give the same result.
func Simulate(c Costs, l Load) Result {
	l.Processes, l.Batch, l.Cores = max(l.Processes, 1), max(l.Batch, 1), max(l.Cores, 1)
	l.Time = cmp.Or(l.Time, 10*time.Second)
	m := &model{engine: newEngine(l.Seed), c: c, l: l, begin: l.Time / 5, pending: map[int]pending{}}
	m.lock, m.disk, m.cpu = &lock{e: m.engine}, newStation(m.engine, 1, 0), newStation(m.engine, l.Cores, slice)
	processors := m.cpu.another
	if l.Apart {
		processors = func() *user { return newStation(m.engine, l.Cores, slice).user }
	}
	m.broker, m.relay = newStation(m.engine, 1, 0), processors()
	for range l.Processes {
		p := &process{m: m, cpu: processors()}
		p.seq = &batcher{most: groups, serve: p.commit}
		for range l.Handlers {
			p.reads = append(p.reads, &reader{p: p})
		}
		m.each = append(m.each, p)
	}
	m.start()
	m.run(l.Time)
	return m.result()
}

// start lets the first events come.
func (m *model) start() {
	if m.l.EventsPerSecond == 0 {
		for _, p := range m.each {
			for range max(m.l.Publishers, 1) {
				p.again()
			}
		}
		return
	}
	between := time.Duration(float64(time.Second) * float64(m.l.Batch) / m.l.EventsPerSecond)
	var arrive func()
	arrive = func() {
		m.each[m.random.IntN(len(m.each))].publish(func() {})
		m.after(m.exponential(between), arrive)
	}
	m.after(m.exponential(between), arrive)
}

func (p *process) again() { p.publish(p.again) }

// publish brings a batch to the sequencer and answers when it is durable.
func (p *process) publish(then func()) {
	m, n := p.m, p.m.l.Batch
	at, id := m.now, m.arrivals
	m.arrivals++
	m.pending[id] = pending{at, n}
	work := time.Duration(n) * m.c.Publish
	if m.l.Raw {
		work = time.Duration(n) * m.c.RawRow
	}
	p.cpu.use(work, func() {
		p.seq.add(unit{stored: n, done: func() {
			delete(m.pending, id)
			if m.now >= m.begin {
				m.counted += n
				m.times = append(m.times, m.now-at)
			}
			then()
		}})
	})
}

// commit is a group, of all that have come until the lock is there: what others have stored, the rows and handlers, the disk.
func (p *process) commit() {
	m := p.m
	m.lock.take(func() {
		stored, handled := 0, 0
		for _, u := range p.seq.take() {
			stored, handled = stored+u.stored, handled+u.handled
		}
		work := m.c.Group + time.Duration(stored)*m.c.Row + time.Duration(handled)*m.c.Handle
		turn, encode := time.Duration(0), time.Duration(0)
		if !m.l.Raw {
			turn, encode = m.c.Turn, time.Duration(stored)*m.c.Encode
			if m.stored > p.seen && stored > 0 {
				work += m.c.Ends
			}
		}
		serve := func() {
			m.cpu.use(work, func() {
				m.disk.use(m.c.Sync, func() {
					m.stored += stored
					p.seen = m.stored
					if m.now >= m.begin {
						m.commits++
						m.handled += handled
					}
					m.lock.release()
					p.seq.done()
					if m.l.Relayed && stored > 0 {
						m.fresh = append(m.fresh, landing{m.now, m.stored})
						m.forward()
					} else {
						m.news()
					}
					if !m.l.Raw {
						m.tell(p)
					}
				})
			})
		}
		m.after(turn, func() { p.cpu.use(encode, serve) })
	})
}

// tell makes the other processes look.
func (m *model) tell(by *process) {
	for _, p := range m.each {
		if p != by {
			p.cpu.use(m.c.News, func() {})
		}
	}
}

// forward is the relay: what is stored goes to Kafka, a batch at a time, in order.
func (m *model) forward() {
	n := min(m.stored-m.relayed, forwarded)
	if m.way || n == 0 {
		return
	}
	m.way = true
	from := m.now
	m.relay.use(time.Duration(n)*m.c.Relay, func() {
		m.broker.use(time.Duration(n)*m.c.Broker, func() {
			m.after(m.c.Ack, func() {
				m.relayed += n
				for len(m.fresh) > 0 && m.fresh[0].upTo <= m.relayed {
					m.reach = append(m.reach, m.now-m.fresh[0].at)
					m.fresh = m.fresh[1:]
				}
				m.way = false
				m.waySum += m.now - from
				m.news()
				m.forward()
			})
		})
	})
}

// there is how much of the log handlers can see.
func (m *model) there() int {
	if m.l.Relayed {
		return m.relayed
	}
	return m.stored
}

// news wakes the readers: each process has its share of what is stored.
func (m *model) news() {
	for _, p := range m.each {
		for _, r := range p.reads {
			r.wake()
		}
	}
}

func (r *reader) wake() {
	m := r.p.m
	share := m.there()/len(m.each) - r.at
	if r.busy || share <= 0 {
		return
	}
	n := min(share, batch)
	r.busy = true
	r.p.cpu.use(time.Duration(n)*m.c.Read, func() {
		r.p.seq.add(unit{handled: n, done: func() {
			r.at += n
			r.busy = false
			r.wake()
		}})
	})
}

func (m *model) result() Result {
	counted := (m.l.Time - m.begin).Seconds()
	r := Result{
		PerSecond: float64(m.counted) / counted, Commits: float64(m.commits) / counted, Handled: float64(m.handled) / counted,
		Lock: m.lock.load(), Disk: m.disk.load(), Server: m.cpu.load(),
	}
	slices.Sort(m.times)
	slices.Sort(m.reach)
	if n := len(m.times); n > 0 {
		r.Median, r.P99 = m.times[n/2], m.times[n*99/100]
	}
	if n := len(m.reach); n > 0 {
		r.Reach = m.reach[n/2]
	}
	r.Relay, r.Broker = m.waySum.Seconds()/m.l.Time.Seconds(), m.broker.load()
	r.Client = r.Server
	if m.l.Apart {
		r.Client = 0
		for _, p := range m.each {
			r.Client = max(r.Client, p.cpu.s.load())
		}
	}
	for _, p := range m.pending {
		r.Unanswered += p.n
		r.unacknowledge = max(r.unacknowledge, m.now-p.since)
	}
	for _, p := range m.each {
		for _, q := range p.reads {
			r.Behind += max(0, m.stored/len(m.each)-q.at)
		}
	}
	most := 0.0
	for _, part := range []struct {
		name string
		load float64
	}{{"disk", r.Disk}, {"processors of the server", r.Server}, {"processors of the services", r.Client}, {"relay", r.Relay}, {"broker", r.Broker}} {
		if part.load > most {
			most, r.Bottleneck = part.load, part.name
		}
	}
	// Who holds the lock waits for the disk or computes: it is the lock that others wait for.
	if r.Lock > most {
		r.Bottleneck = "writer's lock"
	}
	return r
}

// String is one line.
func (r Result) String() string {
	return fmt.Sprintf("%.0f events/s, %.0f commits/s, median %v, p99 %v, lock %.0f %%, disk %.0f %%, server %.0f %%, services %.0f %%, most used: %s",
		r.PerSecond, r.Commits, r.Median.Round(100*time.Microsecond), r.P99.Round(100*time.Microsecond), 100*r.Lock, 100*r.Disk, 100*r.Server, 100*r.Client, r.Bottleneck)
}

// Faster returns the costs on a machine and disk that are so many times as fast.
func (c Costs) Faster(times float64) Costs {
	for _, d := range []*time.Duration{&c.Publish, &c.Group, &c.Row, &c.Ends, &c.Encode, &c.Turn, &c.News, &c.Sync, &c.Read, &c.Handle, &c.Relay, &c.Broker, &c.Ack, &c.RawRow} {
		*d = time.Duration(float64(*d) / times)
	}
	return c
}

// RawInserts is how many rows a second the baseline inserts, 256 with each statement, from one process on cores.
func (c Costs) RawInserts(cores int) float64 {
	return Simulate(c, Load{Raw: true, Publishers: 1, Batch: 256, Cores: cores, Time: 4 * time.Second}).PerSecond
}

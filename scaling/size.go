package scaling

import (
	"cmp"
	"math"
	"time"
)

// Demand is what a deployment has to carry.
type Demand struct {
	EventsPerSecond float64 `json:"eventsPerSecond"` // stored, at the peak, by all services together
	Bytes           int     `json:"bytes"`           // of a payload. Default 500
	Services        int     `json:"services"`        // that may have a database each; load is taken to be alike. Default 1
	Handlers        int     `json:"handlers"`        // groups that handle an event, with one statement each
	Processes       int     `json:"processes"`       // per database. Default 2
	Days            int     `json:"days"`            // that events are kept where they are asked for fast. Default 30
	Average         float64 `json:"average"`         // load of a day as a share of the peak. Default 0.5
}

// Plan is what a demand needs.
type Plan struct {
	Rung         string  `json:"rung"`
	Capacity     float64 `json:"eventsPerDatabase"` // a second, that one database takes with room to spare
	Databases    int     `json:"databases"`
	PerService   int     `json:"databasesPerService"` // more than 1: sharded by key
	Partitions   int     `json:"partitions"`          // of a service's topic, or store
	Brokers      int     `json:"brokers"`             // 0: no Kafka is needed
	BytesPerDay  float64 `json:"bytesPerDay"`         // in all databases
	KafkaPerDay  float64 `json:"kafkaBytesPerDay"`    // with its copies
	Bytes        float64 `json:"bytes"`               // in all databases, for the days that are kept
	PerDatabase  float64 `json:"eventsEach"`          // a second, that one database gets
	OneDatabase  Result  `json:"oneDatabase"`         // what the simulation says of it, at the peak
	Used         float64 `json:"used"`                // share of what that database can take
	FirstToBreak string  `json:"firstToBreak"`
}

const (
	// spare: a database is planned to be used by so much of what it can, so that the waits stay short, a catch-up after a
	// pause has room, and a machine somewhat slower than the measured one still does.
	spare = 0.6
	// perEvent is what an event takes in a database beside its payload: measured with a million events on PostgreSQL
	// (790 MB of table and 300 MB of indexes with payloads of 540 bytes).
	perEvent = 550
	// perRecord is what a record takes in Kafka beside its payload, uncompressed: the envelope and the framing.
	perRecord = 450
	copies    = 3
	// brokerBytes a second that a broker is planned for, in and to the other replicas: half of a 1 Gbit/s link.
	brokerBytes = 60e6
	minBrokers  = 3
	part        = 12 // partitions come in dozens, which 2, 3, 4 and 6 processes share evenly
)

// Capacity is how many events a second one database takes, with handlers and processes as in l, before it saturates. The
// other fields of l are kept.
func Capacity(c Costs, l Load) float64 {
	low, high := 0.0, 1e6
	for range 18 {
		l.EventsPerSecond = (low + high) / 2
		// Enough events to tell, few enough to be done soon.
		l.Time = min(10*time.Second, max(2*time.Second, time.Duration(40_000/l.EventsPerSecond*float64(time.Second))))
		if bound := float64(time.Second) / float64(max(c.Row+time.Duration(l.Handlers)*c.Handle, 1)); l.EventsPerSecond > 1.2*bound {
			high = l.EventsPerSecond // no need to simulate
			continue
		}
		if r := Simulate(c, l); r.Saturated() || r.PerSecond < 0.95*l.EventsPerSecond {
			high = l.EventsPerSecond
		} else {
			low = l.EventsPerSecond
		}
		if high-low < 0.01*high {
			break
		}
	}
	return low
}

// Size plans a deployment. broker is how many records a second one broker was measured to take.
func Size(c Costs, d Demand, broker float64) Plan {
	d.Bytes, d.Services, d.Processes = cmp.Or(d.Bytes, 500), max(d.Services, 1), cmp.Or(d.Processes, 2)
	d.Days, d.Average = cmp.Or(d.Days, 30), cmp.Or(d.Average, 0.5)
	one := Load{Handlers: d.Handlers, Processes: d.Processes, Cores: 8, Apart: true}
	p := Plan{}
	p.Capacity = spare * Capacity(c, one)
	need := int(math.Ceil(d.EventsPerSecond / p.Capacity))
	switch {
	case need <= 1:
		p.Rung, p.Databases, p.PerService = "one PostgreSQL database", 1, 1
		if d.Processes == 1 && d.EventsPerSecond <= p.Capacity/2 {
			p.Rung = "one file (SQLite), or one PostgreSQL database"
		}
	case need <= d.Services:
		p.Rung, p.PerService = "a PostgreSQL database for each service, or a few for some of them, Kafka between", 1
		p.Databases = need
	default:
		p.Rung = "several PostgreSQL databases for each service, by key, Kafka between"
		p.PerService = int(math.Ceil(float64(need) / float64(d.Services)))
		p.Databases = p.PerService * d.Services
	}
	p.PerDatabase = d.EventsPerSecond / float64(p.Databases)
	p.Used = spare * p.PerDatabase / p.Capacity
	one.EventsPerSecond, one.Relayed, one.Time = p.PerDatabase, p.Databases > 1, 5*time.Second
	p.OneDatabase = Simulate(c, one)
	p.FirstToBreak = p.OneDatabase.Bottleneck

	day := d.EventsPerSecond * d.Average * 86400
	p.BytesPerDay = day * float64(d.Bytes+perEvent)
	p.Bytes = p.BytesPerDay * float64(d.Days)

	// A partition is handled by one worker, one batch after the other.
	unit := (batch*(c.Read+c.Handle) + c.Group + c.Sync).Seconds()
	perPartition := spare * batch / unit
	topics := float64(min(p.Databases, d.Services))
	p.Partitions = part * max(1, int(math.Ceil(d.EventsPerSecond/topics/perPartition/part)))
	if p.Databases > 1 {
		record := float64(d.Bytes + perRecord)
		byBytes := d.EventsPerSecond * record * float64(copies+d.Handlers) / brokerBytes
		byRecords := d.EventsPerSecond * copies / (spare * broker)
		p.Brokers = max(minBrokers, int(math.Ceil(max(byBytes, byRecords))))
		p.KafkaPerDay = day * record * copies
	}
	return p
}

package bridge_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/bridge"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// TestTwoOfOneName: two processes copy in under one name. One waits; when the other goes, or a person moves the bridge, no
// event is doubled and no record is skipped.
func TestTwoOfOneName(t *testing.T) {
	eachBroker(t, func(t *testing.T, k *broker) {
		topic := name("two")
		k.createTopic(t, topic, 6)
		p := openNew(t)
		b1, b2 := newBridge(t, p, "same", k.options()), newBridge(t, p, "same", k.options())
		o := bridge.In{Topics: []string{topic}, BatchRecords: 10}
		c := k.client(t)
		stop := feed(t, func(n int) error {
			records := make([]*kgo.Record, 20)
			for i := range records {
				records[i] = &kgo.Record{Topic: topic, Key: fmt.Append(nil, "P", i), Value: enrolled(fmt.Sprint("P", i), n).AppendJSON(nil)}
			}
			return c.ProduceSync(context.Background(), records...).FirstErr()
		})
		stop1 := in(t, b1, o)
		eventually(t, p.Store(), func() bool { return b1.Status().Stored > 100 })
		stop2 := in(t, b2, o)
		seen := b1.Status().Stored
		eventually(t, p.Store(), func() bool { return b1.Status().Stored > seen+200 })
		if s := b2.Status(); s.Stored+s.Duplicates != 0 {
			t.Errorf("the second one copied in beside the first: %+v", s)
		}
		if err := stop1(); err != nil {
			t.Fatal(err)
		}
		eventually(t, p.Store(), func() bool { return b2.Status().Stored > 100 })
		// A person moves the bridge back, under way: it is fenced, begins anew there, and finds what it reads in the store.
		act := bus.Act{Actor: "maria", Reason: "to see"}
		for part := range int32(6) {
			if err := b2.Seek(t.Context(), topic, part, bridge.Beginning, act); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, p.Store(), func() bool { return b2.Status().Fenced > 0 && b2.Status().Duplicates > 100 })
		n := stop()
		eventually(t, p.Store(), func() bool { return count(t, p) == 20*n })
		if err := stop2(); err != nil {
			t.Fatal(err)
		}
		inOrder(t, "store", storedIDs(t, p.Store()))
		types, err := p.Store().Types(t.Context())
		if err != nil || types["platform.bridge.sought"] != 6 {
			t.Errorf("%v, %v", types, err)
		}
	})
}

// TestRivals: of two sessions that both believe to hold the lease only one commits. The lease is taken from its holder,
// unseen by it, again and again.
func TestRivals(t *testing.T) {
	k := fake(t)
	topic := name("rivals")
	k.createTopic(t, topic, 6)
	records := make([]*kgo.Record, 0, 1200)
	for n := range 60 {
		for i := range 20 {
			records = append(records, &kgo.Record{Topic: topic, Key: fmt.Append(nil, "P", i), Value: enrolled(fmt.Sprint("P", i), n).AppendJSON(nil)})
		}
	}
	k.produce(t, records...)
	p := openNew(t)
	o := k.options()
	o.Lease = 100 * time.Millisecond
	b1, b2 := newBridge(t, p, "rivals", o), newBridge(t, p, "rivals", o)
	in(t, b1, bridge.In{Topics: []string{topic}, BatchRecords: 20})
	in(t, b2, bridge.In{Topics: []string{topic}, BatchRecords: 20})
	for stored := 0; stored < 1200; {
		eventually(t, p.Store(), func() bool { n := count(t, p); return n == 1200 || n >= stored+100 })
		stored = count(t, p)
		err := p.Store().Update(t.Context(), func(tx *eventstore.Tx) error {
			_, err := tx.ExecContext(t.Context(), `UPDATE carebus_bridge_leases SET owner = 'a process that died', expires_at = 0`)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, p.Store(), func() bool { return b1.Status().Fenced+b2.Status().Fenced > 0 }) // at the next sign of life at the latest
	s1, s2 := b1.Status(), b2.Status()
	if s1.Duplicates+s2.Duplicates != 0 || s1.Stored+s2.Stored != 1200 {
		t.Errorf("a record was settled twice: %+v %+v", s1, s2)
	}
	inOrder(t, "store", storedIDs(t, p.Store()))
}

// TestBrokerAway: Kafka goes away and comes back; both directions wait, nothing is parked, and all goes on.
func TestBrokerAway(t *testing.T) {
	eachBroker(t, func(t *testing.T, k *broker) {
		if k.stop == nil {
			t.Skip("needs CAREBUS_TEST_KAFKA_DIR, to stop and start the broker")
		}
		topic := name("away")
		k.createTopic(t, topic, 6)
		from, to := openNew(t), openNew(t)
		b1, b2 := newBridge(t, from, "away", k.options()), newBridge(t, to, "away", k.options())
		out(t, from, b1, bridge.Out{Patterns: []string{"patient.**"}, Topic: bridge.Topic(topic), Timeout: 2 * time.Second})
		in(t, b2, bridge.In{Topics: []string{topic}})
		publish(t, from, 20, 5)
		eventually(t, to.Store(), func() bool { return b2.Status().Stored == 100 })
		k.stop(t)
		for i := range 20 {
			for n := 5; n < 10; n++ {
				if _, err := from.Publish(t.Context(), enrolled(fmt.Sprint("P", i), n)); err != nil {
					t.Fatal(err)
				}
			}
		}
		eventually(t, from.Store(), func() bool { return b1.Status().Failed > 0 }) // a try has come to its end
		k.start(t)
		eventually(t, to.Store(), func() bool { return count(t, to) == 200 })
		inOrder(t, "store", storedIDs(t, to.Store()))
		inOrder(t, "topic", recordIDs(k.read(t, topic)))
		if l, err := from.Bus().DeadLetters(t.Context(), bus.Filter{}, 10); err != nil || len(l) != 0 {
			t.Errorf("parked: %v, %v", l, err)
		}
	})
}

// TestStopWhileAway: a bridge ends at once although Kafka is away.
func TestStopWhileAway(t *testing.T) {
	k := fake(t)
	p := openNew(t)
	b := newBridge(t, p, "stop", k.options())
	stopOut := out(t, p, b, bridge.Out{Patterns: []string{"**"}, Topic: bridge.Topic(name("stop"))})
	publish(t, p, 5, 1)
	if err := p.Bus().Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.stop(t)
	publish(t, p, 5, 2)
	stopIn := in(t, b, bridge.In{Topics: []string{"elsewhere"}})
	eventually(t, p.Store(), func() bool { return b.Status().Retries > 0 })
	began := time.Now()
	if err := stopIn(); err != nil {
		t.Error(err)
	}
	if err := stopOut(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the end took %v", took)
	}
	k.start(t)
}

// TestTooLarge: an event that the topic does not take parks its key, and no other; when the topic's limit is raised a
// redrive copies it, in order.
func TestTooLarge(t *testing.T) {
	eachBroker(t, func(t *testing.T, k *broker) {
		topic := name("large")
		k.createTopic(t, topic, 1, "max.message.bytes", "20000")
		p := openNew(t)
		large := enrolled("P0", 1)
		large.Payload = fmt.Appendf(nil, `{"patientId":"P0","enrollmentId":"1","program":{"name":%q}}`, strings.Repeat("a", 50_000))
		if _, err := p.PublishBatch(t.Context(), []event.Event{enrolled("P0", 0), large, enrolled("P0", 2), enrolled("P1", 0), enrolled("P1", 1)}); err != nil {
			t.Fatal(err)
		}
		b := newBridge(t, p, "large", k.options())
		out(t, p, b, bridge.Out{Patterns: []string{"patient.**"}, Topic: bridge.Topic(topic)})
		if err := p.Bus().Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
		l, err := p.Bus().DeadLetters(t.Context(), bus.Filter{}, 10)
		if err != nil || len(l) != 1 || l[0].Key != "P0" || l[0].Events != 2 || !strings.Contains(l[0].Error, "max.message.bytes") {
			t.Fatalf("%+v, %v", l, err)
		}
		if ids := recordIDs(k.read(t, topic)); len(ids) != 3 {
			t.Errorf("in the topic: %v", ids)
		}
		size := "200000"
		if _, err := kadm.NewClient(k.client(t)).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &size}}, topic); err != nil {
			t.Fatal(err)
		}
		eventually(t, p.Store(), func() bool { // the broker takes a moment to heed the new limit
			l, err := p.Bus().DeadLetters(t.Context(), bus.Filter{}, 10)
			if err == nil && len(l) > 0 && l[0].State != "retry" {
				_, err = p.Bus().Redrive(t.Context(), bus.Redrive{Act: bus.Act{Reason: "the limit was raised"}})
			}
			return err == nil && len(l) == 0
		})
		if got := inOrder(t, "topic", recordIDs(k.read(t, topic))); got["P0"] != 3 || got["P1"] != 2 {
			t.Errorf("in the topic: %v", got)
		}
	})
}

// TestManyAndLarge: a topic much longer, and with records much larger, than one fetch takes.
func TestManyAndLarge(t *testing.T) {
	eachBroker(t, func(t *testing.T, k *broker) {
		prefix := name("many")
		from, to := openNew(t), openNew(t)
		publish(t, from, 500, 20)
		for i := range 8 {
			e := enrolled("large", i)
			e.Payload = fmt.Appendf(nil, `{"patientId":"large","enrollmentId":"%d","program":{"name":%q}}`, i, strings.Repeat("ab", 500_000))
			if _, err := from.Publish(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		b1, b2 := newBridge(t, from, "many", k.options()), newBridge(t, to, "many", k.options())
		out(t, from, b1, bridge.Out{Patterns: []string{"patient.**"}, Topic: bridge.Topic(prefix)})
		if err := from.Bus().Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
		in(t, b2, bridge.In{Topics: []string{prefix}, BatchBytes: 1 << 20})
		eventually(t, to.Store(), func() bool { return b2.Status().Stored == 10_008 })
		got := inOrder(t, "store", storedIDs(t, to.Store()))
		if len(got) != 501 || got["large"] != 8 {
			t.Errorf("%d keys, %d large events", len(got), got["large"])
		}
	})
}

// TestTopicMissing: what a missing topic means, each way.
func TestTopicMissing(t *testing.T) {
	eachBroker(t, func(t *testing.T, k *broker) {
		p := openNew(t)
		o := k.options()
		o.CreateTopics = false
		topic := name("missing")
		b := newBridge(t, p, "missing", o)
		if err := b.In(t.Context(), bridge.In{Topics: []string{topic}}); !isErr(err, bridge.ErrNoTopic) || !strings.Contains(err.Error(), topic) {
			t.Fatalf("in: %v", err)
		}
		// Out waits for the topic, and goes on when somebody has created it.
		publish(t, p, 3, 1)
		out(t, p, b, bridge.Out{Patterns: []string{"**"}, Topic: bridge.Topic(topic)})
		eventually(t, p.Store(), func() bool { return b.Status().Failed > 0 })
		k.createTopic(t, topic, 3)
		if err := p.Bus().Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(k.read(t, topic)); n != 3 {
			t.Errorf("%d records", n)
		}
		// Created by the bridge that reads it.
		other := newBridge(t, openNew(t), "creates", k.options())
		fresh := name("created")
		in(t, other, bridge.In{Topics: []string{fresh}})
		admin := kadm.NewClient(k.client(t))
		eventually(t, p.Store(), func() bool {
			found, err := admin.ListTopics(t.Context(), fresh)
			return err == nil && found.Has(fresh) && len(found[fresh].Partitions) == 12
		})
	})
}

// TestNotWhatWasRead: records removed unread, or a topic deleted and created again, end the copying in with an error that
// says so; a person decides with Seek.
func TestNotWhatWasRead(t *testing.T) {
	eachBroker(t, func(t *testing.T, k *broker) {
		topic := name("shaky")
		k.createTopic(t, topic, 1)
		admin := kadm.NewClient(k.client(t))
		p := openNew(t)
		b := newBridge(t, p, "shaky", k.options())
		o := bridge.In{Topics: []string{topic}, Refresh: 100 * time.Millisecond}
		record := func(n int) *kgo.Record {
			return &kgo.Record{Topic: topic, Key: []byte("P"), Value: enrolled("P", n).AppendJSON(nil)}
		}
		for n := range 4 {
			k.produce(t, record(n))
		}
		stop := in(t, b, o)
		eventually(t, p.Store(), func() bool { return b.Status().Stored == 4 })
		if err := stop(); err != nil {
			t.Fatal(err)
		}

		for n := 4; n < 8; n++ {
			k.produce(t, record(n))
		}
		remove := kadm.Offsets{}
		remove.AddOffset(topic, 0, 6, -1)
		if _, err := admin.DeleteRecords(t.Context(), remove); err != nil {
			t.Fatal(err)
		}
		var wrong *bridge.OffsetError
		if err := b.In(t.Context(), o); !asOffset(err, &wrong) || wrong.Next != 4 || wrong.Start != 6 || wrong.Recreated {
			t.Fatalf("%v", err)
		}
		act := bus.Act{Actor: "maria", Reason: "2 records are lost"}
		if err := b.Seek(t.Context(), topic, 0, bridge.Beginning, act); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var ended error
		done := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			defer close(done)
			err := b.In(ctx, o)
			mu.Lock()
			ended = err
			mu.Unlock()
		}()
		eventually(t, p.Store(), func() bool { return b.Status().Stored == 6 })

		// Deleted and created again while the bridge reads it: seen at the next look.
		if _, err := admin.DeleteTopic(t.Context(), topic); err != nil {
			t.Fatal(err)
		}
		eventually(t, p.Store(), func() bool {
			_, err := admin.CreateTopic(t.Context(), 1, -1, nil, topic)
			return err == nil
		})
		eventually(t, p.Store(), func() bool {
			found, err := admin.ListTopics(t.Context(), topic)
			return err == nil && found.Has(topic)
		})
		<-done
		mu.Lock()
		if !asOffset(ended, &wrong) && !isErr(ended, bridge.ErrNoTopic) {
			t.Fatalf("%v", ended)
		}
		mu.Unlock()
		if err := b.In(t.Context(), o); !asOffset(err, &wrong) || !wrong.Recreated || !strings.Contains(err.Error(), "created again") {
			t.Fatalf("%v", err)
		}
		if err := b.Seek(t.Context(), topic, 0, bridge.Beginning, act); err != nil {
			t.Fatal(err)
		}
		k.produce(t, record(8))
		in(t, b, o)
		eventually(t, p.Store(), func() bool { return b.Status().Stored == 7 })
	})
}

// TestLag: Kafka is told how far the bridge has read, for tools that show it.
func TestLag(t *testing.T) {
	eachBroker(t, func(t *testing.T, k *broker) {
		topic, bridgeName := name("lag"), name("lag")
		k.createTopic(t, topic, 1)
		k.produce(t, &kgo.Record{Topic: topic, Value: enrolled("P", 0).AppendJSON(nil)})
		p := openNew(t)
		b := newBridge(t, p, bridgeName, k.options())
		stop := in(t, b, bridge.In{Topics: []string{topic}})
		eventually(t, p.Store(), func() bool { return b.Status().Stored == 1 })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		admin := kadm.NewClient(k.client(t))
		if o, ok := told(t, admin, bridge.Group(bridgeName)).Lookup(topic, 0); !ok || o.At != 1 {
			// The first group of a new broker: it may have been creating its topic of offsets when it was told. A bridge tells
			// again when it next runs.
			k.produce(t, &kgo.Record{Topic: topic, Value: enrolled("P", 1).AppendJSON(nil)})
			stop := in(t, b, bridge.In{Topics: []string{topic}})
			eventually(t, p.Store(), func() bool { return b.Status().Stored == 2 })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if o, ok := told(t, admin, bridge.Group(bridgeName)).Lookup(topic, 0); !ok || o.At != 2 {
				t.Errorf("Kafka was not told")
			}
		}
		positions, err := b.Positions(t.Context())
		if err != nil || len(positions) != 1 || positions[0].Next < 1 {
			t.Errorf("%+v, %v", positions, err)
		}
	})
}

func told(t *testing.T, admin *kadm.Client, group string) kadm.OffsetResponses {
	t.Helper()
	for {
		told, err := admin.FetchOffsets(t.Context(), group)
		switch {
		case isErr(err, kerr.CoordinatorNotAvailable), isErr(err, kerr.CoordinatorLoadInProgress):
			continue
		case err != nil && !isErr(err, kerr.GroupIDNotFound):
			t.Fatal(err)
		}
		return told
	}
}

// TestSettings: wrong ones are refused early, with what is right.
func TestSettings(t *testing.T) {
	p := openNew(t)
	if _, err := bridge.Open(t.Context(), p, "Not a name", nil); err == nil || !strings.Contains(err.Error(), "lower-case") {
		t.Error(err)
	}
	b := newBridge(t, p, "settings", nil)
	ids := func(context.Context, string, string) (int, error) { return 1, nil }
	for want, o := range map[string]bridge.Out{
		"no pattern":         {},
		"pattern":            {Patterns: []string{"a..b"}},
		"format":             {Patterns: []string{"**"}, Format: "xml"},
		"only letters":       {Patterns: []string{"**"}, Topic: "a b"},
		"cloudevents-binary": {Patterns: []string{"**"}, SchemaID: ids},
	} {
		if err := b.Out(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for want, o := range map[string]bridge.In{"no topic": {}, "no name": {Topics: []string{"a/b"}}, "is no name": {Topics: []string{"{domain}"}}} {
		if err := b.In(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	for want, topic := range map[string]bridge.Topic{"care.patient": "care.{domain}", "patient": "{entity}", "x-patient.enrolled": "x-{type}"} {
		if got := topic.Of("patient.enrolled"); got != want {
			t.Errorf("%s: %s", topic, got)
		}
	}
}

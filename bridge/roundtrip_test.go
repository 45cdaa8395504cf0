package bridge_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/bridge"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/confluent"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// TestRoundTrip: store -> Kafka -> another store, every format: the same events, each once, every member of the metadata
// and the payload byte by byte, the same key in the same partition.
func TestRoundTrip(t *testing.T) {
	eachBroker(t, func(t *testing.T, k *broker) {
		for _, tc := range []struct {
			format bridge.Format
			framed bool
		}{{bridge.Native, false}, {bridge.CloudEvents, false}, {bridge.CloudEventsBinary, false}, {bridge.CloudEventsBinary, true}} {
			t.Run(fmt.Sprintf("%s,framed=%v", tc.format, tc.framed), func(t *testing.T) {
				from, to := openNew(t), openNew(t)
				publish(t, from, 40, 10)
				want := events(t, from.Store())
				prefix := name("round")
				o := bridge.Out{Patterns: []string{"patient.**"}, Topic: bridge.Topic(prefix + ".{domain}"), Format: tc.format}
				if tc.framed {
					h, err := confluent.New(from, nil)
					if err != nil {
						t.Fatal(err)
					}
					o.SchemaID = h.ID
				}
				b := newBridge(t, from, "out", k.options())
				out(t, from, b, o)
				in(t, newBridge(t, to, "in", k.options()), bridge.In{Topics: []string{prefix + ".patient"}})
				eventually(t, to.Store(), func() bool { return len(events(t, to.Store())) == len(want) })
				got := events(t, to.Store())
				for id, w := range want {
					g := got[id]
					if g.Metadata != w.Metadata || !bytes.Equal(g.Payload, w.Payload) || g.Partition != w.Partition {
						t.Errorf("event %s\nwas %+v %s\nis  %+v %s", id, w.Metadata, w.Payload, g.Metadata, g.Payload)
					}
				}
				inOrder(t, "store", storedIDs(t, to.Store()))
				records := k.read(t, prefix+".patient")
				for _, r := range records {
					if want := eventstore.PartitionOf(string(r.Key), 12); int(r.Partition) != want {
						t.Errorf("key %s is in partition %d of the topic and %d of the store", r.Key, r.Partition, want)
					}
					checkHeaders(t, tc.format, tc.framed, r)
				}
				if n := len(inOrder(t, "topic", recordIDs(records))); n != 40 {
					t.Errorf("%d keys in the topic", n)
				}
				verify(t, to.Store())
			})
		}
	})
}

func checkHeaders(t *testing.T, f bridge.Format, framed bool, r *kgo.Record) {
	t.Helper()
	h := map[string]string{}
	for _, x := range r.Headers {
		h[x.Key] = string(x.Value)
	}
	media := map[bridge.Format]string{bridge.Native: "application/json", bridge.CloudEvents: "application/cloudevents+json", bridge.CloudEventsBinary: "application/json"}[f]
	if h["content-type"] != media || h["event-type"] != "patient.enrolled" || h["correlation-id"] != "flow-"+string(r.Key) || h[bridge.HeaderStore] == "" ||
		!strings.HasPrefix(h["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-") || !strings.HasPrefix(h["event-id"], string(r.Key)+":") {
		t.Errorf("headers %v", h)
	}
	if (h["ce_specversion"] == "1.0") != (f == bridge.CloudEventsBinary) {
		t.Errorf("headers %v in format %s", h, f)
	}
	if _, _, err := confluent.SplitWire(r.Value); (err == nil) != framed {
		t.Errorf("value is framed: %v, wanted %v", err == nil, framed)
	}
}

// TestLoop: one bridge both ways on one topic, and a second store that sends all back: nothing goes round.
func TestLoop(t *testing.T) {
	eachBroker(t, func(t *testing.T, k *broker) {
		topic := name("loop")
		k.createTopic(t, topic, 12)
		one, two := openNew(t), openNew(t)
		b1, b2 := newBridge(t, one, "both", k.options()), newBridge(t, two, "both", k.options())
		o := bridge.Out{Patterns: []string{"patient.**"}, Topic: bridge.Topic(topic)}
		out(t, one, b1, o)
		out(t, two, b2, o)
		in(t, b1, bridge.In{Topics: []string{topic}})
		in(t, b2, bridge.In{Topics: []string{topic}})
		publish(t, one, 5, 20)
		e := enrolled("other", 0)
		if _, err := two.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		all := func() bool {
			return len(events(t, one.Store())) == 101 && len(events(t, two.Store())) == 101 &&
				b1.Status().PassedIn == 100 && b2.Status().PassedIn == 1 && b1.Status().PassedOut == 1 && b2.Status().PassedOut == 100
		}
		eventually(t, one.Store(), all)
		if n := len(k.read(t, topic)); n != 101 {
			t.Errorf("%d records in the topic for 101 events", n)
		}
		if s := b2.Status(); s.Stored != 100 || s.Duplicates != 0 || s.Sent != 1 || s.Refused != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// TestTriangle: what comes back by way of a third store is known by its id.
func TestTriangle(t *testing.T) {
	k := fake(t)
	a, b := openNew(t), openNew(t)
	there, back := name("there"), name("back")
	ab, ba := newBridge(t, a, "there", k.options()), newBridge(t, b, "back", k.options())
	k.createTopic(t, there, 12)
	k.createTopic(t, back, 12)
	out(t, a, ab, bridge.Out{Patterns: []string{"**"}, Topic: bridge.Topic(there)})
	fromA := newBridge(t, b, "from-a", k.options())
	in(t, fromA, bridge.In{Topics: []string{there}})
	out(t, b, ba, bridge.Out{Patterns: []string{"**"}, Topic: bridge.Topic(back)})
	fromB := newBridge(t, a, "from-b", k.options())
	in(t, fromB, bridge.In{Topics: []string{back}})
	publish(t, a, 5, 4)
	eventually(t, a.Store(), func() bool { return fromB.Status().Duplicates == 20 })
	if s := fromB.Status(); s.Stored != 0 {
		t.Errorf("%+v", s)
	}
	if n := len(events(t, a.Store())); n != 20 {
		t.Errorf("%d events", n)
	}
}

// TestPoison: records that cannot become events become dead letters, the others go on; a dead letter is retried when
// what was wrong is mended, or discarded; both are said in the log.
func TestPoison(t *testing.T) {
	eachBroker(t, func(t *testing.T, k *broker) {
		topic := name("poison")
		k.createTopic(t, topic, 1)
		p := openNew(t)
		good, other := enrolled("P1", 0), enrolled("P1", 0)
		other.Payload = []byte(`{"patientId":"P1","enrollmentId":"7","program":{"name":"another content"}}`)
		unknown := enrolled("P2", 0)
		unknown.Type = "patient.teleported"
		wrong := enrolled("P3", 0)
		wrong.Payload = []byte(`{"patientId":"secret-value","enrollmentId":12}`)
		reserved := enrolled("P4", 0)
		reserved.Type = "platform.group.paused"
		value := func(e event.Event) *kgo.Record { return &kgo.Record{Topic: topic, Value: e.AppendJSON(nil)} }
		with := func(r *kgo.Record, headers ...string) *kgo.Record {
			for i := 0; i < len(headers); i += 2 {
				r.Headers = append(r.Headers, kgo.RecordHeader{Key: headers[i], Value: []byte(headers[i+1])})
			}
			return r
		}
		for _, r := range []*kgo.Record{
			value(good),
			{Topic: topic, Value: nil},
			{Topic: topic, Value: []byte{}},
			{Topic: topic, Value: []byte("not json")},
			{Topic: topic, Value: []byte{0, 0, 0, 0, 1, '{', '}'}},
			{Topic: topic, Value: bytes.Repeat([]byte("x"), 900_000)},
			{Topic: topic, Value: []byte("{\"metadata\":{\"eventId\":\"\xff\"}}")},
			value(other), value(unknown), value(wrong), value(reserved),
			with(value(good), "content-type", "application/cloudevents-batch+json"),
			with(value(good), "content-type", "application/cloudevents+avro"),
			with(&kgo.Record{Topic: topic, Value: []byte("{}")}, "ce_specversion", "1.0"),
			value(good),
			value(enrolled("P1", 1)),
		} {
			k.produce(t, r) // one by one, so that the order is this one
		}
		b := newBridge(t, p, "poison", k.options())
		in(t, b, bridge.In{Topics: []string{topic}})
		eventually(t, p.Store(), func() bool { return b.Status().Stored == 2 })
		letters, err := b.Refused(t.Context(), "", 0)
		if err != nil {
			t.Fatal(err)
		}
		if s := b.Status(); len(letters) != 13 || s.Refused != 13 || s.Duplicates != 1 {
			t.Errorf("%d dead letters, %+v", len(letters), s)
		}
		rules := map[string]int64{}
		for _, l := range letters {
			rules[l.Rule] = l.Offset
			if strings.Contains(l.Error, "secret-value") || len(l.Error) > 520 {
				t.Errorf("a payload value, or too much, in %q", l.Error)
			}
		}
		for rule, offset := range map[string]int64{"event.different-content": 7, "platform.reserved": 10, "bridge.batch": 11, "bridge.format": 12, "bridge.frame": 4} {
			if rules[rule] != offset {
				t.Errorf("rule %s: offset %d, wanted %d; all: %v", rule, rules[rule], offset, rules)
			}
		}

		act := bus.Act{Actor: "maria", Reason: "test"}
		at := func(offset int64) bridge.Record { return bridge.Record{Topic: topic, Offset: offset} }
		if _, err := b.Retry(t.Context(), at(8), nil, act); err == nil || !strings.Contains(err.Error(), "patient.teleported") {
			t.Errorf("retried without its schema: %v", err)
		}
		registerTeleported(t, p)
		receipt, err := b.Retry(t.Context(), at(8), nil, act)
		if err != nil || receipt.EventID != "P2:0" {
			t.Fatalf("%+v, %v", receipt, err)
		}
		if err := b.Discard(t.Context(), at(3), act); err != nil {
			t.Fatal(err)
		}
		if err := b.Discard(t.Context(), at(3), act); !isErr(err, bridge.ErrNotRefused) {
			t.Errorf("discarded twice: %v", err)
		}
		if err := b.Discard(t.Context(), at(2), bus.Act{}); !isErr(err, bridge.ErrReason) {
			t.Errorf("discarded without a reason: %v", err)
		}
		if letters, err = b.Refused(t.Context(), topic, 0); err != nil || len(letters) != 11 {
			t.Errorf("%d dead letters left, %v", len(letters), err)
		}
		types, err := p.Store().Types(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if types["platform.record.admitted"] != 1 || types["platform.record.discarded"] != 1 {
			t.Errorf("the audit has %v", types)
		}
	})
}

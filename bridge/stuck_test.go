package bridge_test

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/carebus/carebus/bridge"
)

// TestStuckProducer: brokers that take nothing from a producer, whatever it tries, take it from another.
func TestStuckProducer(t *testing.T) {
	topic := name("stuck")
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, topic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	k := &broker{seeds: c.ListenAddrs()}
	var refused, tries atomic.Int64
	refused.Store(-1)
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := r.(*kmsg.ProduceRequest)
		const producerID = 43 // of a record batch
		id := int64(binary.BigEndian.Uint64(req.Topics[0].Partitions[0].Records[producerID:]))
		if refused.CompareAndSwap(-1, id); refused.Load() != id {
			return nil, nil, false
		}
		tries.Add(1)
		resp := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, t := range req.Topics {
			out := kmsg.NewProduceResponseTopic()
			out.Topic, out.TopicID = t.Topic, t.TopicID
			for _, p := range t.Partitions {
				one := kmsg.NewProduceResponseTopicPartition()
				one.Partition, one.ErrorCode = p.Partition, kerr.NotLeaderForPartition.Code
				out.Partitions = append(out.Partitions, one)
			}
			resp.Topics = append(resp.Topics, out)
		}
		return resp, nil, true
	})
	p := openNew(t)
	b := newBridge(t, p, "stuck", k.options())
	out(t, p, b, bridge.Out{Patterns: []string{"patient.**"}, Topic: bridge.Topic(topic), Timeout: 200 * time.Millisecond})
	if _, err := p.Publish(t.Context(), enrolled("P1", 0)); err != nil {
		t.Fatal(err)
	}
	if err := p.Bus().Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(k.read(t, topic)); got != 1 || tries.Load() == 0 {
		t.Errorf("%d records in the topic, after %d tries that were refused", got, tries.Load())
	}
}

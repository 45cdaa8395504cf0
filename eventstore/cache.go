package eventstore

import (
	"container/list"
	"context"
	"sync"

	"github.com/carebus/carebus/eventstore/driver"
)

// cache keeps the histories of streams that were read from their beginning. Events never change, so a history can only
// have grown: a read asks the engine for the stream's version and reads what is new. It holds up to limit bytes and
// forgets what was not read for longest.
type cache struct {
	limit int64

	mu      sync.Mutex
	bytes   int64
	streams map[string]*list.Element
	order   *list.List // of *history, last read first
}

type history struct {
	stream  string
	records []Record // version 1 and on; the slice grows, its elements never change
	bytes   int64
}

func newCache(limit int64) *cache {
	return &cache{limit: limit, streams: map[string]*list.Element{}, order: list.New()}
}

// recordOverhead is about what a record takes beside its texts and payload.
const recordOverhead = 400

// stream answers a read of a stream from its beginning.
func (c *cache) stream(ctx context.Context, d driver.Driver, q StreamQuery) ([]Record, error) {
	known := c.get(q.Stream)
	if len(known) == 0 {
		records, err := d.Stream(ctx, q)
		if err == nil && len(records) < q.Limit {
			c.put(q.Stream, records)
			records = clone(records)
		}
		return records, err
	}
	if len(known) < q.Limit {
		version, err := d.StreamVersion(ctx, q.Stream)
		if err != nil {
			return nil, err
		}
		if version > int64(len(known)) {
			limit := q.Limit - len(known)
			tail, err := d.Stream(ctx, StreamQuery{Stream: q.Stream, From: int64(len(known)) + 1, Limit: limit})
			if err != nil {
				return nil, err
			}
			known = append(known[:len(known):len(known)], tail...)
			if len(tail) < limit {
				c.put(q.Stream, known)
			}
		}
	}
	return clone(known[:min(len(known), q.Limit)]), nil
}

func (c *cache) get(stream string) []Record {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.streams[stream]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*history).records
}

func (c *cache) put(stream string, records []Record) {
	h := &history{stream: stream, records: records, bytes: int64(len(stream))}
	for i := range records {
		h.bytes += int64(len(records[i].Payload) + recordOverhead)
	}
	if h.bytes > c.limit/16 {
		return // one long history must not push out all others
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.streams[stream]; e != nil {
		old := e.Value.(*history)
		if len(old.records) >= len(records) {
			return // another reader was ahead
		}
		c.bytes -= old.bytes
		c.order.Remove(e)
	}
	c.streams[stream] = c.order.PushFront(h)
	c.bytes += h.bytes
	for c.bytes > c.limit {
		last := c.order.Back()
		old := last.Value.(*history)
		c.order.Remove(last)
		delete(c.streams, old.stream)
		c.bytes -= old.bytes
	}
}

// clone copies what a caller could change.
func clone(records []Record) []Record {
	size := 0
	for i := range records {
		size += len(records[i].Payload)
	}
	out := make([]Record, len(records))
	payloads := make([]byte, 0, size)
	for i, r := range records {
		begin := len(payloads)
		payloads = append(payloads, r.Payload...)
		r.Payload = payloads[begin:len(payloads):len(payloads)]
		out[i] = r
	}
	return out
}

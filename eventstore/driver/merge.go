package driver

import (
	"context"
	"fmt"
	"iter"
)

// Merged reads partitions from the offsets from (missing ones count as 0) up to the offsets to, in the order the events
// were recorded. It holds at most one batch of about batchBytes per partition in memory. match chooses event types; nil
// chooses all.
func Merged(ctx context.Context, d Driver, from, to []int64, match func(eventType string) bool, batchBytes int) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		type cursor struct {
			buf  []Record
			next int64
		}
		cs := make([]cursor, len(to))
		for p := range min(len(from), len(cs)) {
			cs[p].next = from[p]
		}
		for {
			best := -1
			for p := range cs {
				c := &cs[p]
				for len(c.buf) == 0 && c.next < to[p] {
					b, err := d.Partition(ctx, PartitionQuery{Partition: p, From: c.next, To: to[p], Match: match, Limit: 256, MaxBytes: batchBytes})
					if err != nil {
						yield(Record{}, err)
						return
					}
					if len(b.Records) == 0 && b.Next <= c.next {
						yield(Record{}, fmt.Errorf("%w: %s: partition %d has nothing at offset %d", ErrCorrupt, d.Info().Location, p, c.next))
						return
					}
					c.buf, c.next = b.Records, b.Next
				}
				if len(c.buf) > 0 && (best < 0 || c.buf[0].RecordedAt.Before(cs[best].buf[0].RecordedAt)) {
					best = p
				}
			}
			if best < 0 || !yield(cs[best].buf[0], nil) {
				return
			}
			cs[best].buf = cs[best].buf[1:]
		}
	}
}
